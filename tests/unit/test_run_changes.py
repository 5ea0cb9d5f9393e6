"""Changes of a run's record that meet: none is lost, and no deleted run comes back."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agegender.errors import Problem
from trainer.extraction.extraction import Extraction, advance, current_attempt, load_extraction
from trainer.extraction.merge import run_import
from trainer.extraction.plan import fail, run_plan
from trainer.jobs import EXPERIMENTS, EXTRACTIONS, SEARCHES
from trainer.runs.attempt import Attempt, Cancelled
from trainer.runs.run import Kind, Run
from trainer.training.config import TrainingOptions

from tests.support import made_extraction
from tests.support.made_experiment import made_experiment
from tests.unit.test_searches import search

EXTRACTION = made_extraction.EXTRACTION.model_copy(update={"run": "here"})
RUNS: dict[str, tuple[Kind[Any, Any], Run]] = {
    "experiment": (EXPERIMENTS, made_experiment([0, 1], TrainingOptions(), name="made")),
    "search": (SEARCHES, search()),
    "extraction": (EXTRACTIONS, EXTRACTION),
}
WAITS = 0.4  # seconds after which whoever does not heed a lock would have passed it


@pytest.fixture(params=list(RUNS))
def run(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Kind[Any, Any], str]:
    kind, run = RUNS[request.param]
    kind.create(tmp_path, kind.name_of(run), lambda: run)
    return kind, kind.name_of(run)


class Meeting:
    """Something that holds a record's lock until it is let go, and something else that then wants it."""

    def __init__(self, first: Callable[[Callable[[], None]], object], second: Callable[[], object]) -> None:
        inside, let_go = threading.Event(), threading.Event()
        self.errors: list[BaseException] = []

        def pause() -> None:
            inside.set()
            assert let_go.wait(20)

        one = threading.Thread(target=self._do, args=(lambda: first(pause),))
        other = threading.Thread(target=self._do, args=(second,))
        one.start()
        assert inside.wait(20)
        other.start()
        other.join(WAITS)
        self.second_waited = other.is_alive()
        let_go.set()
        one.join(20)
        other.join(20)
        assert not one.is_alive() and not other.is_alive()

    def _do(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (Problem, Cancelled) as error:
            self.errors.append(error)


def test_two_changes_of_a_record_that_meet_are_both_kept(
    run: tuple[Kind[Any, Any], str], tmp_path: Path
) -> None:
    kind, name = run

    def slow(pause: Callable[[], None]) -> None:
        def change(before: Any) -> Any:
            pause()
            return before.model_copy(update={"created": before.created.replace(year=2001)})

        kind.change(tmp_path, name, change)

    met = Meeting(slow, lambda: kind.change(tmp_path, name, partial(kind.cancelled, tmp_path)))
    assert met.second_waited and met.errors == []
    after = kind.load(tmp_path, name)
    assert after.created.year == 2001 and after.cancelled


def test_run_that_is_deleted_while_it_is_changed_stays_deleted(
    run: tuple[Kind[Any, Any], str], tmp_path: Path
) -> None:
    kind, name = run
    met = Meeting(
        lambda pause: kind.delete(tmp_path, name, lambda _: pause()),
        lambda: kind.change(tmp_path, name, partial(kind.resumed, tmp_path)),
    )
    (error,) = met.errors
    assert met.second_waited and isinstance(error, Problem) and error.slug == "not-found"
    record = kind.record_path(tmp_path, name)
    assert not record.exists() and not record.with_name(f".{record.name}.lock").exists()


def test_run_stays_if_it_must_not_be_deleted_or_its_change_is_refused(
    run: tuple[Kind[Any, Any], str], tmp_path: Path
) -> None:
    kind, name = run
    before = kind.load(tmp_path, name)

    def refuse(_: Any) -> Any:
        raise Problem("still-running", 409, "It is running.")

    for method in (kind.delete, kind.change):
        with pytest.raises(Problem, match="It is running"):
            method(tmp_path, name, refuse)
    assert kind.load(tmp_path, name) == before
    assert kind.change(tmp_path, name, partial(kind.cancelled, tmp_path)).cancelled  # the lock is free


def test_request_that_is_repeated_meanwhile_starts_no_second_run(
    run: tuple[Kind[Any, Any], str], tmp_path: Path
) -> None:
    kind, name = run
    other = kind.load(tmp_path, name).model_copy(update={"cancelled": True})
    kind.record_path(tmp_path, name).unlink()

    def complete() -> Any:  # the repeated request is complete first
        kind.create(tmp_path, name, lambda: other)
        return other.model_copy(update={"cancelled": False})

    assert kind.create(tmp_path, name, complete).cancelled
    assert kind.load(tmp_path, name).cancelled


class CancelledAfterItsCheck(Attempt):
    """An attempt that finds itself needed, and is cancelled before it stores its next state."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / "attempt")
        self._data_dir = data_dir

    def check(self) -> None:
        super().check()
        EXTRACTIONS.change(self._data_dir, EXTRACTION.name, partial(EXTRACTIONS.cancelled, self._data_dir))


@pytest.mark.parametrize("step", [run_plan, run_import])
def test_cancellation_between_the_last_check_and_the_change_of_state_is_kept(
    step: Callable[[Path, Extraction, Attempt], None], tmp_path: Path
) -> None:
    EXTRACTIONS.create(tmp_path, EXTRACTION.name, lambda: EXTRACTION)
    (tmp_path / "faces" / "labels.csv").write_text("file,age,gender\na.jpg,3,f\n")
    (tmp_path / "faces" / "a.jpg").write_bytes(b"x")
    sample = {"image_path": "wiki_crop/17/1_1981.jpg", "age": 3, "gender": "f", "embedding": np.ones(4, "f4")}
    np.save(tmp_path / "faces" / "data.npy", np.array([sample] * 10, dtype=object), allow_pickle=True)
    with pytest.raises(Cancelled):
        step(tmp_path, EXTRACTION, CancelledAfterItsCheck(tmp_path))
    after = load_extraction(tmp_path, EXTRACTION.name)
    assert (after.state, after.cancelled) == ("cancelled", True)


@pytest.mark.parametrize("ends", ["cancelled", "deleted", "started again"])
def test_step_of_an_attempt_that_is_over_changes_nothing(ends: str, tmp_path: Path) -> None:
    EXTRACTIONS.create(tmp_path, EXTRACTION.name, lambda: EXTRACTION)
    running = current_attempt(tmp_path, EXTRACTION.name, EXTRACTION.attempt_id)
    assert running is not None
    EXTRACTIONS.change(tmp_path, running.name, partial(EXTRACTIONS.cancelled, tmp_path))
    if ends == "deleted":
        EXTRACTIONS.delete(tmp_path, running.name, lambda _: None)
    elif ends == "started again":
        EXTRACTIONS.start(tmp_path, EXTRACTION)
    record = EXTRACTIONS.record_path(tmp_path, running.name)
    before = record.read_bytes() if record.exists() else None
    for change in (
        lambda: advance(tmp_path, running, state="finished"),
        lambda: fail(tmp_path, running, Problem("no-faces", 422, "There are none.")),
    ):
        with pytest.raises(Cancelled):
            change()
    assert (record.read_bytes() if record.exists() else None) == before


def test_change_of_state_waits_for_a_cancellation_that_is_being_stored(tmp_path: Path) -> None:
    EXTRACTIONS.create(tmp_path, EXTRACTION.name, lambda: EXTRACTION)

    def slow(pause: Callable[[], None]) -> None:
        def change(before: Extraction) -> Extraction:
            pause()
            return EXTRACTIONS.cancelled(tmp_path, before)

        EXTRACTIONS.change(tmp_path, EXTRACTION.name, change)

    met = Meeting(slow, lambda: advance(tmp_path, EXTRACTION, state="merging"))
    assert met.second_waited and [type(error) for error in met.errors] == [Cancelled]
    assert load_extraction(tmp_path, EXTRACTION.name).state == "cancelled"
