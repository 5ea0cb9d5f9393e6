"""Compare our heads, the original's recipe and simple models: mean ± deviation over folds × seeds."""

from benchmarks.accuracy.answers import METRICS, Answers, row, rows_by_dataset, spread
from benchmarks.accuracy.probes import probe
from benchmarks.accuracy.tables import Table


def compare(methods: list[Answers], datasets: list[str], probes: list[str]) -> list[Table]:
    """Return one table per data set. All methods are evaluated on the faces of the first."""
    faces = methods[0].faces
    everything = [*methods, *(probe(name, faces) for name in probes)]
    shown = [version for one in everything for version in (one, one.ensemble())]
    tables = []
    for dataset, rows in rows_by_dataset(faces, datasets).items():
        lines = [row(answers.name, spread(answers, rows)) for answers in shown]
        tables.append(Table(f"{dataset}, out of fold, {int(rows.sum())} faces", ["method", *METRICS], lines))
    return tables
