"""The command line sends what was typed to the trainer, shows the responses, and exits with a status code."""

import io
import json
from pathlib import Path

import pytest
from agegender.errors import Problem, not_found
from agegender_client.cli import parse_options, sections
from fastapi import Response
from typer import BadParameter

from tests.support.command_line import EXPERIMENT, Run, events
from tests.support.service_double import Service, json_answer

TABLE = "## Cross-validation: age\n\n| fold | test |\n| --- | --- |\n| 0 | 0.61 |\n"
REPORT = f"# Experiment\n\n{TABLE}\n## Data\n\nmuch\n"


@pytest.mark.parametrize(
    ("option", "name"),
    [("--warm-start", "warm_start"), ("--start-from", "warm_start"), ("--image-set", "image_set"),
     ("--variant", "image_set")],
)  # fmt: skip
def test_option_and_its_former_name_are_sent_as_the_same_member(
    trainer: Service, run: Run, option: str, name: str
) -> None:
    trainer.will_answer(EXPERIMENT)
    assert run("train", "Adience", option, "value", "--no-wait")[0] == 0
    assert json.loads(trainer.requests[0][3])[name] == "value"


def test_training_asks_for_what_was_typed_and_shows_the_table(trainer: Service, run: Run) -> None:
    running = {**EXPERIMENT, "state": "running", "folds": [{"fold": 0, "state": "running", "epoch": 1}]}
    trainer.will_answer(running, events(running, EXPERIMENT), lambda: Response(REPORT))
    code, out, err = run(
        "train", "Adience", "UTKFace", "--task", "age", "--folds", "0,2", "--seeds", "5",
        "--set", "optimizer.epochs=7", "--set", "head.hidden=[64,32]", "--set", "head.activation=relu",
    )  # fmt: skip
    assert code == 0 and "0.61" in out and "much" not in out
    assert f"agegender promote {EXPERIMENT['id']}" in err
    assert json.loads(trainer.requests[0][3]) == {
        "task": "age",
        "dataset": ["Adience", "UTKFace"],
        "folds": [0, 2],
        "seeds": 5,
        "optimizer": {"epochs": 7},
        "head": {"hidden": [64, 32], "activation": "relu"},
    }


def test_training_for_scripts_prints_one_status_a_line(trainer: Service, run: Run) -> None:
    running = {**EXPERIMENT, "state": "running"}
    trainer.will_answer(running, events(running, EXPERIMENT), running)
    code, out, err = run("train", "Adience", "--json")
    assert code == 0 and err == ""
    assert [json.loads(line)["state"] for line in out.splitlines()] == ["running", "finished"]
    code, out, _ = run("train", "Adience", "--no-wait", "--json")
    assert json.loads(out)["id"] == EXPERIMENT["id"]


def test_failed_experiment_ends_with_four_and_states_how_to_resume(trainer: Service, run: Run) -> None:
    fold = {"fold": 3, "state": "failed", "problem": "out of memory"}
    trainer.will_answer(events({**EXPERIMENT, "state": "failed", "folds": [fold]}))
    code, _, err = run("watch", "e1")
    assert code == 4
    assert "Fold 3 failed: out of memory" in err and "agegender resume e1" in err


def test_report_is_shown_printed_and_written(trainer: Service, run: Run, tmp_path: Path) -> None:
    trainer.will_answer(*[lambda: Response(REPORT)] * 2, lambda: Response("<html>"), lambda: Response("{}"))
    assert "0.61" in run("report", "e1")[1]
    assert run("report", "e1", "--format", "md")[1] == REPORT + "\n"
    assert run("report", "e1", "--output", str(tmp_path / "report.html"))[0] == 0
    assert (tmp_path / "report.html").read_text() == "<html>"
    assert run("report", "e1", "--json")[1] == "{}\n"


COMPARED = {
    "task": "age",
    "served": "old-age",
    "served_trained_on": 19701,
    "new_trained_on": 34,
    "served_error": 4.2,
    "new_error": 9.1,
    "reasons": [],
    "summary": "old-age learnt from 19,701 faces, the new one from 34 [a few].",
}
DOUBTFUL = {**COMPARED, "reasons": ["fewer-faces"]}
REFUSAL = Problem("promotion-needs-confirmation", 409, f"{COMPARED['summary']} Repeat it with --force.")


def test_promotion_prints_what_is_served_and_how_to_undo_it(trainer: Service, run: Run) -> None:
    refits = [{"fold": 0, "state": "running", "epoch": 3, "epochs": 9}, {"fold": None, "state": "queued"}]
    running = {**EXPERIMENT, "state": "running", "refits": refits}
    trainer.will_answer([COMPARED], {"age": "v1"}, events(running, EXPERIMENT), {"age": "v2"})
    code, out, err = run("promote", "e1")
    assert code == 0 and "v2" in out and "agegender rollback age" in out
    assert "Served: v1" in err and "19,701 faces, the new one from 34 [a few]." in err
    promote, compare = "/experiments/e1/promote", "/experiments/e1/comparison"
    assert [path for _, path, *_ in trainer.requests] == [compare, promote, "/experiments/e1/events", promote]
    trainer.will_answer([], {"age": "v2"})
    assert json.loads(run("promote", "e1", "--no-refit", "--json")[1]) == {"age": "v2"}
    assert trainer.requests[5][1] == promote
    assert [trainer.queries[asked] for asked in (1, 5)] == ["refit=true", "refit=false"]


def test_promotion_of_a_worse_head_without_a_terminal_ends_with_one_and_names_force(
    trainer: Service, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    trainer.will_answer([DOUBTFUL], json_answer(REFUSAL.document(), 409))
    code, out, err = run("promote", "e1")
    assert code == 1 and out == ""
    assert err.count("19,701 faces, the new one from 34 [a few].") == 1 and "--force" in err
    trainer.will_answer([DOUBTFUL], {"age": "v1"})
    code, _, err = run("promote", "e1", "--no-refit", "--force")
    assert code == 0 and trainer.queries[-1] == "refit=false&force=true"
    assert "19,701 faces" in err


@pytest.mark.parametrize(("answer", "expected"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_promotion_of_a_worse_head_is_asked_about_at_a_terminal(
    trainer: Service, run: Run, monkeypatch: pytest.MonkeyPatch, answer: str, expected: int
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    trainer.will_answer([DOUBTFUL], {"age": "v1"})
    code, _, err = run("promote", "e1", "--no-refit")
    assert code == expected and "19,701 faces, the new one from 34" in err
    assert trainer.queries[1:] == (["refit=false&force=true"] if expected == 0 else [])


def test_promotion_ends_where_training_on_all_faces_fails(trainer: Service, run: Run) -> None:
    failed = {**EXPERIMENT, "state": "failed", "refits": [{"fold": None, "state": "failed", "problem": "no"}]}
    trainer.will_answer([], {"age": "v1"}, events(failed))
    code, _, err = run("promote", "e1")
    assert code == 4 and "All faces failed: no" in err


def test_experiment_that_is_over_is_not_deleted_by_mistake(trainer: Service, run: Run) -> None:
    trainer.will_answer(EXPERIMENT)
    code, _, err = run("cancel", "e1")
    assert code == 1 and "--delete" in err
    assert [method for method, *_ in trainer.requests] == ["GET"]
    running = {**EXPERIMENT, "state": "running"}
    trainer.will_answer(running, {**EXPERIMENT, "state": "cancelled"})
    code, out, _ = run("cancel", "e1")
    assert code == 0 and "cancelled" in out
    assert trainer.requests[-1][:2] == ("POST", "/experiments/e1/cancel")
    trainer.will_answer(EXPERIMENT, EXPERIMENT)
    code, out, _ = run("cancel", "e1", "--delete")
    assert code == 0 and "e1 deleted" in out
    assert trainer.requests[-1][:2] == ("DELETE", "/experiments/e1")
    trainer.will_answer(running, {**EXPERIMENT, "state": "cancelled"}, EXPERIMENT)
    assert run("cancel", "e1", "--delete")[0] == 0
    assert [method for method, *_ in trainer.requests[-3:]] == ["GET", "POST", "DELETE"]


def test_run_is_shown_and_deleted_by_its_id(trainer: Service, run: Run) -> None:
    fold = {"fold": 3, "state": "failed", "problem": "out of [memory]"}
    failed = {**EXPERIMENT, "state": "failed", "folds": [fold], "warnings": ["few [faces]"]}
    trainer.will_answer(failed, failed, failed, {**SEARCH, "problem": "no trial [ended]"}, SEARCH)
    code, out, err = run("show", "e1")
    assert code == 0 and "0/1" in out and "few [faces]" in err and "Fold 3 failed: out of [memory]" in err
    assert json.loads(run("show", "e1", "--json")[1])["folds"] == [{**fold, "epoch": 0, "epochs": 0}]
    assert "e1 deleted" in run("delete", "e1")[1]
    code, out, err = run("show", "search-1")
    assert code == 0 and "best 3.5" in out and "no trial [ended]" in err
    assert "search-1 deleted" in run("delete", "search-1")[1]
    assert [(method, path) for method, path, *_ in trainer.requests] == [
        *[("GET", "/experiments/e1")] * 2, ("DELETE", "/experiments/e1"),
        ("GET", "/searches/search-1"), ("DELETE", "/searches/search-1"),
    ]  # fmt: skip


def test_list_warns_of_records_that_the_trainer_cannot_read(
    trainer: Service, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    trainer.will_answer(json_answer([EXPERIMENT], 200, **{"X-Unreadable-Records": "e1,e%202"}))
    code, out, _ = run("experiments", "--json")
    assert code == 0 and len(json.loads(out)) == 1
    assert "e1,e 2" in caplog.text


def test_experiments_are_listed_with_whole_names(trainer: Service, run: Run) -> None:
    trainer.will_answer([EXPERIMENT])
    assert str(EXPERIMENT["id"]) in run("experiments")[1]


SEARCH = {
    "id": "search-1",
    "state": "finished",
    "datasets": ["Adience"],
    "trials": [{"trial": 0, "state": "finished", "value": 3.5}, {"trial": 1, "state": "pruned"}],
    "best": {"trial": 0, "value": 3.5},
}


def test_search_is_followed_to_its_end_and_shows_the_best(trainer: Service, run: Run) -> None:
    running = {**SEARCH, "state": "running", "best": None}
    trainer.will_answer(
        running,
        events(running, SEARCH),
        lambda: Response("# Search\n\n## Best: trial 0\n\nx\n\n## Trials\n\ny\n"),
    )
    code, out, err = run("search", "Adience", "--trials", "2", "--goal", "mae", "--set", "inner_folds=2")
    assert code == 0 and "Best: trial 0" in out and "y" not in out.split("Best")[1]
    assert "agegender train Adience --search search-1" in err
    expected = {"task": "age-gender", "dataset": ["Adience"], "trials": 2, "goal": "mae", "inner_folds": 2}
    assert json.loads(trainer.requests[0][3]) == expected
    assert trainer.requests[-1][1] == "/searches/search-1/report"


def test_search_s_id_is_understood_where_an_experiment_s_is(trainer: Service, run: Run) -> None:
    failed = {**SEARCH, "state": "failed", "problem": "no trial was judged"}
    trainer.will_answer(
        events(failed), failed, events(SEARCH), [SEARCH], {**SEARCH, "state": "running"}, failed
    )
    code, _, err = run("watch", "search-1")
    assert code == 4 and "no trial was judged" in err and "agegender resume search-1" in err
    code, out, _ = run("resume", "search-1", "--json")
    assert code == 0 and json.loads(out)["best"]["value"] == 3.5
    assert "2/2" in run("searches")[1]
    assert run("cancel", "search-1")[0] == 0
    assert {path for _, path, *_ in trainer.requests} == {
        "/searches/search-1/events", "/searches/search-1/resume", "/searches", "/searches/search-1",
        "/searches/search-1/cancel",
    }  # fmt: skip


def test_rejection_is_printed_in_the_service_s_words_with_code_one(trainer: Service, run: Run) -> None:
    problem = not_found("experiment", "e9").document()
    trainer.will_answer(json_answer(problem, 404), json_answer(problem, 404))
    code, _, err = run("report", "e9")
    assert code == 1 and "no experiment named 'e9'" in err and "agegender experiments" in err
    code, out, err = run("report", "e9", "--json")
    assert code == 1 and out == "" and json.loads(err)["status"] == 404


def test_words_of_a_service_are_not_taken_for_markup(trainer: Service, run: Run) -> None:
    problem = Problem("invalid-request", 422, "head.hidden: [red] is no list").document()
    trainer.will_answer(json_answer(problem, 422))
    assert "[red] is no list" in run("train", "Adience")[2]


def test_service_that_is_gone_ends_with_three(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEGENDER_TRAINER_URL", "http://127.0.0.1:9")
    code, _, err = run("experiments")
    assert code == 3 and "make up" in err


@pytest.mark.parametrize("arguments", [("train",), ("train", "x", "--folds", "a"), ("fly",), ("predict",)])
def test_wrong_usage_ends_with_two(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2


def test_assignments_nest_and_read_json() -> None:
    assert parse_options(["a.b=1", "a.c=x=y", "d=[1,2]", "e=null"]) == {
        "a": {"b": 1, "c": "x=y"},
        "d": [1, 2],
        "e": None,
    }
    with pytest.raises(BadParameter):
        parse_options(["a"])


def test_only_the_tables_by_fold_are_shown_after_training() -> None:
    assert sections(REPORT, "Cross-validation").startswith("## Cross-validation: age")
    assert "much" not in sections(REPORT, "Cross-validation")
