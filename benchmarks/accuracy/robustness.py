"""Evaluate held-out faces on degraded images."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from agegender.heads.calibration import added_years, tempered
from agegender.heads.head import Task
from embedder.detection.search import Detections
from embedder.packs.pack import Pack
from embedder.packs.store import load_pack
from PIL import Image, ImageEnhance, ImageFilter
from predictor.quality import face_quality
from trainer.evaluation import REPORTED_COVERAGE, age_metrics, calibrate, gender_metrics, member_probabilities
from trainer.experiments.experiment import Experiment, fold_dir, load_experiment
from trainer.experiments.experiment_data import read_out_of_fold

from benchmarks.accuracy.answers import experiment_faces, fold_bank
from benchmarks.accuracy.tables import Table

FACES = 500
BOX_ERROR = 0.1  # of the box's sides
COLUMNS = ["images", "found", "MAE", "groups", "gender", "covered by 90 %", "width", "quality"]


def _jpeg(photo: Image.Image) -> Image.Image:
    file = BytesIO()
    photo.save(file, "JPEG", quality=30)
    return Image.open(file)


def _half(photo: Image.Image) -> Image.Image:
    return photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BILINEAR)


def _rotated(angle: float) -> Callable[[Image.Image], Image.Image]:
    return lambda photo: photo.rotate(angle, Image.Resampling.BILINEAR, expand=True)


CONDITIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as they are": lambda photo: photo,
    "JPEG quality 30": _jpeg,
    "half resolution": _half,
    "blurred, radius 2 pixels": lambda photo: photo.filter(ImageFilter.GaussianBlur(2)),
    "rotated by 30°": _rotated(30),
    "rotated by -30°": _rotated(-30),
    "a third of the light": lambda photo: ImageEnhance.Brightness(photo).enhance(1 / 3),
    "grayscale": lambda photo: photo.convert("L").convert("RGB"),
    "box off by 10 %": lambda photo: photo,
}


def robustness(name: str, data_dir: Path, experiment_id: str, pack: Pack) -> Table:
    """Evaluate the same faces under each condition, by the networks that held their fold out."""
    experiment = load_experiment(data_dir, experiment_id)
    pack.space.require(experiment.space)
    lines = [[label, *_figures(data_dir, experiment, pack, label)] for label in CONDITIONS]
    return Table(f"Robustness, {FACES} faces: {name}", COLUMNS, lines)


def load(name: str, data_dir: Path, pack_dir: Path | None, human_dir: Path | None) -> Pack:
    return load_pack(name, data_dir / "packs", pack_dir, human_dir, 2)


def _figures(data_dir: Path, experiment: Experiment, pack: Pack, label: str) -> list[str]:
    faces = experiment_faces(data_dir, experiment)
    directories = [fold_dir(data_dir, experiment.id, fold) for fold in experiment.folds]
    everything = read_out_of_fold(data_dir, experiment, directories)
    sample = np.random.default_rng(1).choice(len(faces), FACES, replace=False)
    draws = np.random.default_rng(2)
    embeddings, kept, quality, scales = [], [], [], []
    for index in sample:
        with Image.open(data_dir / str(faces.file[index])) as file:
            pixels = np.asarray(CONDITIONS[label](file.convert("RGB")).convert("RGB"))
        found = _first(pack.detect([pixels])[0])
        if len(found.score) == 0:
            continue
        if label.startswith("box"):
            found = _moved(found, draws)
        face = pack.embed([pixels], [found])[0][0]
        rated = face_quality(face)
        embeddings.append(face.embedding)
        kept.append(index)
        quality.append(rated.score)
        scales.append(rated.interval_scale)
    found_faces = faces.rows(np.array(kept))
    found_faces = type(found_faces)(
        **{**vars(found_faces), "embedding": np.array(embeddings, dtype=np.float32)}
    )
    age, gender = np.zeros((len(found_faces), 101), np.float32), np.zeros((len(found_faces), 2), np.float32)
    low, high, added = (np.zeros(len(found_faces)) for _ in range(3))
    classes = dict(experiment.options.tasks)
    for fold in experiment.folds:
        own = np.flatnonzero(found_faces.fold == fold)
        bank = fold_bank(data_dir, experiment, fold)
        predicted = member_probabilities(bank, experiment.options, found_faces.rows(own))
        age[own], gender[own] = predicted[Task.AGE].mean(axis=0), predicted[Task.GENDER].mean(axis=0)
        others = everything.faces.fold != fold
        calibration = calibrate(everything, Task.AGE, classes[Task.AGE], others)
        assert calibration.conformal is not None
        age[own] = tempered(age[own], calibration.temperature)
        assert calibration.familiarity is not None
        low[own], high[own] = calibration.conformal.intervals(age[own], REPORTED_COVERAGE)
        familiarity = calibration.familiarity.of(found_faces.embedding[own])
        added[own] = added_years(familiarity, REPORTED_COVERAGE)
    middle, half = (low + high) / 2, (high - low) / 2
    half = np.maximum(np.array(scales) * half, half + added)
    inside = np.abs(found_faces.age_low - middle) <= half
    of_age = age_metrics(age, found_faces)
    return [
        f"{len(found_faces) / FACES:.3f}",
        f"{of_age['mae']:.2f}",
        f"{of_age['group_accuracy']:.3f}",
        f"{gender_metrics(gender, found_faces)['accuracy']:.3f}",
        f"{inside.mean():.3f}",
        f"{2 * half.mean():.1f}",
        f"{np.mean(quality):.2f}",
    ]


def _first(found: Detections) -> Detections:
    return Detections(found.bbox[:1], found.score[:1], found.landmarks[:1])


def _moved(found: Detections, draws: np.random.Generator) -> Detections:
    """Move box and landmarks by a tenth of the box's sides in a random direction."""
    angle = draws.uniform(0, 2 * np.pi)
    sides = found.bbox[:, 2:] - found.bbox[:, :2]
    shift = (BOX_ERROR * sides * [np.cos(angle), np.sin(angle)]).astype(np.float32)
    return Detections(found.bbox + np.tile(shift, 2), found.score, found.landmarks + shift[:, None])
