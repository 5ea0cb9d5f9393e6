"""Optuna's study of a search: which values to try, and when to give a trial up.

It lies in `searches/<id>/journal.log`, one JSON document a line, which the workers append to in turn: nothing
is unpickled, and any file system that creates a file exclusively will do, NFS from version 3 on too.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from trainer.searches.parameters import distributions
from trainer.searches.search import Search

_STARTING_TRIALS = 10  # at random, before Optuna's estimator (TPE, NIPS 2011) has anything to go by
_UNPRUNED = 5
_LOCK_SECONDS = 30  # after which the lock of a killed worker is broken

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """A search's study as one trial's job sees it. The job of trial `number` draws by a seed of its own."""

    def __init__(self, directory: Path, search: Search, number: int) -> None:
        path = str(directory / "journal.log")
        lock = JournalFileOpenLock(path, grace_period=_LOCK_SECONDS)
        _drop_torn_line(Path(path), lock)
        seed = int(np.random.SeedSequence([search.options.seed, number]).generate_state(1)[0])
        self._search = search
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(path, lock)),
            study_name=search.id,
            direction="maximize" if search.maximises else "minimize",
            load_if_exists=True,
            # Trials that run count as bad ones, so that workers do not all try the same.
            sampler=optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=_STARTING_TRIALS, constant_liar=True
            ),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED)
            if search.pruning
            else optuna.pruners.NopPruner(),
        )

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Begin a trial: its number in the study, and what Optuna draws for it."""
        trial = self._study.ask(distributions(self._search.parameters))
        return trial.number, trial.params

    def is_worse(self, number: int, part: int, value: float) -> bool:
        """Note the mean over parts 0 to `part`, and say whether the trial should be given up for it."""
        trial = self._trial(number)
        if part not in self._frozen(number).intermediate_values:
            trial.report(value, part)
        return bool(trial.should_prune())

    def tell(self, number: int, value: float | None, state: TrialState) -> None:
        """End a trial, unless it has ended."""
        self._study.tell(
            self._trial(number),
            value if state is TrialState.COMPLETE else None,
            state=state,
            skip_if_finished=True,
        )

    def fail_running(self) -> None:
        """End what a killed worker began but never came to write down."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.tell(trial.number, None, TrialState.FAIL)

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._frozen(number)._trial_id)


def _drop_torn_line(path: Path, lock: JournalFileOpenLock) -> None:
    """Of a machine that lost its power, or whose disk was full, while it wrote."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    lock.acquire()
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()
