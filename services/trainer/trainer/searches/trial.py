"""One trial: its setting is judged by cross-validation within the folds that the search may look at.

The faces are divided into parts that share no subject. Each part is predicted by a bank that was trained on
the others, and stopped early on a piece of those: neither training nor stopping sees the faces that judge.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from agegender.files import write_json
from agegender.heads.head import Task, over_years
from optuna.trial import TrialState

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.folds import groups_of, strata_of, validation_split
from trainer.evaluation.metrics import age_metrics, gender_metrics
from trainer.experiments.progress import AttemptProgress
from trainer.experiments.store import read_optional
from trainer.searches.faces import searched_faces
from trainer.searches.parameters import chosen_values, options_with
from trainer.searches.search import Search, Trial, TrialResult
from trainer.searches.store import RESULT, TRIAL, begun_numbers, read_trial, search_dir, trial_dir
from trainer.searches.study import Study
from trainer.training.config import EpochReport, TrainingOptions
from trainer.training.device import TrainingDevice
from trainer.training.predict import member_probabilities
from trainer.training.train import TrainedBank, derived_seed, train_bank

_GOALS = {"mae": "age mae", "group-accuracy": "age group_accuracy", "gender-accuracy": "gender accuracy"}


def run_trial(
    data_dir: Path,
    search: Search,
    number: int,
    faces: EmbeddingSet,
    tell: Callable[[EpochReport], None],
    machine: TrainingDevice,
) -> None:
    """Judge trial `number`, or go on where a killed job stopped; result.json says that it is over.

    tell : called with each `EpochReport`; may raise to stop. Raises `Superseded` where a newer attempt runs.
    """
    directory = trial_dir(data_dir, search.id, number)
    directory.mkdir(parents=True, exist_ok=True)
    progress = AttemptProgress(directory)
    study = Study(search_dir(data_dir, search.id), search, number)
    trial = read_trial(directory) or _begun(data_dir, study, search, number)
    chosen, part_of = searched_faces(faces, search)
    scores: list[dict[str, float]] = []
    for part in range(search.parts):
        path = directory / f"part-{part}.json"
        score = read_optional(path)
        if score is None:
            note = _noted(progress, tell, part, search.parts, trial.options.optimizer.epochs)
            checkpoint = directory / f"part-{part}.safetensors"
            score = _judged(chosen, part_of == part, trial.options, part, checkpoint, note, machine)
            progress.require_newest()
            write_json(path, score)
            checkpoint.unlink(missing_ok=True)
        scores.append(score)
        value = float(np.mean([goal_value(search, one) for one in scores]))
        if study.is_worse(trial.number, part, value) and part + 1 < search.parts:
            study.tell(trial.number, value, TrialState.PRUNED)
            _end(directory, "pruned", value, scores)
            return
    study.tell(trial.number, value, TrialState.COMPLETE)
    _end(directory, "finished", value, scores)


def fail_trial(data_dir: Path, search: Search, number: int, problem: str) -> None:
    """Write down that a trial cannot be judged; the search goes on without it."""
    directory = trial_dir(data_dir, search.id, number)
    trial = read_trial(directory)
    if trial is not None:
        Study(search_dir(data_dir, search.id), search, number).tell(trial.number, None, TrialState.FAIL)
    write_json(directory / RESULT, TrialResult(state="failed", problem=problem).model_dump(mode="json"))


def goal_value(search: Search, score: dict[str, float]) -> float:
    if search.goal == "nll":
        return sum(value for name, value in score.items() if name.endswith(" nll"))
    return score[_GOALS[search.goal]]


def _begun(data_dir: Path, study: Study, search: Search, number: int) -> Trial:
    # Every trial has seeds of its own: a setting that is good by the luck of one seed does not stay ahead.
    seed = derived_seed(search.options.seed, number) % 2**31
    with study.beginning():
        study.fail_dead(begun_numbers(data_dir, search))
        optuna_number, drawn = study.ask()
        values = chosen_values(search.parameters, drawn)
        options = options_with(search.options, {**values, "seed": seed})
        trial = Trial(number=optuna_number, values=values, options=options)
        write_json(trial_dir(data_dir, search.id, number) / TRIAL, trial.model_dump(mode="json"))
    return trial


def _judged(
    faces: EmbeddingSet,
    judges: np.ndarray,
    options: TrainingOptions,
    part: int,
    checkpoint: Path,
    note: Callable[[EpochReport], None],
    machine: TrainingDevice,
) -> dict[str, float]:
    """Figures of the bank, as an ensemble, on the faces of one part."""
    others = faces.rows(np.flatnonzero(~judges))
    stops = validation_split(
        strata_of(others.age_low, others.age_high, others.gender),
        groups_of(others.subject),
        options.validation,
        seed=part,
    )
    bank = train_bank(others.rows(~stops), others.rows(stops), options, part, checkpoint, note, machine)
    return _figures(bank, options, faces.rows(np.flatnonzero(judges)))


def _figures(bank: TrainedBank, options: TrainingOptions, faces: EmbeddingSet) -> dict[str, float]:
    found: dict[str, float] = {}
    classes = dict(options.tasks)
    for task, members in member_probabilities(bank.tensors, options, faces).items():
        said = members.mean(axis=0)
        metrics = (
            age_metrics(over_years(said, classes[task]), faces)
            if task is Task.AGE
            else gender_metrics(said, faces)
        )
        found |= {
            f"{task.value} {name}": float(value)
            for name, value in metrics.items()
            if value is not None and name not in ("faces", "floor")
        }
    return found


def _noted(
    progress: AttemptProgress, tell: Callable[[EpochReport], None], part: int, parts: int, epochs: int
) -> Callable[[EpochReport], None]:
    def note(report: EpochReport) -> None:
        over_all = EpochReport(
            report.epoch + part * epochs,
            parts * epochs,
            report.train_loss,
            report.validation_loss,
            report.members_running,
        )
        progress.note(over_all)
        tell(over_all)

    return note


def _end(directory: Path, state: str, value: float, scores: list[dict[str, float]]) -> None:
    names = scores[0]
    metrics = {name: float(np.mean([score[name] for score in scores])) for name in names}
    result = TrialResult.model_validate({"state": state, "value": value, "metrics": metrics})
    write_json(directory / RESULT, result.model_dump(mode="json"))
