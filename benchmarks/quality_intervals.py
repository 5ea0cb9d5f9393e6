"""`python -m benchmarks.quality_intervals DATA_DIR`: reasons and intervals of damaged faces.

DATA_DIR has `utkface` and `all-age-faces` as extracted by the trainer in the pack's space, with their images.
Heads are trained on faces whose file name has a SHA-256 that starts with 0 to 3, and calibrated on a fifth of
these. They are evaluated on other faces, undamaged and damaged (`tools.damage`): those with 4 to 7 to select
limits, or, with --confirm, the first 500 of each set with 8 to f. For each damage the table has the share
found, the mean absolute error, coverage and mean width of the 90 % interval (with all reasons, and with size,
blur, pose and detection score only), and the share of faces with each reason. Images that are cut at the box
of their face are embedded whole, without detection: by typical landmarks, and by those that the pack places.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
from agegender.faces import Face, ImageFaces
from agegender.heads.calibration import tempered
from agegender.heads.head import Classes, Task
from agegender.images import ImageLimits, decode
from agegender.labels import MAX_AGE
from agegender.predictions import Quality, QualityReason
from embedder.detection.search import Detections
from embedder.packs.pack import Pack, typical_landmarks
from embedder.packs.store import load_pack
from PIL import Image, ImageFilter
from predictor.quality import face_quality
from pydantic import BaseModel
from rich.progress import track
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.folds import groups_of, strata_of, stratified_folds, validation_split
from trainer.evaluation import Calibration, OutOfFold, calibrate, member_probabilities
from trainer.experiments.experiment_data import labelled, load_faces
from trainer.training.config import TrainingOptions
from trainer.training.train import TrainedBank, train_bank

from tools.damage import DAMAGE, damaged
from tools.stack import RESEARCH_DATA, ROOT

SETS = ("utkface", "all-age-faces")
TRAINED, DEVELOPMENT, CONFIRMATION = "0123", "4567", "89abcdef"
COVERAGE = 0.9
UNDAMAGED = "undamaged"
COLUMNS = (
    "damage",
    "faces",
    "found",
    "MAE",
    "inside",
    "width",
    "inside by older reasons",
    "width by older reasons",
    "right reason",
    "reasons",
)
OLDER = ("blurred, radius 4 pixels", "shrunk to 50 pixels")  # damage that the older reasons detect
WHOLE = ("whole crop, typical landmarks", "whole crop, landmarks as served")  # without detection
RACES = ("White", "Black", "Asian", "Indian", "other")  # in UTKFace's file names


class Sample(BaseModel):
    """A face, undamaged or damaged; `face` is None if it was not found."""

    file: str
    damage: str
    years: float
    size: tuple[int, int]
    face: Face | None


Numbers = npt.NDArray[np.floating]


@dataclass(frozen=True)
class TrainedHeads:
    options: TrainingOptions
    tensors: dict[str, npt.NDArray[np.float32]]
    calibration: Calibration
    like: EmbeddingSet

    def intervals(self, samples: Sequence[Sample]) -> tuple[Numbers, Numbers, Numbers]:
        """Mean, low and high end in years of each sample's age, without a quality factor."""
        embedding = np.array([sample.face.embedding for sample in samples if sample.face], np.float32)
        rows = self.like.rows(np.zeros(len(embedding), dtype=np.int64))
        faces = replace(rows, embedding=embedding, embedding_mirrored=embedding[:0])
        years = member_probabilities(self.tensors, self.options, faces)[Task.AGE].mean(axis=0)
        years = np.asarray(tempered(years, self.calibration.temperature))
        assert self.calibration.conformal is not None
        low, high = self.calibration.conformal.intervals(years, COVERAGE)
        return years @ np.arange(years.shape[1]), low, high


def name_hash(file: str) -> str:
    return hashlib.sha256(Path(file).name.encode()).hexdigest()


def train_one_fold(faces: EmbeddingSet, options: TrainingOptions) -> tuple[TrainedBank, OutOfFold]:
    """Train a bank on four fifths of the subjects, and predict the last fifth."""
    folds = stratified_folds(
        strata_of(faces.age_low, faces.age_high, faces.gender), groups_of(faces.subject), 5
    )
    calibrates, fits = faces.rows(folds == 0), faces.rows(folds != 0)
    strata = strata_of(fits.age_low, fits.age_high, fits.gender)
    validates = validation_split(strata, groups_of(fits.subject), options.validation, seed=options.seed)
    bank = train_bank(fits.rows(~validates), fits.rows(validates), options, fold=0)
    predicted = member_probabilities(bank.tensors, options, calibrates)
    return bank, OutOfFold(calibrates, {task: values.mean(axis=0) for task, values in predicted.items()})


def train_heads(faces: EmbeddingSet, options: TrainingOptions) -> TrainedHeads:
    own = faces.rows(np.array([name_hash(file)[0] in TRAINED for file in faces.file]))
    bank, found = train_one_fold(own, options)
    every = np.ones(len(found.faces), dtype=bool)
    return TrainedHeads(options, bank.tensors, calibrate(found, Task.AGE, Classes.YEARS, every), own)


def selected(faces: EmbeddingSet, confirm: bool, count: int) -> list[tuple[str, float]]:
    """Return file and age of `count` faces per set, alternating and in the order of their hashes."""
    digits = CONFIRMATION if confirm else DEVELOPMENT
    hashes = {str(file): name_hash(file) for file in faces.file}
    ages = dict(zip(faces.file.tolist(), ((faces.age_low + faces.age_high) / 2).tolist(), strict=True))
    files = sorted((file for file in hashes if hashes[file][0] in digits), key=hashes.__getitem__)
    sets = [[file for file in files if file.startswith(f"{name}/")][:count] for name in SETS]
    return [(file, ages[file]) for pair in zip(*sets, strict=True) for file in pair]


def samples(
    pack: Pack, data_dir: Path, files: Sequence[tuple[str, float]], every: int, *, whole_only: bool
) -> Iterator[Sample]:
    """Yield each face undamaged, whole, and with every `every`-th kind of damage, alternating."""
    for number, (file, years) in enumerate(track(files, "faces")):
        image = decode((data_dir / file).read_bytes(), ImageLimits())
        undamaged = embedded_sample(pack, image, file, years, UNDAMAGED)
        yield undamaged
        if undamaged.face is None:
            continue
        detected = pack.detect([image])[0]
        yield from _whole(pack, image, detected, undamaged)
        if whole_only:
            continue
        landmarks = detected.landmarks[0]
        for name in list(DAMAGE)[number // len(SETS) % every :: every]:
            worse = damaged(image, landmarks, name, Path(file).name)
            yield embedded_sample(pack, worse, file, years, name)
        for kind, worse in zip(OLDER, _older(image), strict=True):
            if number // len(SETS) % every == 0:
                yield embedded_sample(pack, worse, file, years, kind)


def _older(image: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    yield np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(4)))
    yield np.asarray(Image.fromarray(image).resize((50, 50), Image.Resampling.BILINEAR))


def _whole(pack: Pack, image: npt.NDArray[np.uint8], detected: Detections, of: Sample) -> Iterator[Sample]:
    """Yield the part of an upright image in the box of its largest face as one face."""
    if detected.rotation:
        return
    x1, y1, x2, y2 = (max(0, round(end)) for end in detected.bbox[0].tolist())
    crop = np.ascontiguousarray(image[y1:y2, x1:x2])
    height, width = crop.shape[:2]
    none = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))
    served = pack.whole(crop, none)
    typical = replace(served, landmarks=typical_landmarks(width, height)[None])
    for damage, found in zip(WHOLE, (typical, served), strict=True):
        (face,) = pack.embed([crop], [found])[0]
        yield Sample(file=of.file, damage=damage, years=of.years, size=(width, height), face=face)


def embedded_sample(pack: Pack, image: npt.NDArray[np.uint8], file: str, years: float, damage: str) -> Sample:
    found = pack.detect([image])
    height, width = image.shape[:2]
    answer = ImageFaces(
        width=width, height=height, rotation=found[0].rotation, faces=pack.embed([image], found)[0]
    )
    face = None
    if answer.faces:
        upright = answer.upright(answer.faces[0])
        face = Face(**{**vars(answer.faces[0]), "bbox": upright.bbox, "landmarks": upright.landmarks})
    return Sample(file=file, damage=damage, years=years, size=answer.upright_size, face=face)


def older_quality(face: Face) -> Quality:
    """Return the quality by size, blur, pose and detection score only."""
    absent = {"covered": None, "brightness": None, "clipped": None, "border": False}
    return face_quality(face.model_copy(update=absent))


def report(heads: TrainedHeads, everything: Sequence[Sample]) -> None:
    kinds = list(dict.fromkeys(sample.damage for sample in everything))
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    found = [sample for sample in everything if sample.face]
    mean, low, high = heads.intervals(found)
    format_of = np.array([sample.damage for sample in found])
    years = np.array([sample.years for sample in found])
    now = [face_quality(sample.face, sample.size) for sample in found if sample.face]
    before = [older_quality(sample.face) for sample in found if sample.face]
    for kind in [UNDAMAGED, *(kind for kind in [*DAMAGE, *OLDER, *WHOLE] if kind in kinds)]:
        own = np.flatnonzero(format_of == kind)
        total = sum(sample.damage == kind for sample in everything)
        cells = [f"{total}", f"{len(own) / total:.3f}", f"{np.abs(years - mean)[own].mean():.2f}"]
        for quality in (now, before):
            middle = (low + high)[own] / 2
            half = np.array([quality[index].interval_scale for index in own]) * (high - low)[own] / 2
            ends = np.maximum(middle - half, 0), np.minimum(middle + half, MAX_AGE)
            inside = (ends[0] <= years[own]) & (years[own] <= ends[1])
            cells += [f"{inside.mean():.3f}", f"{(ends[1] - ends[0]).mean():.1f}"]
        reasons = [now[index].reasons for index in own]
        right = _right_reasons(kind)
        cells.append(f"{np.mean([bool(right & set(one)) for one in reasons]):.3f}" if right else "")
        counts = {reason: sum(reason in one for one in reasons) for one in reasons for reason in one}
        worst = sorted(counts, key=lambda reason: -counts[reason])
        cells.append(", ".join(f"{reason} {counts[reason] / max(len(own), 1):.3f}" for reason in worst))
        print(f"| {kind} | " + " | ".join(cells) + " |")
    undamaged = [index for index, sample in enumerate(found) if sample.damage == UNDAMAGED]
    factors(years, low, high, found, now)
    for label, members in _groups(undamaged, found):
        wrong = {
            reason: np.mean([reason in now[index].reasons for index in members])
            for reason in ("cut", "tight", "covered", "dark", "overexposed", "doubtful")
        }
        print(f"undamaged, {label}, {len(members)} faces: ", {name: f"{x:.3f}" for name, x in wrong.items()})


def _right_reasons(kind: str) -> set[str]:
    """Return whether a reason is right; a tight crop that ends within the face is also cut."""
    if kind in WHOLE:
        return {"undetected"}
    if kind not in DAMAGE:
        return set()
    reason = DAMAGE[kind][0]
    return {"tight", "cut"} if reason == "tight" else {reason}


def _groups(undamaged: Sequence[int], found: Sequence[Sample]) -> Iterator[tuple[str, list[int]]]:
    for name in SETS:
        yield name, [index for index in undamaged if found[index].file.startswith(name)]
    for digit, race in enumerate(RACES):
        own = [index for index in undamaged if found[index].file.startswith(SETS[0])]
        yield race, [index for index in own if Path(found[index].file).name.split("_")[2] == str(digit)]


def factors(
    years: Numbers,
    low: Numbers,
    high: Numbers,
    found: Sequence[Sample],
    quality: Sequence[Quality],
) -> None:
    """Print the factor on the half-width that gives the stated coverage.

    It is printed for faces of similar score, with the same reason, and with the same damage.
    """
    needed = np.abs(years - (low + high) / 2) / np.maximum((high - low) / 2, 0.5)
    scores = np.array([one.score for one in quality])
    groups = {
        f"score {a:.2f} to {b:.2f}": (scores >= a) & (scores < b)
        for a, b in ((0, 0.05), (0.05, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1), (1, 2))
    }
    for reason in get_args(QualityReason):
        groups[reason] = np.array([reason in one.reasons for one in quality])
    for kind in [*DAMAGE, *OLDER, *WHOLE]:
        groups[kind] = np.array([sample.damage == kind for sample in found])
    for name, rows in groups.items():
        if rows.sum() >= 20:
            factor = np.quantile(needed[rows], COVERAGE)
            print(f"{name}: {rows.sum()} faces, {np.mean(needed[rows] <= 1):.3f} inside, factor {factor:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.quality_intervals", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--pack", default="human")
    parser.add_argument(
        "--confirm", action="store_true", help="evaluate on the faces reserved for confirmation"
    )
    parser.add_argument("--count", type=int, default=500, help="faces per set")
    parser.add_argument("--every", type=int, default=10, help="damage each face in every so many-th way")
    parser.add_argument("--whole-only", action="store_true", help="no damage, only whole crops")
    parser.add_argument(
        "--samples", type=Path, help="file to store the embedded samples in, or to read them from"
    )
    arguments = parser.parse_args()
    own = ROOT / "data" / "packs" / "human"
    directory = own if arguments.pack == "human" else RESEARCH_DATA / "packs" / arguments.pack
    pack = load_pack(arguments.pack, directory.parent, directory, None, 1)
    options = TrainingOptions()
    faces = labelled(load_faces(arguments.data_dir, list(SETS), pack.space, "images"), options)
    kept: Path | None = arguments.samples
    if kept and kept.exists():
        everything = [Sample.model_validate_json(line) for line in kept.read_text().splitlines()]
    else:
        files = selected(faces, arguments.confirm, arguments.count)
        everything = list(
            samples(pack, arguments.data_dir, files, arguments.every, whole_only=arguments.whole_only)
        )
        if kept:
            kept.write_text("".join(sample.model_dump_json() + "\n" for sample in everything))
    report(train_heads(faces, options), everything)


if __name__ == "__main__":
    main()
