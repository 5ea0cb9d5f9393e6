"""`agegender predict` if images fail, the service disappears, or Ctrl-C: what was answered is not lost."""

import csv
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agegender.errors import Problem
from anyio import to_thread
from fastapi import FastAPI, Request, Response

from tests.support.command_line import SPACE, Run, command_line
from tests.support.service_double import json_answer
from tests.support.serving import serving, until

ANSWER = {
    "space": SPACE, "models": {}, "images": [{"width": 4, "height": 4, "faces": []}], "timings": {}
}  # fmt: skip


class Predictor:
    """A predictor that finds no face. `faults` has what happens instead, by the text in an image."""

    def __init__(self) -> None:
        self.faults: dict[bytes, Callable[[], Response]] = {}
        self.answered = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/age-gender")
        async def predict(request: Request) -> Response:
            body = await request.body()
            for text, fault in self.faults.items():
                if text in body:
                    return await to_thread.run_sync(fault)
            self.answered += 1
            png = request.headers["accept"] == "image/png"
            return Response(b"png") if png else json_answer(ANSWER)()

        return app


def failing(slug: str, status: int) -> Callable[[], Response]:
    return json_answer(Problem(slug, status, f"as {slug}").document(), status)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture
def run(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    with serving(predictor.app()) as url:
        yield command_line(monkeypatch, capsys, predictor=url)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve files that pass for images."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.jpg").write_bytes(b"\xff\xd8\xff image %02d." % number)
    return folder


def rows(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["file"]: row["problem"] for row in csv.DictReader(file)}


def entries(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


@pytest.mark.parametrize(("slug", "status"), [("deadline-exceeded", 504), ("internal-error", 500)])
def test_error_of_one_image_is_reported_with_its_name_and_the_others_are_answered(
    predictor: Predictor, run: Run, images: Path, tmp_path: Path, slug: str, status: int
) -> None:
    predictor.faults[b"image 02."] = failing(slug, status)
    code, out, _ = run("predict", str(images))
    lines = out.splitlines()
    assert code == 1 and sum("no face" in line for line in lines) == 11
    assert [line for line in lines if "02.jpg" in line and f"as {slug}" in line]
    code, out, err = run("predict", str(images), "--json", "--csv", str(tmp_path / "t.csv"))
    (failed,) = [one for one in map(json.loads, out.splitlines()) if "problem" in one]
    assert (code, err, Path(failed["file"]).name) == (1, "", "02.jpg") and failed["problem"][
        "status"
    ] == status
    assert len(rows(tmp_path / "t.csv")) == 12 and rows(tmp_path / "t.csv")["02.jpg"] == f"as {slug}"


def test_service_that_fails_for_every_image_ends_the_command(
    predictor: Predictor, run: Run, images: Path
) -> None:
    for number in range(12, 60):
        (images / f"{number}.jpg").write_bytes(b"\xff\xd8\xff image %d." % number)
    for number in range(2, 60):
        predictor.faults[b"image %02d." % number] = failing("internal-error", 500)
    code, out, err = run("predict", str(images))
    assert code == 1 and out.count("no face") == 2
    assert "5 images failed in a row, the last one with: as internal-error" in err
    assert "of 60 images were answered; the first without an answer is" in err


def test_copy_that_cannot_be_drawn_or_written_does_not_lose_the_answer(
    run: Run, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "03-annotated.png").mkdir(parents=True)
    arguments = ("predict", str(images), "--annotate", str(tmp_path / "out"))
    code, out, err = run(*arguments)
    assert code == 1 and out.count("no face") == 12
    assert "03.jpg: no annotated copy." in err and "cannot be written: it is a folder" in err
    code, out, _ = run(*arguments, "--overwrite", "--json")
    (failed,) = [one for one in map(json.loads, out.splitlines()) if "annotate_problem" in one]
    assert Path(failed["file"]).name == "03.jpg" and "annotated" not in failed and failed["faces"] == []


def test_service_that_disappears_leaves_the_answers_until_then(
    predictor: Predictor, run: Run, images: Path, tmp_path: Path
) -> None:
    def gone() -> Response:
        until(lambda: predictor.answered >= 5, "the images before are answered")
        return failing("not-ready", 503)()

    for number in range(5, 12):
        predictor.faults[b"image %02d." % number] = gone
    code, out, err = run("predict", str(images))
    assert code == 3 and out.count("no face") == 5 and "04.jpg" in out
    assert "5 of 12 images were answered; the first without an answer is" in err and "05.jpg" in err
    table = tmp_path / "t.csv"
    table.write_text("old")
    predictor.answered = 0
    code, out, err = run("predict", str(images), "--csv", str(table), "--overwrite", "--json")
    assert code == 3 and json.loads(err)["detail"].endswith(f"are in {tmp_path / 't.partial.csv'}.")
    assert table.read_text() == "old" and len(rows(tmp_path / "t.partial.csv")) == len(out.splitlines()) == 5
    predictor.answered = 0
    assert run("predict", str(images), "--csv", str(tmp_path / "new.csv"))[0] == 3
    predictor.answered = 0
    assert run("predict", str(images), "--csv", str(tmp_path / "new.csv"))[0] == 3  # a retry is not refused
    assert entries(tmp_path) == ["in", "new.partial-2.csv", "new.partial.csv", "t.csv", "t.partial.csv"]


def test_interruption_prints_what_was_answered_also_after_an_image_that_takes_long(
    predictor: Predictor, run: Run, images: Path, tmp_path: Path
) -> None:
    ended = threading.Event()

    def interrupt() -> Response:
        until(lambda: predictor.answered >= 11, "the other images are answered")
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        ended.wait(20)
        return failing("deadline-exceeded", 504)()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if pytest runs in the background
    predictor.faults[b"image 01."] = interrupt
    started = time.monotonic()
    try:
        code, out, err = run("predict", str(images), "--csv", str(tmp_path / "t.csv"))
    finally:
        ended.set()
    assert code == 1 and out == "" and time.monotonic() - started < 15
    assert "Incomplete. 11 of 12 images were answered" in err and "01.jpg" in err and "t.partial.csv" in err
    kept = rows(tmp_path / "t.partial.csv")
    assert len(kept) == 11 and "01.jpg" not in kept and not (tmp_path / "t.csv").exists()


def test_failed_command_without_rows_leaves_nothing(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGEGENDER_PREDICTOR_URL", "http://127.0.0.1:9")
    table = tmp_path / "t.csv"
    code, out, err = run("predict", str(images), "--csv", str(table))
    assert (code, out, entries(tmp_path)) == (3, "", ["in"]) and "images were answered" not in err
    table.write_text("old")
    assert run("predict", str(images), "--csv", str(table), "--overwrite")[0] == 3
    assert table.read_text() == "old" and entries(tmp_path) == ["in", "t.csv"]


def test_table_that_cannot_get_its_name_keeps_its_rows(
    predictor: Predictor, run: Run, images: Path, tmp_path: Path
) -> None:
    def taken() -> Response:
        (tmp_path / "t.csv").mkdir()
        return failing("deadline-exceeded", 504)()

    predictor.faults[b"image 11."] = taken
    code, _, err = run("predict", str(images), "--csv", str(tmp_path / "t.csv"))
    assert code == 1 and "cannot be written" in err and "t.partial.csv" in err
    assert len(rows(tmp_path / "t.partial.csv")) == 12 and entries(tmp_path) == [
        "in",
        "t.csv",
        "t.partial.csv",
    ]


def test_table_goes_through_a_pipe(run: Run, images: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[dict[str, str]] = []
    reader = threading.Thread(target=lambda: received.append(rows(pipe)), daemon=True)
    reader.start()
    assert run("predict", str(images), "--csv", str(pipe))[0] == 0
    reader.join(10)
    assert len(received[0]) == 12 and pipe.is_fifo()


def test_image_of_a_folder_that_cannot_be_read_ends_with_one(run: Run, images: Path) -> None:
    (images / "notes.txt").write_text("no image")
    assert run("predict", str(images))[0] == 0
    (images / "lost.jpg").symlink_to(images / "nowhere.jpg")
    code, out, err = run("predict", str(images))
    assert code == 1 and out.count("no face") == 12 and "cannot be read: No such file" in err
