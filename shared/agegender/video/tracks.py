"""Follow faces from frame to frame, and keep the best evidence of each.

Faces are searched in a few frames per second, so a face moves by more than its size between two of them, and
boxes alone do not identify it. Faces are assigned to tracks by the position that the track's motion predicts
and by the embedding together (docs/decisions/014-tracking.md compares this with libraries).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from scipy.optimize import linear_sum_assignment

from agegender.predictions import FaceAnswer
from agegender.spaces import Space, recogniser_of
from agegender.video.persons import MAX_GAP, Answer, Best, Correlation, Evidence, Pool, Track, correlation_of

Array = npt.NDArray[np.floating]
Box = tuple[float, float, float, float]

MAX_EVIDENCE: Final = 12  # faces per track
_SELDOM: Final = 10.0  # seconds between two frames that one missed face may divide
MAX_TRACK: Final = 600.0  # seconds until a track ends and another begins; the two are joined later
MAX_LIVE: Final = 100  # tracks at the same time

# The cost of a face is its distance from the predicted position, as a share of `_reach`, plus 1 - cosine.
_MAX_COST: Final = 1.4
_MIN_COSINE: Final = 0.2  # of the recogniser's vectors, for a face at its predicted position
_UNKNOWN_COSINE: Final = 0.6  # in a space without a recogniser: a face half the reach away is accepted
_STILL, _SPEED = 1.0, 3.0  # the reach, in sides of the face: at once, and per second
_FAR: Final = 2.5  # times as far, if the embedding shows the same person
_MAX_RESIZE: Final = 2.0  # of the box's side, between two sightings
_NO_MATCH: Final = 1e6
_SMOOTH: Final = 0.5  # share of the newest velocity and the newest embedding


class LiveFace(BaseModel):
    """A face that is tracked now, with the answer of its track so far."""

    track: int
    bbox: Box
    answer: Answer


@dataclass(eq=False)
class _Live:
    """A track that has not ended."""

    number: int
    seconds: float
    box: Box
    identity: Array
    first: float
    first_box: Box
    velocity: tuple[float, float] = (0.0, 0.0)  # pixels per second
    sightings: int = 0
    det_score: float = 0.0
    evidence: list[Evidence] = field(default_factory=list)
    path: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    best: Best | None = None
    pool: Pool | None = None

    def see(self, face: FaceAnswer, seconds: float, identity: Array, correlation: Correlation) -> None:
        if self.sightings and seconds > self.seconds:
            elapsed = seconds - self.seconds
            (x, y), (to_x, to_y) = _centre(self.box), _centre(face.bbox)
            newest = (to_x - x) / elapsed, (to_y - y) / elapsed
            share = _SMOOTH if self.sightings > 1 else 1.0
            self.velocity = (
                share * newest[0] + (1 - share) * self.velocity[0],
                share * newest[1] + (1 - share) * self.velocity[1],
            )
            mixed = _SMOOTH * identity + (1 - _SMOOTH) * self.identity
            self.identity = mixed / max(float(np.linalg.norm(mixed)), 1e-12)
        self.seconds, self.box = seconds, face.bbox
        self.sightings += 1
        self.det_score = max(self.det_score, face.det_score)
        x1, y1, x2, y2 = (round(value, 1) for value in face.bbox)
        self.path.append((round(seconds, 3), x1, y1, x2, y2))
        if self.best is None or face.quality.score > self.best.quality:
            self.best = Best(seconds=round(seconds, 3), bbox=face.bbox, quality=face.quality.score)
        if keep(self.evidence, Evidence.of(face, seconds), correlation):
            self.pool = None

    def pooled(self, correlation: Correlation) -> Pool:
        if self.pool is None:
            self.pool = Pool.of(self.evidence, correlation)
        return self.pool

    def ended(self, correlation: Correlation, *, continues: bool) -> Track:
        assert self.best is not None  # since the first sighting
        return Track(
            track=self.number,
            first=round(self.first, 3),
            last=round(self.seconds, 3),
            sightings=self.sightings,
            continues=continues,
            det_score=self.det_score,
            first_bbox=self.first_box,
            last_bbox=self.box,
            pool=self.pooled(correlation),
            best=self.best,
            path=self.path,
        )


def keep(evidence: list[Evidence], new: Evidence, correlation: Correlation) -> bool:
    """Add a face to the evidence of a track if it adds something. Returns whether the evidence changed.

    Of faces that look the same, the better one stays. Beyond `MAX_EVIDENCE` the worst one is dropped.
    """
    cosines = [float(new.embedding @ one.embedding) for one in evidence]
    if cosines and max(cosines) >= correlation.same:
        nearest = int(np.argmax(cosines))
        if evidence[nearest].weight >= new.weight:
            return False
        evidence[nearest] = new
        return True
    evidence.append(new)
    if len(evidence) <= MAX_EVIDENCE:
        return True
    worst = min(range(len(evidence)), key=lambda index: evidence[index].weight)
    return evidence.pop(worst) is not new


def longest_gap(every: float, frame_rate: float | None = None) -> float:
    """Return the seconds without its face until a track ends: one search may miss the face.

    every : seconds between two searches. frame_rate : of the video, which may have frames more seldom.
    """
    interval = max(every, min(1 / frame_rate, _SELDOM)) if frame_rate else every
    return max(MAX_GAP, 2 * interval + 0.5)


class Tracker:
    """Assign the faces of each frame to tracks.

    space : of the embeddings. first_number : of the first track. gap : seconds without its face until a track
    ends.
    """

    def __init__(self, space: Space, first_number: int = 1, gap: float = MAX_GAP) -> None:
        self._space = space
        self._gap = gap
        self._correlation = correlation_of(space)
        self._recogniser = recogniser_of(space)
        self._live: list[_Live] = []
        self._next = first_number
        self._seconds = 0.0  # of the last frame

    def update(self, seconds: float, faces: Sequence[FaceAnswer], *, cut: bool = False) -> list[Track]:
        """Assign the faces of a frame. Returns the tracks that ended.

        faces : with embeddings. cut : a scene begins with this frame, so all tracks have ended before.

        Raises ValueError for a face without an embedding.
        """
        ended = self._end(lambda live: cut or seconds - live.seconds > self._gap, continues=False)
        ended += self._end(lambda live: seconds - live.first > MAX_TRACK, continues=True)
        self._seconds, faces = seconds, faces[:MAX_LIVE]
        identities = self._identities(faces)
        assigned = self._assign(seconds, faces, identities)
        for index, face in enumerate(faces):
            live = assigned.get(index)
            if live is None:
                if len(self._live) >= MAX_LIVE:
                    continue
                live = _Live(self._next, seconds, face.bbox, identities[index], seconds, face.bbox)
                self._next += 1
                self._live.append(live)
            live.see(face, seconds, identities[index], self._correlation)
        return ended

    @property
    def is_tracking(self) -> bool:
        """Return whether a track has not ended. Its face may be missing in the last frame."""
        return bool(self._live)

    def live(self, coverage: float) -> list[LiveFace]:
        """Return the faces of the last frame, with the answers of their tracks so far."""
        return [
            LiveFace(
                track=live.number,
                bbox=live.box,
                answer=live.pooled(self._correlation).answer(self._correlation, coverage),
            )
            for live in self._live
            if live.seconds == self._seconds
        ]

    def close(self) -> list[Track]:
        """End all tracks, and return them. The next part of the video may continue them."""
        return self._end(lambda live: True, continues=True)

    def _end(self, over: Callable[[_Live], bool], *, continues: bool) -> list[Track]:
        ended = [live for live in self._live if over(live)]
        self._live = [live for live in self._live if live not in ended]
        return [live.ended(self._correlation, continues=continues) for live in ended]

    def _identities(self, faces: Sequence[FaceAnswer]) -> Array:
        if any(face.embedding is None for face in faces):
            raise ValueError("a face has no embedding; request it with embeddings=True")
        points = np.array([face.embedding for face in faces], dtype=np.float32)
        points = points.reshape(len(faces), self._space.dimension)
        return points if self._recogniser is None else self._recogniser.vectors(points)

    def _assign(self, seconds: float, faces: Sequence[FaceAnswer], identities: Array) -> dict[int, _Live]:
        """Return the track of each face that continues one, with the smallest sum of costs."""
        if not self._live or not faces:
            return {}
        cosines = np.stack([live.identity for live in self._live]) @ identities.T
        costs = np.array(
            [
                [
                    self._cost(live, seconds, face, float(cosines[row, column]))
                    for column, face in enumerate(faces)
                ]
                for row, live in enumerate(self._live)
            ]
        )
        rows, columns = linear_sum_assignment(costs)
        return {
            int(column): self._live[row]
            for row, column in zip(rows, columns, strict=True)
            if costs[row, column] < _NO_MATCH
        }

    def _cost(self, live: _Live, seconds: float, face: FaceAnswer, cosine: float) -> float:
        """Return about 0 for the same face at its predicted position, and `_NO_MATCH` for another face."""
        elapsed = max(seconds - live.seconds, 1e-3)
        side, other = _side(live.box), _side(face.bbox)
        x, y = _centre(live.box)
        at_x, at_y = _centre(face.bbox)
        moved = math.hypot(at_x - x - live.velocity[0] * elapsed, at_y - y - live.velocity[1] * elapsed)
        still = math.hypot(at_x - x, at_y - y)  # a face may stop or turn back at any time
        distance = min(moved, still) / max(side, other, 1.0)
        reach = _STILL + _SPEED * min(elapsed, MAX_GAP)
        if self._recogniser is None:
            cosine = _UNKNOWN_COSINE
        elif cosine >= self._recogniser.same_person:
            reach *= _FAR
        cost = distance / reach + (1 - cosine)
        resized = max(side, other) / max(min(side, other), 1.0)
        rejected = cost > _MAX_COST or distance > reach or cosine < _MIN_COSINE or resized > _MAX_RESIZE
        return _NO_MATCH if rejected else cost


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _side(box: Box) -> float:
    return math.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 1.0))
