"""Ours, the original's recipe and plain probes: mean ± standard deviation over folds × seeds."""

from benchmarks.accuracy.answers import MEASURES, Answers, parts_of, row, spread
from benchmarks.accuracy.probes import probe
from benchmarks.accuracy.tables import Table


def compare(methods: list[Answers], datasets: list[str], probes: list[str]) -> list[Table]:
    """A table a data set. All methods are judged on the faces of the first, which the others share."""
    faces = methods[0].faces
    everything = [*methods, *(probe(name, faces) for name in probes)]
    shown = [version for one in everything for version in (one, one.ensemble())]
    tables = []
    for dataset, rows in parts_of(faces, datasets).items():
        lines = [row(answers.name, spread(answers, rows)) for answers in shown]
        tables.append(Table(f"{dataset}, out of fold, {int(rows.sum())} faces", ["method", *MEASURES], lines))
    return tables
