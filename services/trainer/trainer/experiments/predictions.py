"""Predictions as a table, one row per face, as CSV, Parquet or JSON; and experiments compared face by face.

The table of an experiment is written with its report, as `predictions.csv`; the other forms are made from it.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from agegender.errors import Problem
from agegender.files import MAX_JSON_BYTES, read_bytes, write_text
from agegender.heads.calibration import mean_years
from agegender.heads.head import Task, over_years
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES, Gender, group_probabilities
from pydantic import BaseModel, Field

from trainer.datasets.embedding_set import FaceLabels
from trainer.datasets.folds import groups_of
from trainer.evaluation import crossed_calibration, mean_interval
from trainer.experiments.experiment import METRICS, Experiment, experiment_dir, fold_dir
from trainer.experiments.experiment_data import read_out_of_fold

TABLE = "predictions.csv"
INSTALL_PARQUET = "pip install pyarrow"
_MOST_BYTES = 4 * MAX_JSON_BYTES
_DIGITS = 4
_PAIRED: tuple[Literal["age_error", "gender_error"], ...] = ("age_error", "gender_error")
# Subjects of a verdict. Chance alone favours one experiment for all of five genders in 6 % of cases (2 / 2⁵).
_LEAST_SUBJECTS = {"age_error": 3, "gender_error": 6}
_COMPARED = ("datasets", "image_set", "space", "folds", "k", "preset", "overlap", "warm_start")

Floats = npt.NDArray[np.floating]


class Prediction(BaseModel):
    """One face of a data set, with its labels and its prediction. An empty cell of a CSV file is a null."""

    dataset: str
    file: str = Field(description="name of the image, relative to the folder of images")
    fold: int | None = Field(description="held-out fold of the face; null if the data set has no folds")
    subject: str | None = Field(description="null if unknown")
    true_age: float | None = Field(
        description="labelled age in years; the middle of a range; null if unknown"
    )
    true_age_low: float | None
    true_age_high: float | None
    true_gender: Literal["female", "male"] | None
    mean: float | None = Field(description="predicted age in years; null if the heads predict no age")
    interval_low: float | None = Field(description="start of the 90 % prediction interval, years")
    interval_high: float | None = Field(description="its end, years")
    group: str | None = Field(description="the most probable of Adience's age groups")
    p_female: float | None = Field(description="probability; null if the heads predict no gender")
    out_of_fold: bool = Field(description="the networks and their calibration did not use this face")


COLUMNS = tuple(Prediction.model_fields)
_TYPES: dict[str, type] = {
    "fold": int,
    "out_of_fold": bool,
    **dict.fromkeys(("true_age", "true_age_low", "true_age_high", "mean", "interval_low"), float),
    **dict.fromkeys(("interval_high", "p_female"), float),
}


def columns_of(
    datasets: list[str],
    faces: FaceLabels,
    years: Floats | None,
    interval: tuple[Floats, Floats] | None,
    genders: Floats | None,
) -> dict[str, list[Any]]:
    """Return the table as columns of `COLUMNS`.

    Parameters
    ----------
    datasets : names; the files of several are prefixed with theirs.
    years : age distributions [faces, 101]; None without an age head.
    interval : low and high ends [faces], years.
    genders : probabilities [faces, 2]; None without a gender head.
    """
    names = [file.partition("/") if len(datasets) > 1 else (datasets[0], "", file) for file in faces.file]
    nothing = [None] * len(faces)
    groups = None if years is None else group_probabilities(years).argmax(axis=1)
    known = np.where(faces.has_gender, faces.gender, Gender.UNKNOWN)
    values: dict[str, list[Any]] = {
        "dataset": [name for name, _, _ in names],
        "file": [str(file) for _, _, file in names],
        "fold": [int(fold) if fold >= 0 else None for fold in faces.fold],
        "subject": [str(subject) or None for subject in faces.subject],
        "true_age": _numbers((faces.age_low.astype(np.float64) + faces.age_high) / 2),
        "true_age_low": _numbers(faces.age_low),
        "true_age_high": _numbers(faces.age_high),
        "true_gender": [GENDER_NAMES[gender] if gender >= 0 else None for gender in known],
        "mean": nothing if years is None else _numbers(mean_years(years.astype(np.float64))),
        "interval_low": nothing if interval is None else _numbers(interval[0]),
        "interval_high": nothing if interval is None else _numbers(interval[1]),
        "group": nothing if groups is None else [AGE_GROUP_NAMES[group] for group in groups],
        "p_female": nothing if genders is None else _numbers(genders[:, Gender.FEMALE]),
        "out_of_fold": [True] * len(faces),
    }
    return {name: values[name] for name in COLUMNS}


def _numbers(values: Floats) -> list[float | None]:
    rounded: list[float] = np.round(values.astype(np.float64), _DIGITS).tolist()
    return [value if np.isfinite(value) else None for value in rounded]


def out_of_fold_columns(data_dir: Path, experiment: Experiment) -> dict[str, list[Any]]:
    """Return the out-of-fold predictions of an experiment's finished folds.

    Each face is predicted by the ensemble that held its fold out, calibrated on the other folds. Raises
    ``not-finished`` 409 and ``bad-dataset`` 409.
    """
    directories = [fold_dir(data_dir, experiment.id, fold) for fold in experiment.folds]
    done = [directory for directory in directories if (directory / METRICS).exists()]
    if not done:
        message = f"No fold of experiment {experiment.id} is finished; wait until it is."
        raise Problem("not-finished", 409, message)
    found = read_out_of_fold(data_dir, experiment, done)
    years, interval, genders = None, None, None
    for task, classes in experiment.options.tasks:
        calibrated, low, high = crossed_calibration(found, task, classes)
        if task is Task.AGE:
            years, interval = over_years(calibrated, classes), (low, high)
        else:
            genders = calibrated
    return columns_of(experiment.datasets, found.faces, years, interval, genders)


def write_predictions(directory: Path, columns: Mapping[str, list[Any]]) -> None:
    """Write the table of a run."""
    write_text(directory / TABLE, as_csv(columns))


def experiment_columns(data_dir: Path, experiment: Experiment) -> dict[str, list[Any]]:
    """Return the table of an experiment; compute it if an earlier release wrote the report."""
    written = read_predictions(experiment_dir(data_dir, experiment.id))
    return out_of_fold_columns(data_dir, experiment) if written is None else written


def read_predictions(directory: Path) -> dict[str, list[Any]] | None:
    """Return the table of a run; None if it has none."""
    try:
        text = read_bytes(directory / TABLE, _MOST_BYTES).decode()
    except FileNotFoundError:
        return None
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    return {name: [_value(name, row[name]) for row in rows] for name in COLUMNS}


def _value(column: str, text: str) -> Any:
    if text == "":
        return None
    type_ = _TYPES.get(column, str)
    return text == "true" if type_ is bool else type_(text)


def as_csv(columns: Mapping[str, list[Any]]) -> str:
    """Return the table as CSV (RFC 4180) with a header."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    return file.getvalue()


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def as_json(columns: Mapping[str, list[Any]]) -> str:
    """Return the table as a JSON list of objects."""
    return json.dumps(list(_rows(columns)), ensure_ascii=False)


def _rows(columns: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def as_parquet(columns: Mapping[str, list[Any]]) -> bytes:
    """Return the table as a Parquet file. Raises ``parquet-not-installed`` 501."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise Problem(
            "parquet-not-installed",
            501,
            "Parquet needs the package pyarrow, which the trainer does not have. Install it where the "
            f"trainer runs ({INSTALL_PARQUET}), or request CSV.",
        ) from error
    types = {int: pa.int16(), bool: pa.bool_(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([(name, types[_TYPES.get(name, str)]) for name in columns])
    file = io.BytesIO()
    pq.write_table(pa.table(dict(columns), schema=schema), file)
    return file.getvalue()


class Compared(BaseModel):
    """One of several experiments, judged on the faces that all of them predicted out of fold."""

    id: str
    name: str | None
    age_error: float | None = Field(description="mean absolute error in years, on exact ages")
    gender_error: float | None = Field(description="share of wrong genders")
    options: dict[str, Any] = Field(description="those in which the experiments differ, by their path")


class PairedDifference(BaseModel):
    """The difference of two experiments' errors on the same faces: the first one's minus the second one's."""

    first: str
    second: str
    metric: Literal["age_error", "gender_error"]
    faces: int
    subjects: int
    difference: float = Field(description="years, or a share; below 0: the first one is better")
    low: float | None = Field(
        description="start of the 95 % confidence interval, cluster-robust over subjects; null with fewer "
        "than three subjects, or six for the gender"
    )
    high: float | None = Field(description="its end")
    summary: str


class PairedComparison(BaseModel):
    """Experiments compared on the same faces, the best one first, and each other one with the best."""

    faces: int = Field(description="number that all experiments predicted out of fold")
    experiments: list[Compared]
    differences: list[PairedDifference]


def compare_experiments(data_dir: Path, experiments: list[Experiment]) -> PairedComparison:
    """Compare experiments face by face. Raises ``no-common-faces`` 422, and as `experiment_columns` does."""
    tables = [experiment_columns(data_dir, experiment) for experiment in experiments]
    places = [
        {key: row for row, key in enumerate(zip(one["dataset"], one["file"], strict=True))} for one in tables
    ]
    common = [key for key in places[0] if all(key in place for place in places[1:])]
    if not common:
        names = " and ".join(experiment.id for experiment in experiments)
        raise Problem(
            "no-common-faces",
            422,
            f"The experiments {names} have no face in common. Compare experiments on the same data sets.",
        )
    rows = [np.array([place[key] for key in common]) for place in places]
    errors = {
        experiment.id: _errors(table, own)
        for experiment, table, own in zip(experiments, tables, rows, strict=True)
    }
    subjects = _subject_numbers(tables[0], rows[0])
    options = {experiment.id: _flat(_settings_of(experiment)) for experiment in experiments}
    paths = [
        path
        for path in dict.fromkeys(path for own in options.values() for path in own)
        if len({json.dumps(own.get(path)) for own in options.values()}) > 1
    ]
    compared = [
        Compared(
            id=experiment.id,
            name=experiment.name,
            age_error=_mean(errors[experiment.id]["age_error"]),
            gender_error=_mean(errors[experiment.id]["gender_error"]),
            options={path: options[experiment.id].get(path) for path in paths},
        )
        for experiment in experiments
    ]
    ranked = sorted(compared, key=_rank)
    differences = [
        found
        for other in ranked[1:]
        for metric in _PAIRED
        if (found := _difference(ranked[0].id, other.id, metric, errors, subjects)) is not None
    ]
    return PairedComparison(faces=len(common), experiments=ranked, differences=differences)


def _errors(table: Mapping[str, list[Any]], rows: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """Return the errors [faces] of each metric; NaN without a label or a prediction."""

    def numbers(name: str) -> Floats:
        return np.array(
            [np.nan if table[name][row] is None else table[name][row] for row in rows], np.float64
        )

    exact = numbers("true_age_low") == numbers("true_age_high")
    female, guess = np.array([table["true_gender"][row] == "female" for row in rows]), numbers("p_female")
    labelled = np.array([table["true_gender"][row] is not None for row in rows]) & np.isfinite(guess)
    return {
        "age_error": np.where(exact, np.abs(numbers("mean") - numbers("true_age")), np.nan),
        "gender_error": np.where(labelled, (guess >= 0.5) != female, np.nan),
    }


def _subject_numbers(table: Mapping[str, list[Any]], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number the subjects [faces]; a face of unknown subject is one of its own."""
    names = [
        f"{table['dataset'][row]}/{table['subject'][row]}" if table["subject"][row] is not None else ""
        for row in rows
    ]
    return groups_of(np.array(names))


def _settings_of(experiment: Experiment) -> dict[str, Any]:
    described = experiment.model_dump(mode="json", include=set(_COMPARED))
    return {**described, **experiment.options.model_dump(mode="json")}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, entry in value.items():
        if isinstance(entry, dict):
            found |= _flat(entry, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = entry
    return found


def _mean(errors: Floats) -> float | None:
    known = errors[np.isfinite(errors)]
    return float(known.mean()) if len(known) else None


def _rank(one: Compared) -> tuple[float, float]:
    """Return the age error, then the gender error; an experiment without one comes last."""
    first, second = one.age_error, one.gender_error
    return np.inf if first is None else first, np.inf if second is None else second


def _difference(
    first: str,
    second: str,
    metric: Literal["age_error", "gender_error"],
    errors: Mapping[str, dict[str, Floats]],
    subjects: npt.NDArray[np.int64],
) -> PairedDifference | None:
    """Return a paired difference with its `mean_interval`; None without a face that both judged."""
    values = errors[first][metric] - errors[second][metric]
    known = np.isfinite(values)
    if not known.any():
        return None
    group = np.unique(subjects[known], return_inverse=True)[1]
    count = int(group.max()) + 1
    enough = count >= _LEAST_SUBJECTS[metric]
    interval = mean_interval(values[known], group) if enough else None
    difference = float(values[known].mean())
    return PairedDifference(
        first=first,
        second=second,
        metric=metric,
        faces=int(known.sum()),
        subjects=count,
        difference=difference,
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        summary=_verdict(first, second, metric, difference, interval)
        + f" on {int(known.sum()):,} faces of {count:,} subject{'s' if count > 1 else ''}.",
    )


def _verdict(
    first: str, second: str, metric: str, difference: float, interval: tuple[float, float] | None
) -> str:
    unit, scale, what = (
        ("years", 1, "age error") if metric == "age_error" else ("points", 100, "gender error")
    )
    differs = f"differs by {scale * difference:+.2f} {unit}"
    if interval is None:
        return (
            f"{first} and {second} have too few subjects in common to compare them (at least "
            f"{_LEAST_SUBJECTS[metric]}): the {what} {differs}"
        )
    low, high = interval
    verdict = "better than" if high < 0 else "worse than" if low > 0 else "not clearly different from"
    return (
        f"{first} is {verdict} {second}: its {what} {differs} "
        f"(95 % confidence: {scale * low:+.2f} to {scale * high:+.2f})"
    )
