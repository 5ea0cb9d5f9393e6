"""Combine the faces of a track into one answer, and join the tracks of one person within a video.

Faces of one track are not independent. The error of face i is modelled as a part that all faces of the person
share and a part that differs between looks (pose, light, expression). With weights a that sum to 1, the
variance of the weighted mean is, relative to that of a single face,

    share = rho + (1 - rho) * u,        u = sum over i, j of a_i a_j K(cosine of i and j),

where K is 1 for faces that look the same and 0 for faces that look different (`Correlation`). So k copies of
one face count as one face, and no number of faces counts for more than 1 / rho. This is the design effect of
cluster sampling (Kish 1965) with a correlation that depends on the embeddings. If the faces of a track
disagree more than rho implies, their own variance replaces 1 - rho.
"""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import NormalDist
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES, MAX_AGE
from agegender.predictions import AgeAnswer, FaceAnswer, GenderAnswer, entropy
from agegender.spaces import Space, recogniser_of

Array = npt.NDArray[np.floating]
Box = tuple[float, float, float, float]

MAX_LOG_ODDS: Final = 7.0  # of a gender; no head is more certain than 99.9 %
MIN_WEIGHT: Final = 1e-3
MIN_LONE_QUALITY, MIN_DET_SCORE = 0.5, 0.8  # false faces reach a score of 0.76, all tracks of persons 0.84
MAX_GAP: Final = 2.0  # seconds without its face until a track ends, unless faces are searched seldom
_CONTINUED_OVERLAP: Final = 0.2  # share of two boxes, if one track continues the other


@dataclass(frozen=True)
class Correlation:
    """The correlation of the errors of two faces of one person.

    age, gender : correlation of the errors of faces that look different; 1 means that more faces add nothing.
    different, same : cosines at which two faces count as looking different (K = 0) and the same (K = 1);
        linear in between.
    """

    age: float = 0.75
    gender: float = 1.0
    different: float = 0.5
    same: float = 0.95

    def likeness(self, cosines: Array) -> Array:
        """Return K for cosines of any shape."""
        return np.asarray(np.clip((cosines - self.different) / (self.same - self.different), 0.0, 1.0))


# By space id. Measured by cross-validation on made tracks: `python -m benchmarks.video`.
_MEASURED: Final = Correlation(age=0.5, gender=1.0, different=0.7, same=0.95)
CORRELATIONS: Final = {"human-2": _MEASURED, "human-3": _MEASURED}
UNMEASURED: Final = Correlation()


def correlation_of(space: Space) -> Correlation:
    """Return the correlation that was measured for a space, else a cautious one."""
    return CORRELATIONS.get(space.id, UNMEASURED)


@dataclass(frozen=True)
class Evidence:
    """One face of a track, as its answer is combined.

    below, above : years from the mean to the ends of the interval. groups : probability of each age group.
    weight : of this face among those of its track. embedding : unit length.
    """

    seconds: float
    mean: float
    below: float
    above: float
    groups: Array = field(repr=False)
    p_female: float
    weight: float
    embedding: npt.NDArray[np.float32] = field(repr=False)

    @classmethod
    def of(cls, face: FaceAnswer, seconds: float) -> Self:
        """Return the evidence that a face gives. Raises ValueError for a face without its embedding."""
        if face.embedding is None:
            raise ValueError("the face has no embedding; request it with embeddings=True")
        return cls(
            seconds=seconds,
            mean=face.age.mean,
            below=max(0.0, face.age.mean - face.age.interval[0]),
            above=max(0.0, face.age.interval[1] - face.age.mean),
            groups=np.array([face.age.groups[name] for name in AGE_GROUP_NAMES]),
            p_female=face.gender.probability["female"],
            weight=max(MIN_WEIGHT, face.quality.score / face.quality.interval_scale**2),
            embedding=np.array(face.embedding, dtype=np.float32),
        )


class Pool(BaseModel):
    """A summary of a track's faces: enough to answer, and to be merged with other tracks of the person.

    Its size does not depend on the number of faces.
    """

    faces: int = Field(description="faces combined")
    weight: float = Field(description="sum of their weights")
    mean: float = Field(description="weighted mean age, years")
    below: float = Field(description="mean distance of the interval's low end of single faces, years")
    above: float
    likeness: float = Field(description="u: weighted mean likeness of all pairs of faces, 0 to 1")
    spread: float = Field(description="weighted variance of the faces' mean ages, years squared")
    groups: list[float] = Field(description="weighted mean probability of each age group [8]")
    p_female: float = Field(description="weighted mean probability of female")
    centroid: str = Field(description="weighted mean embedding: base64 of float16", repr=False)

    @property
    def mean_embedding(self) -> npt.NDArray[np.float32]:
        """Return the mean embedding [dimension], of unit length."""
        mean = self._mean
        return mean / max(float(np.linalg.norm(mean)), 1e-12)

    @property
    def _mean(self) -> npt.NDArray[np.float32]:
        return np.frombuffer(base64.b64decode(self.centroid), dtype=np.float16).astype(np.float32)

    @classmethod
    def of(cls, evidence: Sequence[Evidence], correlation: Correlation) -> Self:
        """Pool at least one face."""
        weights = np.array([one.weight for one in evidence])
        shares = weights / weights.sum()
        points = np.stack([one.embedding for one in evidence])
        means = np.array([one.mean for one in evidence])
        mean = float(shares @ means)
        return cls(
            faces=len(evidence),
            weight=float(weights.sum()),
            mean=mean,
            below=float(shares @ [one.below for one in evidence]),
            above=float(shares @ [one.above for one in evidence]),
            likeness=float(shares @ correlation.likeness(points @ points.T) @ shares),
            spread=float(shares @ (means - mean) ** 2),
            groups=(shares @ np.stack([one.groups for one in evidence])).tolist(),
            p_female=float(shares @ [one.p_female for one in evidence]),
            centroid=_packed(shares @ points),
        )

    def merged(self, other: "Pool", correlation: Correlation) -> "Pool":
        """Return the pool of both tracks' faces."""
        own = self.weight / (self.weight + other.weight)
        others = 1 - own
        points = self.mean_embedding, other.mean_embedding
        between = float(correlation.likeness(np.asarray(points[0] @ points[1])))
        mean = own * self.mean + others * other.mean

        def mixed(name: str) -> Any:
            return own * np.array(getattr(self, name)) + others * np.array(getattr(other, name))

        return Pool(
            faces=self.faces + other.faces,
            weight=self.weight + other.weight,
            mean=mean,
            below=float(mixed("below")),
            above=float(mixed("above")),
            likeness=own**2 * self.likeness + others**2 * other.likeness + 2 * own * others * between,
            spread=float(mixed("spread")) + own * others * (self.mean - other.mean) ** 2,
            groups=mixed("groups").tolist(),
            p_female=float(mixed("p_female")),
            centroid=_packed(own * self._mean + others * other._mean),
        )

    def share(self, rho: float, coverage: float) -> float:
        """Return the variance of the combined answer as a share of that of a single face, rho to 1."""
        single = ((self.below + self.above) / 2 / NormalDist().inv_cdf((1 + coverage) / 2)) ** 2
        disagreement = self.spread / max(single * (1 - self.likeness), 1e-9) if self.likeness < 1 else 0.0
        return min(1.0, rho + max(1 - rho, disagreement) * self.likeness)

    def answer(self, correlation: Correlation, coverage: float) -> "Answer":
        """Return age and gender. coverage : of the intervals that the faces were answered with."""
        share = self.share(correlation.age, coverage)
        scale = math.sqrt(share)
        groups = _softmax(np.log(np.maximum(self.groups, 1e-6)) / share)
        gender_share = correlation.gender + (1 - correlation.gender) * self.likeness
        female = _sigmoid(_log_odds(self.p_female) / gender_share)
        genders = np.array([female, 1 - female])
        return Answer(
            age=AgeAnswer(
                mean=round(self.mean, 2),
                interval=(
                    round(max(0.0, self.mean - scale * self.below), 1),
                    round(min(float(MAX_AGE), self.mean + scale * self.above), 1),
                ),
                coverage=coverage,
                group=AGE_GROUP_NAMES[int(groups.argmax())],
                groups=_rounded(AGE_GROUP_NAMES, groups),
                entropy=round(float(entropy(groups)), 4),
            ),
            gender=GenderAnswer(
                label=GENDER_NAMES[int(genders.argmax())],
                probability=_rounded(GENDER_NAMES, genders),
                entropy=round(float(entropy(genders)), 4),
            ),
            faces=self.faces,
            effective_faces=round(1 / share, 2),
        )


class Answer(BaseModel):
    """Age and gender of a track or person."""

    age: AgeAnswer
    gender: GenderAnswer
    faces: int = Field(description="faces that the answer combines")
    effective_faces: float = Field(description="independent faces that would give an interval as narrow")


class Appearance(BaseModel):
    """A time during which a person is visible without interruption."""

    track: int
    first: float = Field(description="seconds")
    last: float


class Best(BaseModel):
    """The best face of a person."""

    seconds: float = Field(description="time of its frame")
    bbox: Box = Field(description="x1, y1, x2, y2 in the upright frame")
    quality: float


class Track(BaseModel):
    """A face followed from frame to frame, after it ended: of bounded size, and JSON.

    path : (seconds, x1, y1, x2, y2) for each frame in which the face was found; for drawing only.
    """

    track: int
    first: float
    last: float
    sightings: int = Field(description="frames in which the face was found")
    continues: bool = Field(
        False, description="whether its length or the end of the part of the video ended it, not the face"
    )
    det_score: float = Field(description="of the face that the detector is most certain of")
    first_bbox: Box
    last_bbox: Box
    pool: Pool
    best: Best
    path: list[tuple[float, float, float, float, float]] = Field(default_factory=list, repr=False)


class Person(Answer):
    """A person of one video. Numbers do not carry over to another video."""

    person: int = Field(description="1, 2, … in the order of first appearance")
    first: float = Field(description="seconds of the first and last frame with this face")
    last: float
    seconds_visible: float
    appearances: list[Appearance]
    best: Best
    embedding: list[float] | None = Field(
        None, description="mean of its faces, only if requested; biometric data"
    )


@dataclass
class _Joined:
    """The tracks of one person, as they are joined."""

    pool: Pool
    tracks: list[Track]

    def overlaps(self, other: "_Joined") -> bool:
        pairs = product(self.tracks, other.tracks)
        return any(one.first <= two.last and two.first <= one.last for one, two in pairs)

    def add(self, other: "_Joined", correlation: Correlation) -> None:
        self.pool = self.pool.merged(other.pool, correlation)
        self.tracks += other.tracks


def joined(
    tracks: Iterable[Track], space: Space, coverage: float, *, gap: float = MAX_GAP, embeddings: bool = False
) -> list[Person]:
    """Join the tracks of one person, and answer once per person, in the order of first appearance.

    A track that continues another one at its place within `gap` seconds, because that reached its greatest
    length or the end of a part of the video, is joined to it. Then those with more evidence come first. Each
    is added to the most similar person whose appearances do not overlap it in time, if the cosine of the
    recogniser's vectors is at least `Recogniser.same_person`. Otherwise it starts a person. In a space
    without a recogniser nobody is recognised. Tracks with too little evidence (`is_person`) are omitted.

    coverage : of the intervals of the tracks' faces. embeddings : return each person's mean embedding.
    """
    correlation, recogniser = correlation_of(space), recogniser_of(space)

    def identity(one: _Joined) -> Array:
        point = one.pool.mean_embedding[None]
        return np.asarray((point if recogniser is None else recogniser.vectors(point))[0])

    persons: list[_Joined] = []
    identities: list[Array] = []
    continued = _continued(filter(is_person, tracks), correlation, gap)
    for new in sorted(continued, key=lambda one: -one.pool.weight):
        own = identity(new)
        free = [index for index, one in enumerate(persons) if recogniser and not one.overlaps(new)]
        cosines = [float(identities[index] @ own) for index in free]
        if recogniser and cosines and max(cosines) >= recogniser.same_person:
            same = free[int(np.argmax(cosines))]
            persons[same].add(new, correlation)
            identities[same] = identity(persons[same])
        else:
            persons.append(new)
            identities.append(own)
    persons.sort(key=lambda one: min(track.first for track in one.tracks))
    return [
        _person(number, one, correlation, coverage, embeddings=embeddings)
        for number, one in enumerate(persons, 1)
    ]


def _continued(tracks: Iterable[Track], correlation: Correlation, gap: float) -> list[_Joined]:
    """Return all tracks, each together with those that continue it."""
    found: list[_Joined] = []
    open_ends: list[_Joined] = []
    for track in sorted(tracks, key=lambda one: one.first):
        new = _Joined(track.pool, [track])
        open_ends = [one for one in open_ends if track.first - one.tracks[-1].last <= gap]
        shares = [
            _overlap(one.tracks[-1].last_bbox, track.first_bbox) if one.tracks[-1].last < track.first else 0.0
            for one in open_ends
        ]
        if shares and max(shares) >= _CONTINUED_OVERLAP:
            before = open_ends.pop(int(np.argmax(shares)))
            before.add(new, correlation)
            new = before
        else:
            found.append(new)
        if track.continues:
            open_ends.append(new)
    return found


def _overlap(one: Box, other: Box) -> float:
    """Return the intersection of two boxes as a share of their union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / max(sum(areas) - width * height, 1e-9)


def is_person(track: Track) -> bool:
    """Return whether a track has enough evidence: a good face, or several that are certainly faces."""
    several = track.sightings > 1 and track.det_score >= MIN_DET_SCORE
    return several or track.best.quality >= MIN_LONE_QUALITY


def _person(
    number: int, one: _Joined, correlation: Correlation, coverage: float, *, embeddings: bool
) -> Person:
    tracks = sorted(one.tracks, key=lambda track: track.first)
    return Person(
        **dict(one.pool.answer(correlation, coverage)),
        person=number,
        first=tracks[0].first,
        last=max(track.last for track in tracks),
        seconds_visible=round(sum(track.last - track.first for track in tracks), 3),
        appearances=[Appearance(track=track.track, first=track.first, last=track.last) for track in tracks],
        best=max((track.best for track in tracks), key=lambda best: best.quality),
        embedding=[float(value) for value in one.pool.mean_embedding] if embeddings else None,
    )


def _log_odds(p_female: float) -> float:
    return math.log(max(p_female, 1e-6) / max(1 - p_female, 1e-6))


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-MAX_LOG_ODDS, min(MAX_LOG_ODDS, log_odds))))


def _rounded(names: Sequence[str], probabilities: Array) -> dict[str, float]:
    return {name: round(float(value), 5) for name, value in zip(names, probabilities, strict=True)}


def _packed(point: Array) -> str:
    return base64.b64encode(point.astype(np.float16).tobytes()).decode()


def _softmax(logits: Array) -> Array:
    return np.asarray(np.exp(logits - np.logaddexp.reduce(logits)))
