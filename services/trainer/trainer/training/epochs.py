"""What training tells of itself; without torch, which the API of the trainer does without."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochReport:
    """Told after each epoch. Losses are means over the members; None where nothing validates."""

    epoch: int
    epochs: int
    train_loss: float
    validation_loss: float | None
    members_running: int
