"""One trial: evaluate a setting by cross-validation within the folds that the search may use.

The faces are divided into inner folds that share no subject. Each is predicted by an ensemble that was
trained on the others, with early stopping on a share of those, so neither training nor stopping sees the test
faces.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from agegender.files import write_json
from agegender.heads.head import Task, over_years
from optuna.trial import TrialState

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.folds import groups_of, strata_of, validation_split
from trainer.evaluation import age_metrics, gender_metrics, member_probabilities
from trainer.runs.attempt import Attempt
from trainer.runs.store import read_optional, save_record
from trainer.searches.search import (
    RESULT,
    TRIAL,
    Search,
    Trial,
    TrialResult,
    begun_numbers,
    read_trial,
    search_dir,
    searched_faces,
    trial_dir,
)
from trainer.searches.space import options_with, values_of
from trainer.searches.study import Study
from trainer.training.bank import TrainingDevice
from trainer.training.config import EpochReport, TrainingOptions
from trainer.training.train import TrainedBank, derived_seed, train_bank

_GOALS = {"mae": "age mae", "group-accuracy": "age group_accuracy", "gender-accuracy": "gender accuracy"}


def run_trial(
    data_dir: Path,
    search: Search,
    number: int,
    faces: EmbeddingSet,
    attempt: Attempt,
    device: TrainingDevice,
) -> None:
    """Evaluate trial `number`, or resume it; result.json, written last, marks it as over.

    Raises `GivenUp` if the attempt must stop.
    """
    directory = trial_dir(data_dir, search.id, number)
    study = Study(search_dir(data_dir, search.id), search, number)
    trial = read_trial(directory) or _begin(data_dir, study, search, number)
    selected, fold_of = searched_faces(faces, search)
    scores: list[dict[str, float]] = []
    for fold in range(search.inner_folds):
        path = directory / f"part-{fold}.json"  # the name in release 0.1.0, whose searches resume
        score = read_optional(path)
        if score is None:
            checkpoint = directory / f"part-{fold}.safetensors"
            score = _evaluate(
                selected,
                fold_of == fold,
                trial.options,
                fold,
                search.inner_folds,
                checkpoint,
                attempt,
                device,
            )
            attempt.check()
            write_json(path, score)
            checkpoint.unlink(missing_ok=True)
        scores.append(score)
        value = float(np.mean([goal_value(search, one) for one in scores]))
        if study.is_worse(trial.number, fold, value) and fold + 1 < search.inner_folds:
            study.end(trial.number, value, TrialState.PRUNED)
            _write_result(directory, "pruned", value, scores)
            return
    study.end(trial.number, value, TrialState.COMPLETE)
    _write_result(directory, "finished", value, scores)


def fail_trial(data_dir: Path, search: Search, number: int, problem: str) -> None:
    """Store that a trial failed; the search continues without it."""
    directory = trial_dir(data_dir, search.id, number)
    trial = read_trial(directory)
    if trial is not None:
        Study(search_dir(data_dir, search.id), search, number).end(trial.number, None, TrialState.FAIL)
    save_record(directory / RESULT, TrialResult(state="failed", problem=problem))


def goal_value(search: Search, score: dict[str, float]) -> float:
    """Return the metric that the search optimises."""
    if search.goal == "nll":
        return sum(value for name, value in score.items() if name.endswith(" nll"))
    return score[_GOALS[search.goal]]


def _begin(data_dir: Path, study: Study, search: Search, number: int) -> Trial:
    # Every trial has its own seeds, so that a setting cannot stay ahead by the luck of one seed.
    seed = derived_seed(search.options.seed, number) % 2**31
    with study.beginning():
        study.fail_dead(begun_numbers(data_dir, search))
        optuna_number, drawn = study.ask()
        values = values_of(search.parameters, drawn)
        options = options_with(search.options, {**values, "seed": seed})
        trial = Trial(number=optuna_number, values=values, options=options)
        save_record(trial_dir(data_dir, search.id, number) / TRIAL, trial)
    return trial


def _evaluate(
    faces: EmbeddingSet,
    is_test: np.ndarray,
    options: TrainingOptions,
    fold: int,
    folds: int,
    checkpoint: Path,
    attempt: Attempt,
    device: TrainingDevice,
) -> dict[str, float]:
    """Train on the other folds and return the ensemble's metrics on the test faces."""
    others = faces.rows(np.flatnonzero(~is_test))
    stops = validation_split(
        strata_of(others.age_low, others.age_high, others.gender),
        groups_of(others.subject),
        options.validation,
        seed=fold,
    )

    def report(epoch: EpochReport) -> None:
        """Count epochs over all folds."""
        epochs = options.optimizer.epochs
        attempt.report(replace(epoch, epoch=epoch.epoch + fold * epochs, epochs=folds * epochs))

    bank = train_bank(others.rows(~stops), others.rows(stops), options, fold, checkpoint, report, device)
    return _metrics(bank, options, faces.rows(np.flatnonzero(is_test)))


def _metrics(bank: TrainedBank, options: TrainingOptions, faces: EmbeddingSet) -> dict[str, float]:
    found: dict[str, float] = {}
    classes = dict(options.tasks)
    for task, members in member_probabilities(bank.tensors, options, faces).items():
        probabilities = members.mean(axis=0)
        metrics = (
            age_metrics(over_years(probabilities, classes[task]), faces)
            if task is Task.AGE
            else gender_metrics(probabilities, faces)
        )
        found |= {
            f"{task.value} {name}": float(value)
            for name, value in metrics.items()
            if value is not None and name not in ("faces", "floor")
        }
    return found


def _write_result(directory: Path, state: str, value: float, scores: list[dict[str, float]]) -> None:
    names = scores[0]
    metrics = {name: float(np.mean([score[name] for score in scores])) for name in names}
    result = TrialResult.model_validate({"state": state, "value": value, "metrics": metrics})
    save_record(directory / RESULT, result)
