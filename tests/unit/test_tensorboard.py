"""TensorBoard's own reader finds a fold's curve and figures."""

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer.experiments.fold import write_events

MEMBER: dict[str, dict[str, Any]] = {
    "age": {"mae": 5.0, "nll": 3.0, "faces": 9, "floor": 0.4},
    "gender": {"accuracy": 0.9, "nll": None},
}
METRICS: dict[str, Any] = {
    "best_epochs": [2, 3, 2],
    "curve": [(4.0, 4.5), (3.0, 3.75), (2.5, 4.0)],
    "splits": {"train": [MEMBER], "test": [MEMBER, {**MEMBER, "age": {**MEMBER["age"], "mae": 7.0}}]},
}


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_curve_and_figures_are_read_back(tmp_path: Path) -> None:
    write_events(tmp_path, METRICS)
    events = read(tmp_path / "tensorboard")
    validation = [(event.step, event.value) for event in events.Scalars("loss/validation")]
    assert validation == [(1, 4.5), (2, 3.75), (3, 4.0)]
    (mae,) = events.Scalars("age mae/test")
    assert (mae.step, mae.value) == (2, 6.0)
    assert "gender nll/test" not in events.Tags()["scalars"]


def test_second_attempt_replaces_the_first(tmp_path: Path) -> None:
    write_events(tmp_path, METRICS)
    write_events(tmp_path, {**METRICS, "curve": METRICS["curve"][:2]})
    assert len(read(tmp_path / "tensorboard").Scalars("loss/train")) == 2
