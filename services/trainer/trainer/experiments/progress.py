"""progress.json of a fold or a trial: how far its newest attempt is. It also fences off older attempts.

A worker that is held for dead may live on, cut off from Redis or orphaned of its parent, while another
attempt has begun. The newest attempt owns the work: it counts `attempts` up, and an older one that finds
a higher count than its own stops.
"""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agegender.files import write_json

from trainer.experiments.store import PROGRESS, read_optional
from trainer.training.config import EpochReport

MAX_ATTEMPTS = 10
_WRITE_SECONDS = 0.3
_CURVE_POINTS = 100


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
        self._curve: list[Any] = list(before.get("curve", []))
        self._attempt = int(before.get("attempts", 0)) + 1
        if self._attempt > MAX_ATTEMPTS:
            raise TooManyAttempts(f"{MAX_ATTEMPTS} attempts ended without a result; see the worker's log")
        # The job's parent process is the worker that took it.
        self._worker = f"{socket.gethostname()}:{os.getppid()}"
        write_json(self._path, {**before, "attempts": self._attempt, "worker": self._worker})

    def note(self, report: EpochReport) -> None:
        """Write at most a few times a second, and the last epoch always. Raises `Superseded`."""
        if self._first_epoch is None:
            self._first_epoch = report.epoch - 1
            self._curve = [point for point in self._curve if point[0] < report.epoch]
        self._add_to_curve(report)
        now = time.monotonic()
        last = report.epoch == report.epochs or not report.members_running
        if now - self._written < _WRITE_SECONDS and not last:
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
                "validation_loss": _rounded(report.validation_loss, 5),
                "seconds_left": round(rate * (report.epochs - report.epoch), 1),
                "attempts": self._attempt,
                "worker": self._worker,
                "curve": self._curve,
            },
        )

    def noting(self, tell: Callable[[EpochReport], None]) -> Callable[[EpochReport], None]:
        """Note each report, then `tell` it."""

        def note(report: EpochReport) -> None:
            self.note(report)
            tell(report)

        return note

    def _add_to_curve(self, report: EpochReport) -> None:
        """Every epoch, or every n-th, so that a curve has at most `_CURVE_POINTS`."""
        every = -(-report.epochs // _CURVE_POINTS)
        if report.epoch % every == 0 or report.epoch == 1:
            losses = round(report.train_loss, 4), _rounded(report.validation_loss, 4)
            self._curve.append([report.epoch, *losses])

    def require_newest(self) -> None:
        """Raises `Superseded`."""
        if int(self._read().get("attempts", 0)) != self._attempt:
            raise Superseded

    def _read(self) -> dict[str, Any]:
        value = read_optional(self._path)
        return value if isinstance(value, dict) else {}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
