"""Metrics by gender × age group, and by race if it is labelled, with the mean and the worst cell."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from agegender.heads.head import Classes, Task
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.evaluation import OutOfFold, age_metrics, crossed_calibration, gender_metrics, true_groups

from benchmarks.accuracy.answers import Answers, Mask
from benchmarks.accuracy.tables import Table

# UTKFace's file names: [age]_[gender]_[race]_[time].jpg (https://susanqq.github.io/UTKFace/).
UTKFACE_RACES = ("White", "Black", "Asian", "Indian", "others")
SMALLEST_CELL = 30
COLUMNS = ["faces of", "count", "MAE", "groups", "one-off", "gender", "covered by 90 %", "width"]


def fairness(answers: Answers) -> Table:
    """Return the metrics of the calibrated ensemble, out of fold; the last rows have mean and worst cell."""
    faces = answers.faces
    found = OutOfFold(faces, {Task.AGE: answers.age.mean(axis=0), Task.GENDER: answers.gender.mean(axis=0)})
    age, low, high = crossed_calibration(found, Task.AGE, Classes.YEARS)
    gender, _, _ = crossed_calibration(found, Task.GENDER, Classes.GENDERS)
    inside = (low <= faces.age_high) & (faces.age_low <= high)

    def values(rows: Mask) -> list[float]:
        own = faces.rows(rows)
        of_age = age_metrics(age[rows], own)
        return [
            float(of_age["mae"] or 0),
            float(of_age["group_accuracy"] or 0),
            float(of_age["one_off_accuracy"] or 0),
            float(gender_metrics(gender[rows], own)["accuracy"]),
            float(inside[rows].mean()),
            float((high - low)[rows].mean()),
        ]

    cells = [(name, rows) for name, rows in _cells(faces) if rows.sum() >= SMALLEST_CELL]
    lines = [(name, int(rows.sum()), values(rows)) for name, rows in cells]
    columns = np.array([line[2] for line in lines])
    worst = [columns[:, 0].max(), *columns[:, 1:5].min(axis=0), columns[:, 5].max()]
    everyone = np.ones(len(faces), dtype=bool)
    shown = [*lines, ("everyone", len(faces), values(everyone)), ("the worst cell", 0, worst)]
    return Table(
        f"By gender, age group and race: {answers.name}",
        COLUMNS,
        [[name, str(count or "–"), *_formatted(numbers)] for name, count, numbers in shown],
    )


def _formatted(numbers: list[float]) -> list[str]:
    return [f"{numbers[0]:.2f}", *(f"{number:.3f}" for number in numbers[1:5]), f"{numbers[5]:.1f}"]


def _cells(faces: EmbeddingSet) -> Iterator[tuple[str, Mask]]:
    groups = true_groups(faces)
    for group, group_name in enumerate(AGE_GROUP_NAMES):
        for gender, gender_name in enumerate(GENDER_NAMES):
            yield f"{group_name} {gender_name}", (groups == group) & (faces.gender == gender)
    races = utkface_races(faces)
    for race, race_name in enumerate(UTKFACE_RACES):
        for gender, gender_name in enumerate(GENDER_NAMES):
            yield f"{race_name} {gender_name}", (races == race) & (faces.gender == gender)


def utkface_races(faces: EmbeddingSet) -> npt.NDArray[np.int64]:
    """Return the race [faces] in UTKFace's file names; -1 for other faces."""
    races = np.full(len(faces), -1)
    for row, file in enumerate(faces.file):
        parts = str(file).rsplit("/", 1)[-1].split("_")
        if file.endswith(".chip.jpg") and len(parts) == 4 and parts[2] in "01234":
            races[row] = int(parts[2])
    return races
