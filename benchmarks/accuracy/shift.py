"""Judge heads on faces unlike those they were trained on: other data sets, slices, and damaged images.

Each row has the share of faces found, MAE in years, gender accuracy, coverage and mean width of the 90 %
interval without and with familiarity (both with the scale that low quality causes), and the median
familiarity. "Ranks" has Spearman's correlation of the absolute age error with entropy, width, quality and
familiarity; "–" where a quality is not known. AURC is the mean error over all shares of faces answered,
narrowest intervals first (arXiv 1805.08206), in years.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.heads.calibration import added_years, mean_years, tempered
from agegender.heads.head import Task, over_years
from agegender.labels import MAX_AGE, group_probabilities
from agegender.predictions import entropy
from embedder.packs.pack import Pack
from scipy.stats import spearmanr
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.folds import groups_of, strata_of, validation_split
from trainer.evaluation import REPORTED_COVERAGE, Calibration, OutOfFold, calibrate, member_probabilities
from trainer.experiments.experiment import fold_dir, load_experiment
from trainer.experiments.experiment_data import labelled, load_faces, read_out_of_fold
from trainer.training.config import TrainingOptions
from trainer.training.train import train_bank

from benchmarks.accuracy.answers import experiment_faces, fold_bank
from benchmarks.accuracy.fairness import UTKFACE_RACES, utkface_races
from benchmarks.accuracy.shifted_images import CONDITIONS, shifted_faces
from benchmarks.accuracy.tables import Table
from benchmarks.quality_intervals import CONFIRMATION, DEVELOPMENT, TRAINED, name_hash

Numbers = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Bank = dict[str, npt.NDArray[np.float32]]

MOST_FACES = 3000  # of a data set that the networks have not seen
PER_SET = 60  # faces per data set and condition
SMALLEST_SLICE = 50
AGE_BANDS = ((0, 12), (13, 24), (25, 49), (50, 100))
COLUMNS = [
    "faces",
    "count",
    "found",
    "MAE",
    "gender",
    "without familiarity: covered, width",
    "covered by 90 %",
    "width",
    "familiarity",
    "ranks: entropy, width, quality, familiarity",
    "AURC",
]


@dataclass(frozen=True)
class Judged:
    """Answers for faces that were found; every array has one row per face.

    plain, extended : low and high ends of the 90 % interval [faces, 2], without and with familiarity.
    quality : score; NaN if it is not known.
    """

    faces: EmbeddingSet
    age: Numbers
    gender: Numbers
    plain: Numbers
    extended: Numbers
    quality: Numbers
    familiarity: Numbers

    def rows(self, rows: Mask) -> "Judged":
        arrays = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return Judged(faces=self.faces.rows(rows), **arrays)

    def row(self, name: str, found: float = 1.0) -> list[str]:
        """Return the row of a table."""
        true = (self.faces.age_low + self.faces.age_high) / 2
        errors = np.abs(mean_years(self.age) - true)
        widths = self.extended[:, 1] - self.extended[:, 0]
        known = self.faces.has_gender
        right = self.gender.argmax(axis=1)[known] == self.faces.gender[known]
        ranks = [entropy(group_probabilities(self.age)), widths, self.quality, self.familiarity]
        risk = np.cumsum(errors[np.argsort(widths, kind="stable")]) / np.arange(1, len(errors) + 1)
        return [
            name,
            str(len(self.faces)),
            f"{found:.3f}",
            f"{errors.mean():.2f}",
            f"{right.mean():.3f}",
            f"{_covered(self.plain, true):.3f}, {(self.plain[:, 1] - self.plain[:, 0]).mean():.1f}",
            f"{_covered(self.extended, true):.3f}",
            f"{widths.mean():.1f}",
            f"{np.median(self.familiarity):.2f}",
            ", ".join(_rank(values, errors) for values in ranks),
            f"{risk.mean():.2f}",
        ]


def shift(name: str, data_dir: Path, experiment_id: str, pack: Pack, *, confirm: bool) -> Iterator[Table]:
    """Yield the tables across data sets, which train heads with the recipe, and of damaged images.

    confirm : take the images reserved for confirmation; methods are selected on the others.
    """
    experiment = load_experiment(data_dir, experiment_id)
    pack.space.require(experiment.space)
    options = experiment.options
    sets = {
        one: labelled(load_faces(data_dir, [one], experiment.space, experiment.image_set), options)
        for one in experiment.datasets
    }
    for source, faces in sets.items():
        bank, calibration = _trained(faces, options)
        lines = []
        for target, others in sets.items():
            unseen = others.rows(faces.fold == 0) if target == source else _sample(others)
            judged = _judged(bank, calibration, options, unseen)
            lines.append(judged.row(f"{target}, {'at home' if target == source else 'unseen'}"))
            lines += [judged.rows(rows).row(f"– {label}") for label, rows in _slices(judged.faces)]
        yield Table(f"Trained on {source}: {name}", COLUMNS, lines)
    files = _files(experiment_faces(data_dir, experiment), list(sets), confirm)
    half = "confirmation" if confirm else "development"
    title = f"Damaged images, {len(files)} {half} faces: {name}"
    yield Table(title, COLUMNS, list(_damaged(data_dir, experiment_id, pack, files)))


def _trained(faces: EmbeddingSet, options: TrainingOptions) -> tuple[Bank, Calibration]:
    """Train an ensemble on all folds but the first two, and calibrate it on the second."""
    fit, calibrates = faces.rows(faces.fold > 1), faces.rows(faces.fold == 1)
    strata = strata_of(fit.age_low, fit.age_high, fit.gender)
    validates = validation_split(strata, groups_of(fit.subject), options.validation, seed=options.seed)
    bank = train_bank(fit.rows(~validates), fit.rows(validates), options, fold=0).tensors
    predicted = member_probabilities(bank, options, calibrates)
    found = OutOfFold(calibrates, {task: values.mean(axis=0) for task, values in predicted.items()})
    classes = dict(options.tasks)[Task.AGE]
    return bank, calibrate(found, Task.AGE, classes, np.ones(len(calibrates), dtype=bool))


def _judged(
    bank: Bank,
    calibration: Calibration,
    options: TrainingOptions,
    faces: EmbeddingSet,
    quality: Numbers | None = None,
    scale: Numbers | None = None,
) -> Judged:
    """Answer as the predictor does, whose intervals grow by the larger of both causes."""
    assert calibration.conformal is not None
    assert calibration.familiarity is not None
    predicted = member_probabilities(bank, options, faces)
    classes = dict(options.tasks)[Task.AGE]
    years = over_years(
        np.asarray(tempered(predicted[Task.AGE].mean(axis=0), calibration.temperature)), classes
    )
    low, high = calibration.conformal.intervals(years, REPORTED_COVERAGE)
    familiarity = calibration.familiarity.of(faces.embedding)
    middle, half = (low + high) / 2, (high - low) / 2
    scaled = half if scale is None else half * scale
    extended = np.maximum(scaled, half + added_years(familiarity, REPORTED_COVERAGE))
    return Judged(
        faces=faces,
        age=years,
        gender=predicted[Task.GENDER].mean(axis=0),
        plain=_ends(middle, scaled),
        extended=_ends(middle, extended),
        quality=np.full(len(faces), np.nan) if quality is None else quality,
        familiarity=familiarity,
    )


def _damaged(data_dir: Path, experiment_id: str, pack: Pack, files: list[str]) -> Iterator[list[str]]:
    """Yield a row per condition, of faces judged by the networks that held their fold out."""
    experiment = load_experiment(data_dir, experiment_id)
    options, everything = experiment.options, experiment_faces(data_dir, experiment)
    directories = [fold_dir(data_dir, experiment.id, fold) for fold in experiment.folds]
    found = read_out_of_fold(data_dir, experiment, directories)
    classes = dict(options.tasks)[Task.AGE]
    calibrations = {
        fold: calibrate(found, Task.AGE, classes, found.faces.fold != fold) for fold in experiment.folds
    }
    positions = {str(file): row for row, file in enumerate(everything.file)}
    faces = everything.rows(np.array([positions[file] for file in files]))
    for condition in CONDITIONS:
        shifted = shifted_faces(pack, data_dir, files, condition)
        kept = replace(faces, embedding=shifted.embedding, embedding_mirrored=faces.embedding_mirrored[:0])
        parts = []
        for fold in experiment.folds:
            own = shifted.found & (faces.fold == fold)
            if own.any():
                bank, of_fold = fold_bank(data_dir, experiment, fold), calibrations[fold]
                quality, scale = shifted.quality[own], shifted.interval_scale[own]
                parts.append(_judged(bank, of_fold, options, kept.rows(own), quality, scale))
        yield _concatenated(parts).row(condition, float(shifted.found.mean()))


def _concatenated(parts: list[Judged]) -> Judged:
    def columns(members: Sequence[object]) -> dict[str, Any]:
        names = [name for name, value in vars(members[0]).items() if isinstance(value, np.ndarray)]
        return {name: np.concatenate([getattr(member, name) for member in members]) for name in names}

    faces = replace(parts[0].faces, **columns([part.faces for part in parts]))
    return Judged(faces=faces, **columns(parts))


def _files(faces: EmbeddingSet, names: list[str], confirm: bool) -> list[str]:
    """Return the first files of each set, in the order of their hashes."""
    digits = CONFIRMATION if confirm else TRAINED + DEVELOPMENT
    ordered = sorted((file for file in map(str, faces.file) if name_hash(file)[0] in digits), key=name_hash)
    return [
        file for name in names for file in [one for one in ordered if one.startswith(f"{name}/")][:PER_SET]
    ]


def _sample(faces: EmbeddingSet) -> EmbeddingSet:
    return faces.rows(np.random.default_rng(0).permutation(len(faces))[:MOST_FACES])


def _slices(faces: EmbeddingSet) -> Iterator[tuple[str, Mask]]:
    ages, races = (faces.age_low + faces.age_high) / 2, utkface_races(faces)
    slices = {f"{first} to {last}": (ages >= first) & (ages < last + 1) for first, last in AGE_BANDS}
    slices |= {name: races == race for race, name in enumerate(UTKFACE_RACES)}
    yield from ((name, rows) for name, rows in slices.items() if rows.sum() >= SMALLEST_SLICE)


def _ends(middle: Numbers, half: Numbers) -> Numbers:
    return np.clip(np.stack([middle - half, middle + half], axis=1), 0, MAX_AGE)


def _covered(ends: Numbers, true: Numbers) -> float:
    return float(((ends[:, 0] <= true) & (true <= ends[:, 1])).mean())


def _rank(values: Numbers, errors: Numbers) -> str:
    known = np.isfinite(values)
    if len(np.unique(values[known])) < 2:
        return "–"
    return f"{spearmanr(values[known], errors[known]).statistic:.2f}"
