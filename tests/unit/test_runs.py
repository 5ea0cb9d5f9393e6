"""The lifecycle that all kinds of runs share: attempts, their limits and who may enqueue."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trainer
from agegender.errors import Problem
from agegender.files import read_json
from trainer.runs.attempt import (
    MAX_ATTEMPTS,
    PROGRESS,
    Attempt,
    Cancelled,
    Outcome,
    PutOff,
    Superseded,
    TooManyAttempts,
    carry_out,
    clear_failure,
    store_failure,
)

PACKAGE = Path(trainer.__file__).parent
DOTTED = re.compile(r"trainer(?:\.\w+){2,}")
TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


@dataclass
class Epoch:
    epoch: int
    epochs: int = 250
    train_loss: float = 1.0
    validation_loss: float | None = None
    members_running: int = 1


def test_attempt_gives_way_to_a_newer_one_and_to_a_cancellation(tmp_path: Path) -> None:
    needed = True
    first = Attempt(tmp_path, lambda: needed)
    first.check()
    second = Attempt(tmp_path, lambda: needed)
    with pytest.raises(Superseded):
        first.check()
    with pytest.raises(Superseded):
        first.write({"done": 3}, last=True)
    second.check()
    needed = False
    with pytest.raises(Cancelled):
        second.check()
    assert read_json(tmp_path / PROGRESS)["attempts"] == 2


def test_progress_is_written_now_and_then_and_at_the_end_with_a_thinned_curve(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    for epoch in range(1, 251):
        attempt.report(Epoch(epoch))
        if epoch == 2:
            assert read_json(tmp_path / PROGRESS)["epoch"] == 1
    written = read_json(tmp_path / PROGRESS)
    assert (written["epoch"], written["seconds_left"], written["attempts"]) == (250, 0, 1)
    assert len(written["curve"]) <= 100 and written["curve"][-1][0] >= 249
    resumed = Attempt(tmp_path)
    resumed.report(Epoch(100))
    assert read_json(tmp_path / PROGRESS)["curve"][-1][0] <= 100


def test_step_that_failed_after_too_many_attempts_gets_as_many_when_it_is_resumed(tmp_path: Path) -> None:
    for _ in range(2):
        for _ in range(MAX_ATTEMPTS):
            Attempt(tmp_path)
        assert carry_out(lambda: Attempt(tmp_path), store_failure(tmp_path)) is Outcome.FAILED
        clear_failure(tmp_path)
    assert read_json(tmp_path / PROGRESS)["attempts"] == 2 * MAX_ATTEMPTS


def test_outcome_of_an_attempt(tmp_path: Path) -> None:
    failures: list[Problem] = []

    def ends(error: BaseException | None) -> Outcome:
        def work() -> None:
            if error is not None:
                raise error

        return carry_out(work, failures.append, step="x")

    assert ends(None) is Outcome.DONE
    assert ends(PutOff("the proxy is away")) is Outcome.GIVEN_UP
    assert ends(Cancelled()) is Outcome.GIVEN_UP
    assert ends(OSError(28, "No space left on device")) is Outcome.GIVEN_UP
    assert failures == []
    assert ends(ValueError("odd")) is Outcome.FAILED
    assert ends(Problem("bad-dataset", 409, "It is gone.")) is Outcome.FAILED
    assert ends(TooManyAttempts()) is Outcome.FAILED
    assert [problem.slug for problem in failures] == ["job-failed", "bad-dataset", "jobs-lost"]
    assert failures[0].detail == "ValueError: odd"


def test_only_the_scheduler_enqueues() -> None:
    callers = {
        str(path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("enqueue")
    }
    assert callers == {"runs/scheduler.py"}


def test_records_change_only_where_their_lock_is_held() -> None:
    savers = {"save_experiment", "save_search", "save_extraction"}
    found = set()
    for path, tree in TREES.items():
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for call in (node.func for node in ast.walk(function) if isinstance(node, ast.Call)):
                of_kind = isinstance(call, ast.Attribute) and call.attr == "save" and names_kind(call.value)
                if of_kind or (isinstance(call, ast.Name) and call.id in savers):
                    found.add((str(path), function.name))
    assert found == {
        ("experiments/steps.py", "save"),
        ("searches/study.py", "save"),
        ("extraction/plan.py", "save"),
        ("extraction/extraction.py", "advance"),
        ("runs/run.py", "create"),
        ("runs/run.py", "change"),
    }


def names_kind(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and (value.id in ("self", "kind") or value.id.isupper())


def test_runs_know_no_kind_and_no_string_names_a_function() -> None:
    for path, tree in TREES.items():
        if path.parent.name == "runs":
            imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            own = {module for module in imported if module is not None and module.startswith("trainer.")}
            assert all(module.startswith(("trainer.runs.", "trainer.settings")) for module in own), path
        assert not [text for text in strings(tree) if DOTTED.fullmatch(text)], path


def strings(tree: Any) -> list[str]:
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [value for value in constants if isinstance(value, str)]
