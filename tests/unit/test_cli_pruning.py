"""`agegender prune` lists, asks, and deletes only what was confirmed."""

import json
from typing import Any

import pytest

from tests.support.command_line import Run
from tests.support.service_double import Service

OLD = {"kind": "experiment", "id": "old", "changed": "2026-01-02T03:04:05Z", "size": 31_900_000, "kept": None}
SERVED = {**OLD, "id": "served", "kept": "it is served"}


def pruning(*found: dict[str, Any], dry_run: bool = True) -> dict[str, Any]:
    freed = sum(one["size"] for one in found if one["kept"] is None)
    return {"dry_run": dry_run, "freed": freed, "found": list(found)}


def test_dry_run_lists_and_deletes_nothing(trainer: Service, run: Run) -> None:
    trainer.will_answer(pruning(OLD, SERVED))
    code, out, _ = run("prune", "--older-than", "2w", "--dry-run")
    assert code == 0
    assert "2026-01-02" in out and "31.9 MB" in out and "kept: it is served" in out
    assert trainer.queries == ["older_than_days=14&dry_run=true"]


def test_deletion_needs_a_confirmation(trainer: Service, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer.will_answer(pruning(OLD))
    code, _, err = run("prune", "--older-than", "30d")
    assert code == 2 and "--yes" in err  # no terminal, so nobody can be asked
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, code, requests in (("n", 1, 2), ("y", 0, 4)):
        trainer.will_answer(pruning(OLD))
        trainer.will_answer(*([pruning(OLD, dry_run=False)] if answer == "y" else []))
        monkeypatch.setattr("typer.confirm", lambda *a, answer=answer, **b: answer == "y")
        assert run("prune", "--older-than", "30d")[0] == code
        assert len(trainer.requests) == requests
    assert trainer.queries[-1] == "older_than_days=30&dry_run=false"


def test_yes_deletes_without_a_question_and_prints_json(trainer: Service, run: Run) -> None:
    trainer.will_answer(pruning(OLD), pruning(OLD, dry_run=False))
    code, out, _ = run("prune", "--older-than", "30d", "--yes", "--json")
    assert code == 0 and json.loads(out)["freed"] == 31_900_000


def test_nothing_old_is_no_error(trainer: Service, run: Run) -> None:
    trainer.will_answer(pruning(SERVED))
    code, out, _ = run("prune", "--older-than", "30d")
    assert code == 0 and "Nothing to delete." in out and len(trainer.requests) == 1


@pytest.mark.parametrize("age", ["30", "d", "0d", "-3d", "1y", "three weeks", ""])
def test_other_durations_are_rejected(run: Run, age: str) -> None:
    code, _, err = run("prune", f"--older-than={age}")
    assert code == 2 and "30d" in err
