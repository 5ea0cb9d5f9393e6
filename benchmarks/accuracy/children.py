"""Count children who are predicted to be adults, and adults who are predicted to be children."""

from agegender.heads.calibration import mean_years
from agegender.heads.head import Classes, Task
from trainer.evaluation import ADULT_FROM, OutOfFold, crossed_calibration

from benchmarks.accuracy.answers import Answers
from benchmarks.accuracy.tables import Table

AGES = ((0, 12), (0, 2), (3, 5), (6, 9), (10, 12), (13, 15), (16, 17), (18, 20), (21, 24), (25, 101))
COLUMNS = [
    "true age",
    "faces",
    f"mean {ADULT_FROM} or more",
    f"90 % interval all {ADULT_FROM} or more",
    "all below",
]


def children(answers: Answers) -> Table:
    """Return the counts for the calibrated ensemble, out of fold, on faces with an exact age."""
    faces = answers.faces
    found = OutOfFold(faces, {Task.AGE: answers.age.mean(axis=0)})
    age, low, high = crossed_calibration(found, Task.AGE, Classes.YEARS)
    mean = mean_years(age)
    lines = []
    for youngest, oldest in AGES:
        own = (faces.age_low == faces.age_high) & (faces.age_low >= youngest) & (faces.age_low <= oldest)
        if own.any():
            shares = (mean[own] >= ADULT_FROM, low[own] >= ADULT_FROM, high[own] < ADULT_FROM)
            name = f"{youngest} to {oldest}" if oldest <= 100 else f"{youngest} and more"
            lines.append(
                [name, str(int(own.sum())), *(_share(int(one.sum()), int(own.sum())) for one in shares)]
            )
    return Table(f"Children and adults: {answers.name}", COLUMNS, lines)


def _share(count: int, of: int) -> str:
    return f"{count} ({count / of:.1%})"
