"""Choose the constants of the video analysis on persons of the development split, and print why.

Correlation of errors, likeness by cosine, threshold of joining, time between searched frames, and faces per
track. What is fitted to persons is judged on other persons (five folds).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, product
from typing import Final

import numpy as np
import numpy.typing as npt
from agegender.spaces import RECOGNISERS, Space
from agegender.video.persons import Correlation, Evidence, Pool, joined
from agegender.video.tracks import MAX_EVIDENCE, keep

from benchmarks.accuracy.tables import Table
from benchmarks.video.measured import Following, Measured
from benchmarks.video.observing import COVERAGE

Floats = npt.NDArray[np.float64]

FOLDS: Final = 5
RHOS: Final = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
COSINES: Final = tuple(product((0.3, 0.5, 0.7), (0.9, 0.95)))
SCORES: Final = (0.0, 0.7, 0.75, 0.8, 0.85, 0.9)
THRESHOLDS: Final = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)


@dataclass(frozen=True)
class Case:
    """A person with the faces that were found of it."""

    age: float
    female: bool
    faces: list[Evidence]


def cases(measured: Sequence[Measured]) -> list[Case]:
    """Return the persons with at least two faces, each with all its faces in the order of time."""
    found = []
    for one in measured:
        for person in one.truth.persons:
            faces = [Evidence.of(seen.face, seen.seconds) for seen in one.of_person(person.person)]
            if len(faces) > 1:
                found.append(Case(person.age, person.female, faces))
    return found


def kept(faces: Sequence[Evidence], correlation: Correlation) -> list[Evidence]:
    """Return the evidence that a track of these faces keeps."""
    evidence: list[Evidence] = []
    for face in faces:
        keep(evidence, face, correlation)
    return evidence


def evidence_changes(found: Sequence[Case], correlation: Correlation) -> Table:
    """Return how many faces, embedded like all, did not change the evidence of their person."""
    kept_already = full = 0
    for case in found:
        evidence: list[Evidence] = []
        for face in case.faces:
            was_full = len(evidence) == MAX_EVIDENCE
            if not keep(evidence, face, correlation):
                kept_already += 1
                full += was_full
    table = Table("Faces that did not change the evidence", ["faces", "unchanged", "with 12 faces"], [])
    table.rows.append([str(sum(len(case.faces) for case in found)), str(kept_already), str(full)])
    return table


def error_correlation(found: Sequence[Case]) -> Table:
    """Return the correlation of the standardised errors of two faces of a person, by their cosine."""
    rows: list[list[float]] = []
    for case in found:
        for one, other in combinations(case.faces, 2):
            errors = [_standardised(case.age, face.mean, face.below, face.above) for face in (one, other)]
            odds = [_surprise(case.female, face.p_female) for face in (one, other)]
            rows.append([float(one.embedding @ other.embedding), *errors, *odds])
    pairs = np.array(rows)
    table = Table("Error correlation", ["cosine", "pairs", "age", "gender"], [])
    edges = np.unique(np.quantile(pairs[:, 0], np.linspace(0, 1, 7)).round(2))
    for low, high in [*pairwise(edges), (edges[0] - 1, edges[-1] + 1)]:
        own = pairs[(pairs[:, 0] >= low) & (pairs[:, 0] < high)]
        if len(own):
            name = "all" if high > 1.5 else f"{low:.2f} to {high:.2f}"
            values = [_correlated(own[:, 1], own[:, 2]), _correlated(own[:, 3], own[:, 4])]
            table.rows.append([name, str(len(own)), *(f"{value:.3f}" for value in values)])
    return table


def _correlated(one: Floats, other: Floats) -> float:
    """Return the intraclass correlation of errors about zero, which the truth is."""
    return float(2 * (one * other).sum() / np.square([one, other]).sum())


def _standardised(age: float, mean: float, below: float, above: float) -> float:
    return (age - mean) / max((below + above) / 2, 0.5)


def _surprise(female: bool, p_female: float) -> float:
    return float(female) - p_female


@dataclass(frozen=True)
class Score:
    """Coverage, mean width in years and mean interval score (Gneiting & Raftery 2007), lower is better."""

    coverage: float
    width: float
    score: float

    @classmethod
    def of(cls, ages: Floats, low: Floats, high: Floats) -> "Score":
        missed = np.maximum(low - ages, 0) + np.maximum(ages - high, 0)
        score = high - low + 2 / (1 - COVERAGE) * missed
        return cls(float((missed == 0).mean()), float((high - low).mean()), float(score.mean()))


def age_choices(found: Sequence[Case]) -> Table:
    """Return coverage, width and interval score for each correlation, judged on other persons."""
    ages = np.array([case.age for case in found])
    ends: dict[tuple[float, float, float], tuple[Floats, Floats]] = {}
    for different, same in COSINES:
        base = Correlation(different=different, same=same)
        pools = [Pool.of(kept(case.faces, base), base) for case in found]
        for rho in RHOS:
            answers = [pool.answer(replace(base, age=rho), COVERAGE).age.interval for pool in pools]
            low, high = np.array(answers).T
            ends[rho, different, same] = low, high
    table = Table("Age: correlation", ["rho", "different", "same", "coverage", "width", "score"], [])
    for key, (low, high) in ends.items():
        one = Score.of(ages, low, high)
        values = [one.coverage, one.width, one.score]
        table.rows.append([*map(str, key), *(f"{value:.3f}" for value in values)])
    table.rows.append(["selected on other persons", *_crossed(ages, ends)])
    return table


def _crossed(ages: Floats, ends: dict[tuple[float, float, float], tuple[Floats, Floats]]) -> list[str]:
    """Choose on four fifths of the persons, judge on the last one."""
    fold = np.arange(len(ages)) % FOLDS
    low, high = np.zeros(len(ages)), np.zeros(len(ages))
    selected = []
    for number in range(FOLDS):
        fits, own = fold != number, fold == number
        best = min(ends, key=lambda key: Score.of(ages[fits], *(end[fits] for end in ends[key])).score)
        selected.append(best)
        low[own], high[own] = (end[own] for end in ends[best])
    one = Score.of(ages, low, high)
    return [str(selected), "", *(f"{value:.3f}" for value in (one.coverage, one.width, one.score))]


def gender_choices(found: Sequence[Case]) -> Table:
    """Return the log loss and accuracy for each correlation of the gender's errors."""
    table = Table("Gender: correlation", ["rho", "log loss", "accuracy"], [])
    truth = np.array([case.female for case in found])
    base = Correlation()
    pools = [Pool.of(kept(case.faces, base), base) for case in found]
    for rho in (*RHOS, 1.2, 1.5, 2.0):
        answers = [pool.answer(replace(base, gender=rho), COVERAGE) for pool in pools]
        female = np.array([one.gender.probability["female"] for one in answers])
        right = np.where(truth, female, 1 - female)
        loss = -np.log(np.maximum(right, 1e-6)).mean()
        table.rows.append([str(rho), f"{loss:.4f}", f"{(right > 0.5).mean():.3f}"])
    return table


def faces_per_track(found: Sequence[Case], correlation: Correlation) -> Table:
    """Return the error and the interval when only the best so many faces of a person are combined."""
    table = Table("Faces per person", ["faces", "MAE", "coverage", "width", "score"], [])
    ages = np.array([case.age for case in found])
    for most in (1, 2, 3, 4, 6, 8, 12, 100):
        answers = []
        for case in found:
            best = sorted(case.faces, key=lambda face: -face.weight)[:most]
            answers.append(Pool.of(best, correlation).answer(correlation, COVERAGE).age)
        low, high = np.array([one.interval for one in answers]).T
        error = np.abs(ages - [one.mean for one in answers]).mean()
        one = Score.of(ages, low, high)
        values = [error, one.coverage, one.width, one.score]
        table.rows.append([str(most), *(f"{value:.3f}" for value in values)])
    return table


def certain(measured: Sequence[Measured]) -> Table:
    """Return how many tracks of several faces reach each score of the detector, and whose they are."""
    genuine: list[float] = []
    false: list[float] = []
    for one in measured:
        for track in one.tracks:
            if track.sightings > 1:
                whose = Counter(seen.person for seen in one.seen if seen.track == track.track)
                (false if whose.most_common(1)[0][0] is None else genuine).append(track.det_score)
    table = Table("Best detection score of tracks of several faces", ["score", "of persons", "false"], [])
    for score in SCORES:
        counts = [sum(value >= score for value in values) for values in (genuine, false)]
        table.rows.append([str(score), *map(str, counts)])
    return table


def joining(measured: Sequence[Measured]) -> list[Table]:
    """Return cosines of pairs of tracks, and what each threshold of joining does."""
    space = measured[0].space
    recogniser = RECOGNISERS[space.id]
    pairs: dict[bool, list[float]] = {True: [], False: []}
    tracks: list[tuple[int, int, Floats]] = []
    for number, one in enumerate(measured):
        for track in one.tracks:
            owner = one.owner({track.track})
            if owner is not None:
                point = recogniser.vectors(track.pool.mean_embedding[None])[0]
                tracks.append((number, owner, np.asarray(point, np.float64)))
    for first, second in combinations(tracks, 2):
        pairs[first[:2] == second[:2]].append(float(first[2] @ second[2]))
    same, different = np.array(pairs[True]), np.array(pairs[False])
    quantiles = (0.01, 0.05, 0.1, 0.5, 0.9, 0.99, 0.999)
    cosines = Table("Cosines of tracks", ["pairs", "number", *map(str, quantiles)], [])
    for name, values in (("same person", same), ("different persons", different)):
        cells = [f"{value:.2f}" for value in np.quantile(values, quantiles)] if len(values) else []
        cosines.rows.append([name, str(len(values)), *cells])
    table = Table(
        "Threshold of joining",
        ["cosine", "same pairs joined", "different pairs joined", "split", "merged", "persons"],
        [],
    )
    for threshold in THRESHOLDS:
        counts = Following()
        with same_person_at(space, threshold):
            for one in measured:
                counts.add(replace(one, persons=joined(one.tracks, space, COVERAGE)))
        shares = [
            float((values >= threshold).mean()) if len(values) else math.nan for values in (same, different)
        ]
        table.rows.append(
            [
                str(threshold),
                *(f"{share:.4f}" for share in shares),
                str(counts.split),
                str(counts.merged),
                str(counts.persons),
            ]
        )
    return [cosines, table]


@contextmanager
def same_person_at(space: Space, threshold: float) -> Iterator[None]:
    """Join tracks at another threshold within the context."""
    own = RECOGNISERS[space.id]
    RECOGNISERS[space.id] = replace(own, same_person=threshold)
    try:
        yield
    finally:
        RECOGNISERS[space.id] = own


def periods(at: Callable[[float], Sequence[Measured]], every: Sequence[float]) -> Table:
    """Return how well persons are followed, and the errors, for each time between searched frames.

    at : analyses the clips in steps of so many seconds.
    """
    table = Table(
        "Seconds between searched frames",
        ["seconds", "faces", "found", "switches", "mixed", "split", "merged", "persons", "MAE", "coverage"],
        [],
    )
    for step in every:
        measured, counts = at(step), Following()
        errors, inside = [], []
        for one in measured:
            counts.add(one)
            for person, _, found in one.answers():
                low, high = found.age.interval
                errors.append(abs(person.age - found.age.mean))
                inside.append(low <= person.age <= high)
        table.rows.append(
            [
                f"{step:g}",
                str(sum(len(one.seen) for one in measured)),
                f"{counts.found / max(counts.sightings, 1):.3f}",
                *map(str, (counts.switches, counts.mixed, counts.split, counts.merged)),
                f"{counts.answered} of {counts.persons}",
                f"{np.mean(errors):.2f}",
                f"{np.mean(inside):.3f}",
            ]
        )
    return table
