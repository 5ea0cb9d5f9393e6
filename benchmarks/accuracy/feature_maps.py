"""`python -m benchmarks.accuracy.feature_maps PACK_DIR FIRST SECOND`: which layers of ArcFace to read.

Compares the recogniser's own embedding, each of the projected feature maps, their joint projection, and the
same for the crop and its mirror image. Heads are trained on one data set and tested on the other, in both
directions, and cross-validated with two folds on both together. Prints a table. Both folders have a
`labels.csv`; a sample of their faces is used.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from agegender.heads.head import Classes, Task, over_years
from agegender.heads.networks import Mlp
from agegender.images import ImageLimits, decode
from agegender.spaces import Space
from embedder.alignment import crop, similarity, template
from embedder.packs.insightface import (
    ArcFaceEmbedder,
    FeatureMapEmbedder,
    ScrfdDetector,
    find_models,
    load_arcface,
    load_projection,
    mapped_model,
    projected_model,
)
from embedder.packs.pack import Embedder, MirroredEmbedder
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.formats.tables import IMAGE_SET, read
from trainer.datasets.labels import LabelledImage
from trainer.evaluation import age_metrics, gender_metrics, member_probabilities
from trainer.training.config import OptimizerOptions, TrainingOptions
from trainer.training.train import train_bank

from benchmarks.accuracy.tables import Table

Array = npt.NDArray[np.float32]
OPTIONS = TrainingOptions(
    head=Mlp(hidden=(512,), dropout=0.4, input_dropout=0.2),
    optimizer=OptimizerOptions(epochs=25, learning_rate=1e-3, patience=25),
    seeds=2,
)
COLUMNS = ["read", "numbers", "first → second", "second → first", "first, cross-validated", "second"]
SIZE = ArcFaceEmbedder.size


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy.feature_maps", description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("datasets", type=Path, nargs=2)
    parser.add_argument("--faces", type=int, default=2000, help="sample per data set")
    arguments = parser.parse_args()
    threads = os.cpu_count() or 1
    detector, recogniser = find_models(arguments.pack)
    scrfd = ScrfdDetector(detector, threads)
    crops, labels, origin = [], [], []
    for number, folder in enumerate(arguments.datasets):
        for image in _sample(folder, arguments.faces):
            picture = decode((folder / image.file).read_bytes(), ImageLimits())
            for landmarks in scrfd.detect(picture).landmarks[:1]:
                crops.append(crop(picture, similarity(landmarks, template(SIZE, 1.0)), SIZE))
                labels.append(image)
                origin.append(number)
    aligned = np.stack(crops)
    embedders: dict[str, Embedder] = {
        "ArcFace's embedding": ArcFaceEmbedder(load_arcface(recogniser, threads))
    }
    if projection := load_projection(recogniser.stem):
        model = onnx.load(recogniser)
        for one in projection.maps:
            embedders[f"the map {one.tensor}"] = FeatureMapEmbedder(mapped_model(model, [one]), threads)
        projected = FeatureMapEmbedder(projected_model(model, projection), threads)
        embedders["the maps projected together"] = projected
        embedders["the same of the crop and its mirror image, summed"] = MirroredEmbedder(projected)
    rows = []
    for name, embedder in embedders.items():
        features = embedder.embed(aligned)
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        faces = _faces(unit.astype(np.float32), labels)
        rows.append([name, str(features.shape[1]), *_figures(faces, np.array(origin))])
    names = " and ".join(folder.resolve().name for folder in arguments.datasets)
    title = f"MAE in years / gender accuracy, {len(labels)} faces of {names}"
    print(Table(title, COLUMNS, rows).markdown())


def _sample(folder: Path, faces: int) -> list[LabelledImage]:
    rows = [row for row in read(folder, IMAGE_SET) if isinstance(row, LabelledImage)]
    selected = np.random.default_rng(0).permutation(len(rows))[:faces]
    return [rows[index] for index in sorted(selected)]


def _faces(features: Array, labels: list[LabelledImage]) -> EmbeddingSet:
    dimension = features.shape[1]
    return EmbeddingSet(
        space=Space(id="feature-map", dimension=dimension),
        file=np.array([image.file for image in labels]),
        embedding=features,
        age_low=np.array([image.age_low for image in labels], np.float32),
        age_high=np.array([image.age_high for image in labels], np.float32),
        gender=np.array([image.gender for image in labels], np.int8),
        subject=np.array([""] * len(labels)),
        fold=np.full(len(labels), -1, np.int16),
        embedding_mirrored=np.zeros((0, dimension), np.float32),
    )


def _figures(faces: EmbeddingSet, origin: npt.NDArray[np.int64]) -> list[str]:
    half = np.random.default_rng(1).permutation(len(faces)) % 2
    first, second = origin == 0, origin == 1
    cells = [_said(faces, first, second), _said(faces, second, first)]
    both = [(_answers(faces, half != side, half == side), half == side) for side in (0, 1)]
    for own in (first, second):
        age, gender = np.zeros((len(faces), 101), np.float32), np.zeros((len(faces), 2), np.float32)
        for (of_age, of_gender), tested in both:
            age[tested], gender[tested] = of_age, of_gender
        cells.append(_cell(age[own], gender[own], faces.rows(own)))
    return cells


def _said(faces: EmbeddingSet, fit: npt.NDArray[np.bool_], tested: npt.NDArray[np.bool_]) -> str:
    return _cell(*_answers(faces, fit, tested), faces.rows(tested))


def _answers(
    faces: EmbeddingSet, fit: npt.NDArray[np.bool_], tested: npt.NDArray[np.bool_]
) -> tuple[Array, Array]:
    validates = np.random.default_rng(2).random(len(faces)) < 0.1
    bank = train_bank(faces.rows(fit & ~validates), faces.rows(fit & validates), OPTIONS, fold=0)
    predicted = member_probabilities(bank.tensors, OPTIONS, faces.rows(tested))
    age = over_years(predicted[Task.AGE].mean(axis=0), Classes.YEARS)
    return np.asarray(age, np.float32), np.asarray(predicted[Task.GENDER].mean(axis=0), np.float32)


def _cell(age: Array, gender: Array, faces: EmbeddingSet) -> str:
    return f"{age_metrics(age, faces)['mae']:.2f} / {gender_metrics(gender, faces)['accuracy']:.3f}"


if __name__ == "__main__":
    main()
