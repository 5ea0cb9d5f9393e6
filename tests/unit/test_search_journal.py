"""A search's journal survives a kill at any byte of a write, its locks outlive no holder, dead trials end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from agegender.files import FileLock, write_json
from optuna.trial import TrialState
from trainer.searches.search import RESULT, TRIAL, Trial, TrialResult, begun_numbers, trial_dir
from trainer.searches.study import Study, open_journal
from trainer.training.config import TrainingOptions

from tests.unit.test_searches import judge, search

# A process whose next write to the journal ends, by a signal, after so many bytes of it.
KILLED_WITHIN_A_WRITE = """
import resource, signal, sys
from pathlib import Path
from tests.unit.test_searches import search
from trainer.searches.study import Study
directory, extra = Path(sys.argv[1]), int(sys.argv[2])
study = Study(directory, search(), 99)
most = (directory / "journal.log").stat().st_size + extra
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
study.ask()
"""
HOLDS_THE_LOCK_WITHIN_A_LINE = """
import sys, time
from pathlib import Path
from trainer.searches.study import JournalLock
path = Path(sys.argv[1])
JournalLock(path).acquire()
with path.open("ab") as file:
    file.write(b'{"op_code":4,"worker')
print("holds", flush=True)
time.sleep(600)
"""


def states(directory: Path) -> list[TrialState]:
    """Return the states as a process reads them that has just started."""
    return [trial.state for trial in Study(directory, search(), 50)._study.get_trials()]


def program(text: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", text, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_search_continues_after_the_journal_was_cut_at_every_byte_of_its_last_record(tmp_path: Path) -> None:
    judge(tmp_path, 0, [1.0, 2.0])
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        journal.write_bytes(whole[:last])
        open_since = Study(tmp_path, search(), 1)  # a worker that has it open while another is killed
        with journal.open("ab") as file:
            file.write(whole[last:cut])
        assert open_since.ask()[0] >= 1
        assert judge(tmp_path, 2, [3.0, 3.0])[0] == 2
        lines = journal.read_bytes().splitlines(keepends=True)
        assert b"".join(lines).startswith(whole[:last])
        assert all(line.endswith(b"\n") and json.loads(line) for line in lines)
        # What the lost record reported is reported again.
        again = Study(tmp_path, search(), 0)
        again.end(0, 1.5, TrialState.COMPLETE)
        assert again._study.get_trials()[0].value == 1.5


@pytest.mark.parametrize("extra", [1, 20, 60])
def test_search_continues_after_a_worker_was_killed_within_a_write(tmp_path: Path, extra: int) -> None:
    judge(tmp_path, 0, [1.0])
    before = (tmp_path / "journal.log").read_bytes()
    open_since = Study(tmp_path, search(), 1)
    killed = program(KILLED_WITHIN_A_WRITE, str(tmp_path), str(extra))
    assert killed.wait(120) == -signal.SIGXFSZ
    torn = (tmp_path / "journal.log").read_bytes()
    assert torn.startswith(before) and not torn.endswith(b"\n")
    assert (tmp_path / "journal.log.lock").exists()
    began = time.monotonic()
    open_since.ask()
    assert time.monotonic() - began < 5  # the lock of a dead process on this machine is not waited for
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.RUNNING]


def test_search_continues_after_sigkill_of_the_process_that_held_the_lock(tmp_path: Path) -> None:
    judge(tmp_path, 0, [1.0])
    process = program(HOLDS_THE_LOCK_WITHIN_A_LINE, str(tmp_path / "journal.log"))
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    results: list[tuple[int, float]] = []
    waiting = threading.Thread(target=lambda: results.append(judge(tmp_path, 1, [2.0, 2.0])))
    waiting.start()
    waiting.join(1.5)
    assert waiting.is_alive() and not results  # the lock of a living process is waited for
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    waiting.join(20)
    assert [parts for parts, _ in results] == [2]
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.COMPLETE]


def test_line_that_an_earlier_release_joined_to_a_torn_one_is_readable_again(tmp_path: Path) -> None:
    judge(tmp_path, 0, [1.0])
    journal = tmp_path / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + b'{"op_code":4,"wor' + lines[-1])
    judge(tmp_path, 1, [2.0])
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.COMPLETE]


def test_lock_from_elsewhere_is_stale_only_when_it_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    stop = threading.Event()

    def handed_around_elsewhere() -> None:
        number = 0
        while not stop.wait(0.05):
            number += 1
            path.write_bytes(f"another-boot/pid:[1] 1 1 {number}\n".encode())

    path.write_bytes(b"another-boot/pid:[1] 1 1 0\n")
    elsewhere = threading.Thread(target=handed_around_elsewhere)
    lock = FileLock(path, stale=0.5)
    taken = threading.Thread(target=lock.acquire)
    elsewhere.start()
    taken.start()
    taken.join(1.5)
    assert taken.is_alive()  # for three times as long as a stale lock
    stop.set()
    elsewhere.join()
    taken.join(5)
    assert not taken.is_alive()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_an_earlier_process_of_the_same_number_is_stale_at_once(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "a.lock")
    lock.acquire()
    machine, pid, _, drawn = (tmp_path / "a.lock").read_text().split()
    (tmp_path / "a.lock").write_text(f"{machine} {pid} 1 {drawn}\n")
    began = time.monotonic()
    FileLock(tmp_path / "a.lock").acquire()
    assert time.monotonic() - began < 2


def test_many_processes_append_in_turn(tmp_path: Path) -> None:
    judge(tmp_path, 0, [1.0])
    text = "import sys; from pathlib import Path; from tests.unit.test_searches import judge\n"
    text += "for n in range(5): judge(Path(sys.argv[1]), int(sys.argv[2]) + n, [1.0, 2.0])"
    processes = [program(text, str(tmp_path), str(10 * (number + 1))) for number in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert states(tmp_path) == [TrialState.COMPLETE] * 16
    assert [path.name for path in tmp_path.iterdir()] == ["journal.log"]


def named(data_dir: Path, number: int, study_number: int) -> Path:
    directory = trial_dir(data_dir, "search-1", number)
    trial = Trial(number=study_number, values={}, options=TrainingOptions())
    write_json(directory / TRIAL, trial.model_dump(mode="json"))
    return directory


def test_running_trial_that_no_file_names_is_dead_and_ends_when_the_next_begins(tmp_path: Path) -> None:
    directory = tmp_path / "searches" / "search-1"
    Study(directory, search(), 0).ask()  # and killed before trial.json was there
    Study(directory, search(), 1).ask()
    named(tmp_path, 1, 1)  # killed after that: its job continues
    Study(directory, search(), 2).ask()
    over = named(tmp_path, 2, 2)
    write_json(over / RESULT, TrialResult(state="failed", problem="of itself").model_dump())
    study = Study(directory, search(), 3)
    with study.beginning():
        study.fail_dead(begun_numbers(tmp_path, search()))
        assert study.ask()[0] == 3
    assert states(directory) == [TrialState.FAIL, TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]


def test_trial_that_failed_is_judged_when_it_is_resumed(tmp_path: Path) -> None:
    study = Study(tmp_path, search(), 0)
    number, drawn = study.ask()
    study.is_worse(number, 0, 2.0)
    study.end(number, None, TrialState.FAIL)
    resumed = Study(tmp_path, search(), 0)
    assert not any(resumed.is_worse(number, part, 2.0) for part in range(3))
    for _ in range(2):  # killed between that and its result.json, reported again
        resumed.end(number, 2.0, TrialState.COMPLETE)
    failed, judged = resumed._study.get_trials()
    assert (failed.state, judged.state, judged.value) == (TrialState.FAIL, TrialState.COMPLETE, 2.0)
    assert judged.params == drawn


def test_trial_that_has_ended_stays_what_it_was(tmp_path: Path) -> None:
    judge(tmp_path, 0, [1.0])
    Study(tmp_path, search(), 0).end(0, 5.0, TrialState.PRUNED)
    assert states(tmp_path) == [TrialState.COMPLETE]
    assert open_journal(tmp_path / "journal.log") is not None
