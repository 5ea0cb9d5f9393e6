"""Search an image for faces: first as it is, then with a border around it and turned by quarters.

A detector finds a face that fills the image only if there is a border around it, and places the landmarks of
an upright face on an upside-down one. An image whose faces are doubtful or absent is therefore searched
again, and the turn with the strongest evidence is kept. docs/embedding.md has the measurements.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
from agegender.faces import FaceSelection, Rotation, eye_roll, plausible, turned_box, turned_points

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

TURNS: tuple[Rotation, ...] = (0, 90, 180, 270)
_BORDER, _WIDE_BORDER = 1, 3  # thirds of the long side, on each side of the image
_MAX_ROLL = 60.0  # degrees; detectors are trained on less
_LARGE = 0.25  # of the largest face's area; smaller faces do not decide the orientation of the image
_MIN_EVIDENCE = 0.5  # for a face that only further searches find
_GOOD_EVIDENCE = 0.6  # with a border; a wider one is then not preferred
# Maximum long side in pixels, border included, of further searches, so that a large image without faces
# costs little more. A wide border is for a face that fills the image, which may be small.
_LONG_SIDE = {0: 1600, _BORDER: 1600, _WIDE_BORDER: 400}


@dataclass(frozen=True)
class Detections:
    """The faces found in one image.

    bbox, score, landmarks : [n, 4], [n], [n, 5, 2]; pixels of the original image.
    evidence : [n], 0 to 1, that the landmarks are correct; the score if None.
    sure : [n], whether that evidence needs no confirmation by another search; all true if None.
    rotation : clockwise turn in degrees that makes the image upright; landmark names refer to it.
    border : whether the faces were found only with a border around the image.
    whole : whether the image was taken as one face.
    found : number of faces before a selection.
    truncated : whether a limit left some out.
    """

    bbox: Array
    score: Array
    landmarks: Array
    evidence: Array | None = None
    sure: Mask | None = None
    rotation: Rotation = 0
    border: bool = False
    whole: bool = False
    found: int = 0
    truncated: bool = False

    def selected(self, selection: FaceSelection, limit: int) -> "Detections":
        """Return the first faces that the selection accepts, at most `limit`."""
        boxes = np.round(self.bbox.astype(np.float64), 2).tolist()
        scores = np.round(self.score.astype(np.float64), 4).tolist()
        accepted = [selection.accepts(box, score) for box, score in zip(boxes, scores, strict=True)]
        passing = np.flatnonzero(accepted)
        kept = passing[: min(limit, selection.max_faces or limit)]
        return replace(
            self.rows(kept),
            found=len(self.score),
            truncated=len(kept) < len(passing),
        )

    def rows(self, index: npt.NDArray[np.generic] | slice) -> "Detections":
        """Return some of the faces: a slice, a mask or positions."""
        return replace(
            self,
            bbox=self.bbox[index],
            score=self.score[index],
            landmarks=self.landmarks[index],
            evidence=None if self.evidence is None else self.evidence[index],
            sure=None if self.sure is None else self.sure[index],
        )

    def groups(self, size: int) -> Iterator["Detections"]:
        """Split the faces into groups of at most `size`, in order."""
        for start in range(0, len(self.score), size):
            yield self.rows(slice(start, start + size))


class Detector(Protocol):
    """Find faces in one RGB image [height, width, 3]."""

    def detect(self, image: Image) -> Detections: ...


@dataclass(frozen=True)
class _Attempt:
    """The result of one search, in pixels of an upright image of width x height.

    upright : sum of the evidence for faces that are certainly upright.
    best : the strongest evidence for any face with plausible landmarks.
    """

    found: Detections
    width: int
    height: int
    upright: float
    best: float

    @property
    def strength(self) -> tuple[float, float]:
        return self.upright, self.best


def search(detector: Detector, image: Image, awaited: Callable[[], bool] = lambda: True) -> Detections:
    """Find the faces of an RGB image [height, width, 3] in any orientation.

    An image whose large faces are mostly upright with plausible landmarks is searched once.

    awaited : called before each further search; once it returns False, the best result so far is returned.
    """
    first = _judged(detector.detect(image), image)
    if _mostly_upright(first.found):
        return first.found
    bordered = _shrunk(image, _BORDER)
    attempts = [first, *_attempts(detector, bordered, [(0, _BORDER)], awaited)]
    if not len(first.found.score) and _mostly_upright(attempts[-1].found):
        return _in_original(attempts[-1], image)
    borders = (0, _BORDER) if len(first.found.score) else (_BORDER,)
    for border in borders:
        attempts += _attempts(
            detector, _shrunk(image, border), [(turn, border) for turn in TURNS[1:]], awaited
        )
    if not any(attempt.upright for attempt in attempts):
        small = _shrunk(image, _WIDE_BORDER)
        attempts += _attempts(detector, small, [(turn, _WIDE_BORDER) for turn in TURNS], awaited)
    best = _best(attempts)
    if best.found.rotation == 0:
        # The first search that is good enough counts, so that ordinary faces keep their embeddings.
        if first.best >= _MIN_EVIDENCE:
            return first.found
        bordered_first = attempts[1] if len(attempts) > 1 and attempts[1].best >= _GOOD_EVIDENCE else best
        return _in_original(bordered_first, image)
    # A turned image must yield the result of the same image upright: a border counts only as a last resort.
    again = _attempts(detector, image, [(best.found.rotation, 0)], awaited)
    return _in_original(again[0] if again and again[0].best else best, image)


def _best(attempts: list[_Attempt]) -> _Attempt:
    """Return the strongest attempt.

    A turned one counts only with a certainly upright face, or if no other has a face: a face without its chin
    has doubtful landmarks in every turn.
    """
    certain = [attempt for attempt in attempts if attempt.upright]
    as_it_is = [attempt for attempt in attempts if attempt.found.rotation == 0 and attempt.best]
    return max(certain or as_it_is or attempts, key=lambda attempt: attempt.strength)


def _attempts(
    detector: Detector, image: Image, plans: Iterable[tuple[Rotation, int]], awaited: Callable[[], bool]
) -> list[_Attempt]:
    """Search the image with each turn and border, as long as the result is awaited."""
    return [_attempt(detector, image, turn, border) for turn, border in plans if awaited()]


def _attempt(detector: Detector, image: Image, rotation: Rotation, border: int) -> _Attempt:
    turned = np.ascontiguousarray(np.rot90(image, -(rotation // 90)))
    margin = max(image.shape[:2]) * border // 3
    if margin == 0:
        found = detector.detect(turned)
    else:
        bordered = cv2.copyMakeBorder(turned, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
        found = detector.detect(np.asarray(bordered, dtype=np.uint8))
        found = replace(found, bbox=found.bbox - margin, landmarks=found.landmarks - margin)
        centre = (found.bbox[:, :2] + found.bbox[:, 2:]) / 2  # boxes in the border are not faces
        inside = ((centre >= 0) & (centre <= np.array(turned.shape[1::-1]))).all(axis=1)
        found = found.rows(np.flatnonzero(inside))
    found = found.rows(_evidence(found) >= _MIN_EVIDENCE)
    return _judged(replace(found, rotation=rotation, border=margin > 0), turned)


def _judged(found: Detections, upright: Image) -> _Attempt:
    evidence = _evidence(found) * _shaped(found)
    sure = float(evidence[_upright(found)].sum())
    return _Attempt(found, upright.shape[1], upright.shape[0], sure, float(evidence.max(initial=0.0)))


def _mostly_upright(found: Detections) -> bool:
    if not len(found.score):
        return False
    area = (found.bbox[:, 2:] - found.bbox[:, :2]).prod(axis=1)
    large = area >= _LARGE * area.max()
    return bool(_upright(found)[large].mean() >= 0.5)


def _upright(found: Detections) -> Mask:
    """Return which faces [n] are certainly upright: sure, with plausible landmarks and little roll."""
    rolls = np.array([abs(eye_roll(points)) for points in found.landmarks.tolist()], dtype=np.float32)
    sure = np.ones(len(rolls), np.bool_) if found.sure is None else found.sure
    return np.asarray(sure & (rolls <= _MAX_ROLL) & _shaped(found), dtype=np.bool_)


def _shaped(found: Detections) -> Mask:
    pairs = zip(found.landmarks.tolist(), found.bbox.tolist(), strict=True)
    return np.array([plausible(points, box) for points, box in pairs], dtype=np.bool_)


def _evidence(found: Detections) -> Array:
    return found.score if found.evidence is None else found.evidence


def _in_original(attempt: _Attempt, image: Image) -> Detections:
    """Return the faces in pixels of the original image, boxes clipped to it."""
    found = attempt.found
    height, width = image.shape[:2]
    turned = (height, width) if found.rotation in (90, 270) else (width, height)
    scale = np.array([turned[0] / attempt.width, turned[1] / attempt.height], dtype=np.float32)
    back = (360 - found.rotation) % 360
    boxes = [turned_box(box, back, *turned) for box in (found.bbox * np.tile(scale, 2)).tolist()]
    points = [turned_points(face, back, *turned) for face in (found.landmarks * scale).tolist()]
    return replace(
        found,
        bbox=np.clip(
            np.array(boxes, np.float32).reshape(-1, 4), 0, np.tile([width, height], 2).astype(np.float32)
        ),
        landmarks=np.array(points, np.float32).reshape(-1, 5, 2),
    )


def _shrunk(image: Image, border: int) -> Image:
    """Shrink the image to the size for a further search with this border."""
    long_side = max(image.shape[:2])
    scale = _LONG_SIDE[border] * 3 / (3 + 2 * border) / long_side
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
