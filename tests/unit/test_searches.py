"""Optuna's study of a search, shared by jobs through its journal; and what a search may vary."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.spaces import Space
from agegender_service.inputs import log_deprecated_name
from optuna.trial import TrialState
from pydantic import ValidationError
from structlog.testing import capture_logs
from trainer.reports.contents import origins
from trainer.runs.attempt import Attempt
from trainer.runs.run import read_optional
from trainer.searches.search import (
    Choices,
    Parameters,
    Search,
    SearchRequest,
    Span,
    options_with,
    preset_parameters,
    read_result,
    require_options,
    searched_faces,
    trial_dir,
    values_of,
)
from trainer.searches.study import Study
from trainer.searches.trial import run_trial
from trainer.training.bank import CPU
from trainer.training.config import Objective, Preset, TrainingOptions, preset_options

from tests.support.made_faces import SPACE, in_decades, made_faces

RATE: Parameters = {"optimizer.learning_rate": Span(low=1e-4, high=1e-1, log=True)}


def search(**changes: object) -> Search:
    given = {
        "id": "search-1",
        "created": datetime.now(UTC),
        "datasets": ["made"],
        "image_set": "images",
        "space": SPACE,
        "folds": [0, 1, 2, 3],
        "held_out": [4],
        "options": TrainingOptions(),
        "preset": "default",
        "parameters": RATE,
        "trials": 20,
        "goal": "nll",
        "inner_folds": 3,
        "pruning": True,
        **changes,
    }
    return Search.model_validate(given)


def judge(directory: Path, number: int, values: list[float], **changes: object) -> tuple[int, float]:
    """Judge a trial as its job does; return how many inner folds were evaluated, and the learning rate."""
    study = Study(directory, search(**changes), number)
    trial, drawn = study.ask()
    for part in range(len(values)):
        if study.is_worse(trial, part, float(np.mean(values[: part + 1]))):
            study.end(trial, None, TrialState.PRUNED)
            return part + 1, drawn["optimizer.learning_rate"]
    study.end(trial, float(np.mean(values)), TrialState.COMPLETE)
    return len(values), drawn["optimizer.learning_rate"]


def test_trial_that_is_worse_than_half_of_the_others_is_given_up_after_an_inner_fold(tmp_path: Path) -> None:
    for number in range(6):
        assert judge(tmp_path, number, [2.0 + number] * 3)[0] == 3 if number < 5 else True
    assert judge(tmp_path, 6, [9.0] * 3)[0] == 1
    assert judge(tmp_path, 7, [1.0] * 3)[0] == 3
    assert judge(tmp_path, 8, [9.0] * 3, pruning=False)[0] == 3


def test_good_is_high_where_the_goal_is_an_accuracy(tmp_path: Path) -> None:
    for number in range(6):
        judge(tmp_path, number, [0.8 + number / 100] * 3, goal="gender-accuracy")
    assert judge(tmp_path, 6, [0.1] * 3, goal="gender-accuracy")[0] == 1
    assert judge(tmp_path, 7, [0.99] * 3, goal="gender-accuracy")[0] == 3


def test_what_a_trial_draws_hangs_on_the_search_s_seed_and_its_number(tmp_path: Path) -> None:
    once = [judge(tmp_path / "a", number, [1.0])[1] for number in range(4)]
    again = [judge(tmp_path / "b", number, [2.0])[1] for number in (3, 1, 0, 2)]
    assert [again[2], again[1], again[3], again[0]] == once
    assert len(set(once)) == 4
    other = {"options": TrainingOptions(seed=7)}
    assert judge(tmp_path / "c", 0, [1.0], **other)[1] != once[0]


@pytest.mark.parametrize("exact_fold", [0, 2])
def test_trial_ends_if_only_one_inner_fold_has_an_exact_age(tmp_path: Path, exact_fold: int) -> None:
    options = TrainingOptions.model_validate(
        {"head": {"kind": "mlp", "hidden": [8]}, "optimizer": {"epochs": 2, "batch_size": 16}, "seeds": 1}
    )
    made = search(options=options, held_out=[], folds=[0, 1, 2, 3, 4])
    faces = made_faces(120)
    _, fold = searched_faces(in_decades(faces), made)
    ranges = in_decades(faces, [int(np.flatnonzero(fold == exact_fold)[0])])
    directory = trial_dir(tmp_path, made.id, 0)
    run_trial(tmp_path, made, 0, ranges, Attempt(directory), CPU)
    result = read_result(directory)
    assert result is not None and result.state == "finished"
    (error,) = (
        score["age mae"]
        for number in range(made.inner_folds)
        if "age mae" in (score := read_optional(directory / f"part-{number}.json"))
    )
    assert result.metrics["age mae"] == error
    assert result.metrics["age group_accuracy"] > 0


@pytest.mark.parametrize("preset", ["default", "original"])
@pytest.mark.parametrize("task", ["age", "gender", "age-gender"])
def test_everything_that_a_preset_varies_is_an_option(preset: Preset, task: Objective) -> None:
    options = TrainingOptions.model_validate({"task": task, **preset_options(preset, task)})
    require_options(options, preset_parameters(preset, task))


def test_original_s_space_is_the_published_one() -> None:
    varied = preset_parameters("original", "age")
    assert varied["head.blocks"] == Choices(choices=[0, 1, 2, 3, 4, 5])
    assert varied["optimizer.gamma"] == Span(low=1e-6, high=1, log=True)
    assert "head.dropout" not in varied


def test_choices_come_back_as_they_were_given() -> None:
    varied: Parameters = {
        "head.hidden": Choices(choices=[[], [256, 128]]),
        "head.norm": Choices(choices=[True]),
    }
    drawn = varied["head.hidden"].distribution()
    named = drawn.to_external_repr(1)
    values = values_of(varied, {"head.hidden": named, "head.norm": "true"})
    assert values == {"head.hidden": [256, 128], "head.norm": True}
    head = options_with(TrainingOptions(), values).head
    assert head.model_dump()["hidden"] == (256, 128)


@pytest.mark.parametrize("path", ["optimizer.rate", "nothing", "head.hidden.x", "seeds.x"])
def test_parameter_that_is_no_option_is_named(path: str) -> None:
    with pytest.raises(Problem) as refused:
        require_options(TrainingOptions(), {path: Span(low=1, high=2)})
    assert refused.value.status == 422
    assert refused.value.extra["errors"][0]["field"].startswith("parameters.")


def test_old_name_of_inner_folds_is_accepted_and_logged() -> None:
    log_deprecated_name.cache_clear()
    with capture_logs() as logs:
        for _ in range(2):
            assert SearchRequest.model_validate({"dataset": "made", "parts": 4}).inner_folds == 4
    assert [(log["name"], log["use"]) for log in logs] == [("parts", "inner_folds")]
    with pytest.raises(ValidationError, match="parts"):
        SearchRequest.model_validate({"dataset": "made", "parts": 4, "inner_folds": 4})


def test_search_never_looks_at_the_folds_that_are_held_out_and_inner_folds_share_no_subject() -> None:
    faces, fold = searched_faces(made_faces(400), search())
    assert set(faces.fold) == {0, 1, 2, 3}
    assert set(fold) == {0, 1, 2}
    for subject in np.unique(faces.subject):
        assert len(set(fold[faces.subject == subject])) == 1


SAME = {
    "datasets": ["made"],
    "image_set": "images",
    "space": SPACE.model_dump(),
    "overlap": "refuse",
    "data_sha256": {"made": "0"},
}
MAY = "may have used faces of every fold"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "did not use fold 4: that row is independent of the choice"),
        ({"held_out": []}, "It used faces of every fold"),
        ({"datasets": ["made", "more"], "data_sha256": {"made": "0", "more": "1"}}, MAY),
        ({"data_sha256": {"made": "1"}}, MAY),  # regrouped since
        ({"data_sha256": None}, MAY),  # of an earlier release
        ({"space": Space(id="other-1", dimension=32).model_dump()}, MAY),
        ({"image_set": "aligned"}, MAY),
        ({"overlap": "merge"}, MAY),
        ({"datasets": ["more"], "shared_faces": 0}, "so the metrics are independent of it"),
        ({"datasets": ["more"], "shared_faces": 2}, "It used 2 of these faces"),
        ({"datasets": ["more"], "shared_faces": None}, "it is unknown whether the metrics are independent"),
    ],
)
def test_report_states_whose_figures_are_independent_of_the_search(
    changes: dict[str, object], sentence: str
) -> None:
    selection = {"search": "search-1", "trial": 3, "trials": 9, "held_out": [4], **SAME, **changes}
    experiment = {"chosen_by": selection, "folds": [0, 1, 2, 3, 4], "k": None, **SAME}
    assert sentence in " ".join(origins({"experiment": experiment}))
    assert MAY in " ".join(
        origins({"experiment": {**experiment, "chosen_by": {**selection, **SAME}, "k": 5}})
    )
    assert origins({"experiment": {**experiment, "chosen_by": None}}) == []
