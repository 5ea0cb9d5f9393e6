"""Files that commands write: none is overwritten unasked; links, pipes and devices stay what they are."""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agegender.errors import not_found
from fastapi import Response

from tests.support.command_line import Run
from tests.support.service_double import Service, json_answer

# Each command that writes one file, the option, and the answers that come before its content.
COMMANDS: list[tuple[tuple[str, ...], str, list[Any]]] = [
    (("report", "e1"), "--output", []),
    (("predictions", "e1"), "-o", []),
    (("export", "e1", "--onnx"), "-o", []),
    (("duplicates", "six"), "--sheet", [[]]),
]
Writing = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=COMMANDS, ids=lambda one: one[0][0])
def writing(request: pytest.FixtureRequest, trainer: Service, run: Run) -> Writing:
    """Run a command that writes the content `new` to a file."""
    arguments, option, before = request.param

    def write(path: Path, *more: str) -> tuple[int, str, str]:
        trainer.answers = []
        trainer.will_answer(*before, lambda: Response(b"new"))
        return run(*arguments, option, str(path), *more)

    return write


def test_existing_file_is_kept_unless_overwriting_is_requested(writing: Writing, tmp_path: Path) -> None:
    path = tmp_path / "out [b].md"
    path.write_bytes(b"old")
    path.chmod(0o640)
    code, _, err = writing(path)
    assert code == 2 and "would be overwritten; choose another name, or add --overwrite" in " ".join(
        err.split()
    )
    assert path.read_bytes() == b"old"
    code, _, err = writing(path, "--overwrite")
    assert code == 0 and "Written to" in err and "out [b].md" in err
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [*tmp_path.iterdir()] == [path]


def test_link_stays_a_link_and_its_target_is_written(writing: Writing, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    target, link = tmp_path / "inner" / "target.csv", tmp_path / "link.csv"
    link.symlink_to("inner/target.csv")
    target.write_bytes(b"old")
    assert writing(link)[0] == 2 and target.read_bytes() == b"old"
    assert writing(link, "--overwrite")[0] == 0
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_pipe_and_device_are_written_directly(writing: Writing, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert writing(pipe)[0] == 0
    reader.join(10)
    assert received == [b"new"] and stat.S_ISFIFO(pipe.stat().st_mode)
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    assert writing(null)[0] == 0
    assert null.is_symlink() and stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("place", ["folder", "missing/out", "file/out", "x" * 300, "loop"])
def test_path_that_cannot_be_written_is_a_problem_before_any_work(
    writing: Writing, trainer: Service, tmp_path: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    code, out, err = writing(tmp_path / place, "--overwrite")
    assert code == 1 and err.startswith("Output not writable.") and "cannot be written: " in err
    assert (out, sorted(tmp_path.iterdir())) == ("", before)
    assert len(trainer.answers) == 1  # the content was not asked for


def test_problem_of_an_output_is_a_document_for_scripts(run: Run, tmp_path: Path) -> None:
    code, _, err = run("predictions", "e1", "-o", str(tmp_path), "--json")
    assert code == 1 and json.loads(err)["type"] == "urn:age-gender:problem:output-not-writable"


def test_failed_request_leaves_the_old_file_and_no_new_one(
    trainer: Service, run: Run, tmp_path: Path
) -> None:
    trainer.will_answer(*[json_answer(not_found("experiment", "e1").document(), 404)] * 2)
    assert run("predictions", "e1", "-o", str(tmp_path / "new.csv"))[0] == 1
    (tmp_path / "old.csv").write_bytes(b"old")
    assert run("predictions", "e1", "-o", str(tmp_path / "old.csv"), "--overwrite")[0] == 1
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("old.csv", b"old")]


def test_standard_output_as_a_file_is_appended_to_and_not_replaced(
    trainer: Service, run: Run, tmp_path: Path
) -> None:
    trainer.will_answer(lambda: Response(b"new\n"))
    log = tmp_path / "log"
    log.write_text("before\n")
    node = log.stat().st_ino
    link = tmp_path / "link"  # for if it is replaced nevertheless
    link.symlink_to("/dev/stdout")
    command = [sys.executable, "-m", "agegender_client.cli.app", "predictions", "e1", "-o", str(link)]
    with log.open("a") as file:
        subprocess.run(command, stdout=file, check=True, timeout=60)
    assert log.read_text() == "before\nnew\n" and log.stat().st_ino == node and link.is_symlink()
