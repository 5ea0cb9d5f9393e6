"""The study of a search: its steps, its trials and the best of them, and which values Optuna tries next.

Files on disk record what is done. Optuna's study is stored in `searches/<id>/journal.log`, to which the
workers append in turn, one JSON document per line. A writer that dies within a line leaves a torn last line.
The next writer would append its record to it, and Optuna 5.0.0 then raises JSONDecodeError at every later
load. So each writer, once it holds the lock, truncates the file to its last complete line.

A trial of the study belongs to the trial of the search whose trial.json names it. Optuna has no heartbeat for
a journal, so the files decide which running trials are dead. If no trial.json names a trial, its job was
killed before it could write that file. If one does, the trial continues, because the scheduler enqueues its
job again.
"""

import json
import os
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import structlog
from agegender.errors import Problem
from agegender.files import STALE_SECONDS, FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from trainer.datasets.embedding_set import FaceLabels
from trainer.datasets.exclusiveness import shared_faces
from trainer.experiments.experiment import ChosenBy, refused
from trainer.experiments.experiment_data import load_label_sets
from trainer.experiments.steps import REPORT_SECONDS, TRAINING_SECONDS
from trainer.experiments.warm_start import changed_sets
from trainer.runs.attempt import PROGRESS, clear_failure, renew_attempts
from trainer.runs.run import FAILURE, REPORT, Kind, State, Step, folders_with, read_optional
from trainer.searches.search import (
    RECORD,
    RESULT,
    Best,
    Search,
    SearchStatus,
    TrialStatus,
    distributions,
    load_search,
    read_result,
    read_trial,
    save_search,
    search_dir,
    trial_dir,
)

log = structlog.get_logger(__name__)

_OWN_OPTIONS = ("seed", "seeds")  # of a trial; an experiment has its own
_RECORD = b'{"op_code":'  # prefix of every record in Optuna's journal
_STARTING_TRIALS = 10  # sampled at random before Optuna's estimator (TPE, NIPS 2011) is used
_UNPRUNED = 5  # trials that finish before any is pruned
_REPEATS = "repeats"  # attribute of a trial that repeats a failed one: the number of that one

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Searches(Kind[Search, SearchStatus]):
    """The kind of run, with the jobs of its steps."""

    run_trial: Callable[[str, int], None]
    write_report: Callable[[str], None]

    name: ClassVar[str] = "search"
    article: ClassVar[str] = "a"
    path: ClassVar[str] = "searches"

    def names(self, data_dir: Path) -> list[str]:
        return folders_with(data_dir / "searches", RECORD)

    def record_path(self, data_dir: Path, name: str) -> Path:
        return search_dir(data_dir, name) / RECORD

    def load(self, data_dir: Path, name: str) -> Search:
        return load_search(data_dir, name)

    def save(self, data_dir: Path, run: Search) -> None:
        save_search(data_dir, run)

    def steps(self, data_dir: Path, run: Search) -> Iterator[Step]:
        """Yield the missing trials, then the report."""
        directory = search_dir(data_dir, run.id)
        if run.cancelled or (directory / REPORT).exists() or (directory / FAILURE).exists():
            return
        missing = [
            number
            for number in range(run.trials)
            if not (trial_dir(data_dir, run.id, number) / RESULT).exists()
        ]
        for number in missing:
            yield Step(f"{run.id}-trial-{number}", self.run_trial, (run.id, number), TRAINING_SECONDS)
        if not missing:
            yield Step(f"{run.id}-report", self.write_report, (run.id,), REPORT_SECONDS)

    def status(self, data_dir: Path, run: Search) -> SearchStatus:
        return search_status(data_dir, run)

    def clear_failures(self, data_dir: Path, run: Search) -> None:
        for number in range(run.trials):
            directory = trial_dir(data_dir, run.id, number)
            result = read_result(directory)
            if result is not None and result.state == "failed":
                (directory / RESULT).unlink(missing_ok=True)
                renew_attempts(directory)
        clear_failure(search_dir(data_dir, run.id))


def search_status(data_dir: Path, search: Search) -> SearchStatus:
    """Return how far a search is, trial by trial."""
    trials = [trial_status(data_dir, search, number) for number in range(search.trials)]
    directory = search_dir(data_dir, search.id)
    failure = read_optional(directory / FAILURE) or {}
    return SearchStatus(
        id=search.id,
        state=_state(search, trials, (directory / REPORT).exists(), bool(failure)),
        created=search.created,
        task=search.options.task,
        datasets=search.datasets,
        space=search.space,
        preset=search.preset,
        goal=search.goal,
        folds=search.folds,
        held_out=search.held_out,
        trials=trials,
        best=best_of(search, trials),
        warnings=search.warnings,
        problem=failure.get("detail"),
    )


def trial_status(data_dir: Path, search: Search, number: int) -> TrialStatus:
    """Return how far a trial is."""
    directory = trial_dir(data_dir, search.id, number)
    progress = read_optional(directory / PROGRESS) or {}
    trial, result = read_trial(directory), read_result(directory)
    known = {name: progress[name] for name in ("epoch", "epochs", "attempts") if name in progress}
    values = {} if trial is None else trial.values
    if result is not None:
        return TrialStatus(trial=number, values=values, **known, **result.model_dump())
    state = "cancelled" if search.cancelled else "running" if progress else "queued"
    return TrialStatus(trial=number, state=state, values=values, **known)


def best_of(search: Search, trials: list[TrialStatus]) -> Best | None:
    """Return the best trial, the first of several that are equally good; None if none is finished."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    if not finished:
        return None
    sign = -1 if search.maximises else 1
    best = min(finished, key=lambda trial: sign * (trial.value or 0.0))
    return Best(
        trial=best.trial,
        value=best.value or 0.0,
        values=best.values,
        metrics=best.metrics,
        experiment={
            "search": search.id,
            "task": search.options.task,
            "dataset": search.datasets,
            "space": search.space.id,
            "image_set": search.image_set,
        },
    )


def best_options(data_dir: Path, search_id: str) -> tuple[dict[str, Any], ChosenBy]:
    """Return the options of the best trial, for `TrainingRequest.training_options`, and where they come from.

    Raises ``invalid-request`` 422 if there is no such search or it is not finished.
    """
    try:
        search = load_search(data_dir, search_id)
    except Problem as problem:
        raise refused("search", problem.detail) from problem
    status = search_status(data_dir, search)
    if status.state != "finished" or status.best is None:
        raise refused("search", f"Search {search_id} is {status.state}; wait until it is finished.")
    trial = read_trial(trial_dir(data_dir, search_id, status.best.trial))
    if trial is None:
        raise refused("search", f"The file of trial {status.best.trial} of search {search_id} is missing.")
    options = trial.options.model_dump(mode="json", exclude=set(_OWN_OPTIONS))
    compared = sum(one.state in ("finished", "pruned") for one in status.trials)
    return options, ChosenBy(
        search=search_id,
        trial=status.best.trial,
        trials=compared,
        datasets=search.datasets,
        held_out=search.held_out,
        space=search.space,
        image_set=search.image_set,
        overlap=search.overlap,
        data_sha256=search.data_sha256,
    )


def faces_seen_by_search(data_dir: Path, chosen_by: ChosenBy, sets: Mapping[str, FaceLabels]) -> int | None:
    """Count the faces of `sets` that the search has in other data sets.

    Return None if these have changed since the search was created, or cannot be read.

    Data sets that both name are left to the report, which knows the held-out folds.
    """
    search = load_search(data_dir, chosen_by.search)
    try:
        seen = load_label_sets(data_dir, search.datasets, search.space, search.image_set)
    except Problem:
        return None
    others = {name: faces for name, faces in seen.items() if name not in sets}
    changed = changed_sets(data_dir, search.data_sha256, search.datasets, search.space, search.image_set)
    if set(changed) & set(others):
        return None
    if not all(faces.has_hashes for faces in (*others.values(), *sets.values())):
        return None if others else 0
    return shared_faces(others, sets)[0]


def _state(search: Search, trials: list[TrialStatus], reported: bool, failed: bool) -> State:
    if reported:
        return "finished"
    if search.cancelled:
        return "cancelled"
    if failed:
        return "failed"
    return "queued" if {trial.state for trial in trials} == {"queued"} else "running"


class Study:
    """The study, for the job of trial `number`, which has its own seed for sampling."""

    def __init__(self, directory: Path, search: Search, number: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._beginning = FileLock(directory / "beginning.lock")
        seed = int(np.random.SeedSequence([search.options.seed, number]).generate_state(1)[0])
        self._search = search
        self._study = optuna.create_study(
            storage=JournalStorage(open_journal(directory / "journal.log")),
            study_name=search.id,
            direction="maximize" if search.maximises else "minimize",
            load_if_exists=True,
            # Running trials count as bad ones, so that workers do not all try the same values.
            sampler=optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=_STARTING_TRIALS, constant_liar=True
            ),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED)
            if search.pruning
            else optuna.pruners.NopPruner(),
        )

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Keep other jobs from asking for a trial, from `ask` until trial.json names the result."""
        with self._beginning:
            yield

    def fail_dead(self, named: Container[int]) -> None:
        """End the running trials that no trial.json names. Call it within `beginning`.

        named : numbers in trial.json files of trials that are not over.
        """
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in named:
                self.end(trial.number, None, TrialState.FAIL)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Begin a trial; return its number in the study and the values that Optuna sampled."""
        trial = self._study.ask(distributions(self._search.parameters))
        return trial.number, trial.params

    def is_worse(self, number: int, fold: int, value: float) -> bool:
        """Store the mean over inner folds 0 to `fold`; return whether the trial should be pruned."""
        frozen, trial = self._frozen(number), self._trial(number)
        if frozen.state.is_finished():  # the job was killed before it wrote its result, or is resumed
            return frozen.state is TrialState.PRUNED and fold == frozen.last_step
        if fold not in frozen.intermediate_values:
            trial.report(value, fold)
        return bool(trial.should_prune())

    def end(self, number: int, value: float | None, state: TrialState) -> None:
        """End a trial, unless it has ended. A failed trial that was resumed and finished is added again."""
        frozen = self._frozen(number)
        if frozen.state is TrialState.FAIL and state is TrialState.COMPLETE:
            self._add_repeated(frozen, value)
            return
        self._study.tell(
            self._trial(number),
            value if state is TrialState.COMPLETE else None,
            state=state,
            skip_if_finished=True,
        )

    def _add_repeated(self, failed: optuna.trial.FrozenTrial, value: float | None) -> None:
        if any(one.user_attrs.get(_REPEATS) == failed.number for one in self._study.get_trials(False)):
            return
        self._study.add_trial(
            optuna.trial.create_trial(
                value=value,
                params=failed.params,
                distributions=failed.distributions,
                user_attrs={_REPEATS: failed.number},
            )
        )

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._frozen(number)._trial_id)


class JournalLock(FileLock, JournalFileOpenLock):
    """The lock of a journal, which ends with a complete line once the lock is acquired."""

    def __init__(self, journal: Path, stale: float = STALE_SECONDS) -> None:
        super().__init__(journal.with_name(f"{journal.name}.lock"), stale)
        self._journal = journal

    def acquire(self) -> bool:
        super().acquire()
        try:
            _cut_torn_line(self._journal)
        except BaseException:
            self.release()
            raise
        return True


def open_journal(path: Path, stale: float = STALE_SECONDS) -> JournalFileBackend:
    """Open or create a journal. Repair records that release 0.1.0 appended to a torn line."""
    lock = JournalLock(path, stale)
    with lock:
        _mend_joined_lines(path)
    return JournalFileBackend(str(path), lock)


def _cut_torn_line(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:
            begin = max(0, end - 4096)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            end = begin + found + 1 if found >= 0 else begin
            if found >= 0:
                break
        if end < size:
            log.warning("torn line removed from a journal", journal=str(path), bytes=size - end)
            file.truncate(end)
            os.fsync(file.fileno())


def _mend_joined_lines(path: Path) -> None:
    """Overwrite with blanks, which JSON permits, the torn record that precedes another record in its line.

    The line keeps its length, because processes that have the journal open remember where lines begin.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        begin = 0
        for line in file.read().splitlines(keepends=True):
            record = line.rfind(_RECORD)
            if not _is_json(line) and record > 0 and _is_json(line[record:]):
                file.seek(begin)
                file.write(b" " * record)
                log.warning("joined line repaired in a journal", journal=str(path), bytes=record)
            begin += len(line)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
