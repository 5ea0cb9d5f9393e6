"""Optuna's study of a search: which values to try, and when to prune a trial.

The study is stored in `searches/<id>/journal.log`, to which the workers append in turn, one JSON document per
line. A writer that dies within a line leaves a torn last line. The next writer would append its record to it,
and Optuna 5.0.0 then raises JSONDecodeError at every later load. So each writer, once it holds the lock,
truncates the file to its last complete line.

A trial of the study belongs to the trial of the search whose trial.json names it. Optuna has no heartbeat for
a journal, so the files decide which running trials are dead. If no trial.json names a trial, its job was
killed before it could write that file. If one does, the trial continues, because the scheduler enqueues its
job again.
"""

import json
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import structlog
from agegender.files import STALE_SECONDS, FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from trainer.searches.search import Search, distributions

log = structlog.get_logger(__name__)

_RECORD = b'{"op_code":'  # prefix of every record in Optuna's journal
_STARTING_TRIALS = 10  # sampled at random before Optuna's estimator (TPE, NIPS 2011) is used
_UNPRUNED = 5  # trials that finish before any is pruned
_REPEATS = "repeats"  # attribute of a trial that repeats a failed one: the number of that one

optuna.logging.set_verbosity(optuna.logging.WARNING)


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
