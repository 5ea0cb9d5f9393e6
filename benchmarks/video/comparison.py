"""Compare the answer per person with its best single frame and with the mean of its frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from agegender.predictions import FaceEstimate
from agegender.video.persons import Answer

from benchmarks.accuracy.tables import Table
from benchmarks.video.choose import Score
from benchmarks.video.measured import Following, Measured, Seen


@dataclass(frozen=True)
class Estimate:
    mean: float
    low: float
    high: float
    female: float


def best_frame(faces: Sequence[Seen]) -> Estimate:
    """Return the answer for the face of the best quality."""
    return _estimate(max(faces, key=lambda one: one.face.quality.score).face)


def mean_of_frames(faces: Sequence[Seen], independent: bool = False) -> Estimate:
    """Return the means of all answers, interval ends included.

    independent : divide the width by the root of the number of faces, as if each were another person's.
    """
    all_faces = [_estimate(one.face) for one in faces]
    mean, low, high, female = np.mean(
        [(one.mean, one.low, one.high, one.female) for one in all_faces], axis=0
    ).tolist()
    share = len(faces) ** -0.5 if independent else 1.0
    return Estimate(mean, mean - share * (mean - low), mean + share * (high - mean), female)


def _estimate(answer: FaceEstimate) -> Estimate:
    return Estimate(answer.age.mean, *answer.age.interval, answer.gender.probability["female"])


def per_person(measured: Sequence[Measured]) -> Table:
    """Return errors, coverage and width per person for each way to answer."""
    ways: dict[str, list[Estimate]] = {
        "best single frame": [],
        "mean of all frames": [],
        "mean of all frames, as if independent": [],
        "combined": [],
    }
    ages, females, faces = [], [], []
    for one in measured:
        for person, seen, found in one.answers():
            ages.append(person.age)
            females.append(person.female)
            faces.append(found.effective_faces)
            ways["best single frame"].append(best_frame(seen))
            ways["mean of all frames"].append(mean_of_frames(seen))
            ways["mean of all frames, as if independent"].append(mean_of_frames(seen, independent=True))
            ways["combined"].append(
                Estimate(found.age.mean, *found.age.interval, found.gender.probability["female"])
            )
    columns = ["answer", "persons", "MAE", "coverage", "width", "interval score", "gender", "log loss"]
    table = Table("Per person", columns, [])
    truth, female = np.array(ages), np.array(females)
    for name, estimates in ways.items():
        mean, low, high, p_female = np.array(
            [(one.mean, one.low, one.high, one.female) for one in estimates]
        ).T
        score = Score.of(truth, low, high)
        right = np.where(female, p_female, 1 - p_female)
        table.rows.append(
            [
                name,
                str(len(truth)),
                f"{np.abs(mean - truth).mean():.2f}",
                f"{score.coverage:.3f}",
                f"{score.width:.1f}",
                f"{score.score:.1f}",
                f"{(right > 0.5).mean():.3f}",
                f"{-np.log(np.maximum(right, 1e-5)).mean():.3f}",
            ]
        )
    table.rows.append(["effective faces, median", f"{np.median(faces):.2f}", *[""] * 6])
    return table


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors in years."""

    persons: int
    best: float
    mean: float
    combined: float


def maes(measured: Sequence[Measured]) -> Errors:
    """Return the errors per person of the best single frame, the mean of all frames, and the answer."""
    errors = np.array(
        [
            [
                abs(person.age - estimated)
                for estimated in (best_frame(seen).mean, mean_of_frames(seen).mean, found.age.mean)
            ]
            for one in measured
            for person, seen, found in one.answers()
        ]
    )
    return Errors(len(errors), *errors.mean(axis=0).tolist())


def following(measured: Sequence[Measured]) -> Table:
    """Return how well persons are followed, in all clips and per encoding."""
    columns = ["clips", "persons", "answered", "frames with a track", "switches", "mixed tracks"]
    table = Table("Following", [*columns, "split", "merged", "nobody"], [])
    counts = Following()
    for one in measured:
        counts.add(one)
    table.rows.append(
        [
            str(len(measured)),
            str(counts.persons),
            str(counts.answered),
            f"{counts.found} of {counts.sightings}",
            *map(str, (counts.switches, counts.mixed, counts.split, counts.merged, counts.nobody)),
        ]
    )
    return table


def label_changes(measured: Sequence[Measured]) -> tuple[float, float]:
    """Return changes per second of "31, female" beside a face: of each frame's answer, and of the track's."""
    seconds, alone, tracked = 0.0, 0, 0
    for one in measured:
        for person in one.truth.persons:
            for before, after in pairwise(one.of_person(person.person)):
                if after.seconds - before.seconds > 1:
                    continue
                seconds += after.seconds - before.seconds
                alone += _label(before.face) != _label(after.face)
                tracked += _label(before.so_far) != _label(after.so_far)
    return alone / max(seconds, 1e-9), tracked / max(seconds, 1e-9)


def labels(measured: Sequence[Measured]) -> Table:
    alone, tracked = label_changes(measured)
    rows = [["each frame's answer", f"{alone:.2f}"], ["the track's answer so far", f"{tracked:.2f}"]]
    return Table("Changes of label", ["label", "changes per second and person"], rows)


def _label(answer: FaceEstimate | Answer) -> tuple[int, str]:
    return round(answer.age.mean), answer.gender.label
