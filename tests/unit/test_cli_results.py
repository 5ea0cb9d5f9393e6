"""The command line for finished runs: tables, evaluations, export, deletion."""

import io
import json
from pathlib import Path

import pytest
from agegender.errors import Problem
from fastapi import Response

from tests.support.command_line import EXPERIMENT, SPACE, Run, events
from tests.support.service_double import Service, json_answer

SEARCH = {"id": "search-1", "state": "finished", "datasets": ["Adience"]}
REFUSAL = Problem("promotion-needs-confirmation", 409, "The head that is served saw 19,701 faces.")
EVALUATION = {
    "id": "evaluation-20261128-093012-5f0c77",
    "state": "finished",
    "dataset": "ours",
    "space": SPACE,
    "versions": {"age": "v1-age"},
    "results": {
        "age": {
            "version": "v1-age",
            "faces": 312,
            "exact_faces": 90,
            "mae": 6.41,
            "coverage": 0.824,
            "coverage_after": 0.9,
        }
    },
    "recommendation": ["The intervals are too narrow here [so far]."],
}


def test_predictions_are_printed_as_csv_or_written_in_the_format_of_the_file(
    trainer: Service, run: Run, tmp_path: Path
) -> None:
    trainer.will_answer(*[lambda: Response(b"file,mean\r\na,1\r\n")] * 2)
    assert run("predictions", "e1")[1] == "file,mean\r\na,1\n"
    assert run("predictions", "e1", "-o", str(tmp_path / "p.parquet"))[0] == 0
    assert (tmp_path / "p.parquet").read_bytes() == b"file,mean\r\na,1\r\n"
    assert trainer.queries == ["format=csv", "format=parquet"]
    code, _, err = run("predictions", "e1", "--format", "parquet")
    assert code == 2 and "--output" in err


def test_heads_are_exported_as_one_file(
    trainer: Service, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer.will_answer(lambda: Response(b"graph"), lambda: Response(b"other"))
    assert run("export", "e1", "--onnx")[0] == 0
    assert (tmp_path / "e1.onnx").read_bytes() == b"graph"
    code, _, err = run("export", "served", "--onnx", "-o", "h.onnx", "--space", "s", "--coverage", "0.8")
    assert code == 0 and (tmp_path / "h.onnx").read_bytes() == b"other" and "h.onnx" in err
    assert trainer.queries == ["coverage=0.9", "space=s&coverage=0.8"]
    assert trainer.requests[1][1] == "/experiments/served/onnx"
    assert run("export", "e1")[0] == 2


def test_evaluation_is_followed_and_its_recommendation_is_printed(trainer: Service, run: Run) -> None:
    begun = {**EVALUATION, "state": "queued", "results": {}, "warnings": ["large [x] was not checked"]}
    trainer.will_answer(begun, events(begun, EVALUATION), EVALUATION)
    code, out, err = run("evaluate", "ours", "--head", "e1", "--space", "human-2")
    assert (
        code == 0
        and "6.4 years (90 exact)" in out
        and "82 % → 90 %" in out
        and "too narrow here [so far]." in out
    )
    assert "large [x] was not checked" in err and f"agegender report {EVALUATION['id']}" in err
    assert json.loads(trainer.requests[0][3]) == {"dataset": "ours", "head": "e1", "space": "human-2"}
    trainer.will_answer(begun)
    assert run("calibrate", "ours", "--no-wait")[1].strip() == EVALUATION["id"]
    assert json.loads(trainer.requests[-1][3]) == {"dataset": "ours", "head": "served", "calibrate": True}
    trainer.will_answer([EVALUATION], EVALUATION, lambda: Response(b"file\r\n"))
    assert "82 %" in run("evaluations")[1] and "82 %" in run("show", str(EVALUATION["id"]))[1]
    assert run("predictions", str(EVALUATION["id"]))[0] == 0
    path = f"/evaluations/{EVALUATION['id']}"
    assert [asked[1] for asked in trainer.requests[-3:]] == ["/evaluations", path, f"{path}/predictions"]
    failed = {**EVALUATION, "state": "failed", "problem": "no [head]"}
    trainer.will_answer(begun, events(failed))
    code, _, err = run("evaluate", "ours")
    assert code == 4 and "no [head]" in err and "agegender resume evaluation-" in err


@pytest.mark.parametrize(("answer", "expected"), [("y\n", 0), ("n\n", 1)])
def test_promotion_of_a_doubtful_calibration_is_asked_about_at_a_terminal(
    trainer: Service, run: Run, monkeypatch: pytest.MonkeyPatch, answer: str, expected: int
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    trainer.will_answer(json_answer(REFUSAL.document(), 409), {"age": "v2"})
    code, out, err = run("promote", "evaluation-1")
    assert code == expected and "19,701 faces" in err and ("v2 is served" in out) == (expected == 0)
    assert trainer.queries == ["", "force=true"][: 2 - expected]
    assert trainer.requests[0][1] == "/evaluations/evaluation-1/promote"


def test_ids_are_whole_in_a_terminal_of_eighty_columns(
    trainer: Service, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = {
        **EXPERIMENT,
        "id": "20261101-120000-abcdef",
        "task": "age-gender",
        "datasets": ["all-age-faces", "utkface"],
        "promoted": {"age": "20261101-120000-abcdef-all-age", "gender": "20261101-120000-abcdef-all-gender"},
    }
    trainer.will_answer([long], [EVALUATION], [{**SEARCH, "id": "search-20261101-120000-abcdef"}])
    for command, name in (
        ("experiments", long["id"]),
        ("evaluations", EVALUATION["id"]),
        ("searches", "search-20261101-120000-abcdef"),
    ):
        out = run(command)[1]
        assert f"{name} " in out and max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(("answer", "expected"), [("y\n", 0), ("n\n", 1)])
def test_deletion_is_asked_about_at_a_terminal_with_what_was_promoted(
    trainer: Service, run: Run, monkeypatch: pytest.MonkeyPatch, answer: str, expected: int
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    trainer.will_answer({**EXPERIMENT, "promoted": {"age": "e1-age"}}, EXPERIMENT)
    code, _, err = run("delete", "e1")
    assert code == expected and "finished, promoted as e1-age" in err
    assert ("agegender restore e1" in err) == (expected == 0)
    assert [method for method, *_ in trainer.requests] == ["GET", "DELETE"][: 2 - expected]


@pytest.mark.parametrize(
    ("identifier", "path", "answer"),
    [("e1", "experiments", EXPERIMENT), ("evaluation-1", "evaluations", EVALUATION)],
)
def test_deleted_run_is_restored(
    trainer: Service, run: Run, identifier: str, path: str, answer: dict[str, object]
) -> None:
    trainer.will_answer(answer)
    assert f"{identifier} restored." in run("restore", identifier)[1]
    assert trainer.requests[0][:2] == ("POST", f"/{path}/{identifier}/restore")


def test_experiments_are_compared_and_noted(trainer: Service, run: Run) -> None:
    compared = [
        {
            "id": "e1",
            "name": "[long]",
            "age_error": 5.123,
            "gender_error": 0.08,
            "options": {"seeds": 3},
        },
        {
            "id": "e2",
            "name": None,
            "age_error": 6.0,
            "gender_error": 0.09,
            "options": {"seeds": 1},
        },
    ]
    difference = {
        "first": "e1", "second": "e2", "metric": "age_error", "difference": -0.9, "low": -1.0, "high": -0.8,
        "summary": "e1 is better than e2.",
    }  # fmt: skip
    trainer.will_answer({"faces": 1000, "experiments": compared, "differences": [difference]})
    code, out, _ = run("compare", "e2", "e1")
    assert code == 0
    for text in (
        "[long]",
        "5.12 years",
        "8.00 %",
        "1,000 faces",
        "e1 is better than e2.",
        "seeds",
    ):
        assert text in out
    assert trainer.requests[0][1] == "/experiments/e2/paired-comparison" and trainer.queries[0] == "with=e1"
    assert run("compare", "e1")[0] == 2
    trainer.will_answer({**EXPERIMENT, "name": "new"})
    assert run("note", "e1", "--name", "new", "--notes", "")[0] == 0
    assert trainer.requests[-1][:2] == ("PATCH", "/experiments/e1")
    assert json.loads(trainer.requests[-1][3]) == {"name": "new", "notes": None}
    assert run("note", "e1")[0] == 2


def test_latest_stands_for_the_newest_experiment(trainer: Service, run: Run) -> None:
    trainer.will_answer([{**EXPERIMENT, "id": "e9"}, EXPERIMENT], [], {"age": "e9-age"})
    assert run("promote", "latest", "--no-refit")[0] == 0
    assert [asked[1] for asked in trainer.requests] == [
        "/experiments", "/experiments/e9/comparison", "/experiments/e9/promote",
    ]  # fmt: skip
    trainer.will_answer([])
    code, _, err = run("report", "latest")
    assert code == 2 and "agegender train" in err


def test_training_with_an_own_test_set_is_followed_by_its_evaluation(trainer: Service, run: Run) -> None:
    hint = "Hint: more epochs [may] help"
    report = lambda: Response(f"# Experiment\n\n{hint}\n\n## Cross-validation: age\n\nx\n")  # noqa: E731
    judged = lambda: Response("# Evaluation\n\n## Here and on its own data: age\n\n6.4\n")  # noqa: E731
    trainer.will_answer(EXPERIMENT, events(EXPERIMENT), report, EVALUATION, events(EVALUATION), judged)
    code, out, err = run("train", "Adience", "--test", "ours", "--k", "10", "--name", "n", "--notes", "why")
    assert code == 0 and "6.4" in out and hint in err
    assert json.loads(trainer.requests[0][3]) == {
        "task": "age-gender", "dataset": ["Adience"], "k": 10, "name": "n", "notes": "why",
    }  # fmt: skip
    assert json.loads(trainer.requests[3][3]) == {
        "dataset": "ours", "head": EXPERIMENT["id"], "space": "human-2",
    }  # fmt: skip
    assert run("train", "Adience", "--test", "ours", "--no-wait")[0] == 2
