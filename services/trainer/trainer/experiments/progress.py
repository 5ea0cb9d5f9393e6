"""progress.json of a fold or a trial: how far its newest attempt is. It also fences off older attempts.

A worker that is held for dead may live on, cut off from Redis or orphaned of its parent, while another
attempt has begun. The newest attempt owns the work: it counts `attempts` up, and an older one that finds
a higher count than its own stops.
"""

import time
from pathlib import Path
from typing import Any

from agegender.files import write_json

from trainer.experiments.store import PROGRESS, read_optional
from trainer.training.train import EpochReport

MAX_ATTEMPTS = 10
_WRITE_SECONDS = 0.3


class Superseded(Exception):
    """A newer attempt owns the work."""


class TooManyAttempts(RuntimeError):
    """The work killed its worker, or lost it, too often."""


class AttemptProgress:
    """Of one attempt. Raises `TooManyAttempts` at the start of one too many."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / PROGRESS
        self._started = time.monotonic()
        self._first_epoch: int | None = None
        self._written = 0.0
        before = self._read()
        self._attempt = int(before.get("attempts", 0)) + 1
        if self._attempt > MAX_ATTEMPTS:
            raise TooManyAttempts(f"{MAX_ATTEMPTS} attempts ended without a result; see the worker's log")
        write_json(self._path, {**before, "attempts": self._attempt})

    def note(self, report: EpochReport) -> None:
        """Write at most a few times a second. Raises `Superseded`."""
        if self._first_epoch is None:
            self._first_epoch = report.epoch - 1
        now = time.monotonic()
        if now - self._written < _WRITE_SECONDS and report.members_running:
            return
        self._written = now
        self.require_newest()
        rate = (now - self._started) / max(1, report.epoch - self._first_epoch)
        write_json(
            self._path,
            {
                "epoch": report.epoch,
                "epochs": report.epochs,
                "train_loss": round(report.train_loss, 5),
                "validation_loss": round(report.validation_loss, 5),
                "seconds_left": round(rate * (report.epochs - report.epoch), 1),
                "attempts": self._attempt,
            },
        )

    def require_newest(self) -> None:
        """Raises `Superseded`."""
        if int(self._read().get("attempts", 0)) != self._attempt:
            raise Superseded

    def _read(self) -> dict[str, Any]:
        value = read_optional(self._path)
        return value if isinstance(value, dict) else {}
