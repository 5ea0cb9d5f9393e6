"""Score the quality of a face from 0 to 1, and scale the age interval of faces of low quality."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from agegender.faces import FaceGeometry, plausible
from agegender.labels import MAX_AGE
from agegender.predictions import AgeAnswer, Quality, QualityReason

_Table = tuple[tuple[float, float], ...]

# For each measure, the value at which its factor of the score is 0 and the value at which it is 1.
_PIXELS = (16.0, 80.0)
# On UTKFace crops blurred step by step, the age error rises below 40: by 5 % at 36, by 25 % at 11.
_SHARPNESS = (3.0, 40.0)
_YAW = (75.0, 30.0)
_ROLL = (120.0, 60.0)  # alignment turns a face upright; detectors are trained on less
_DET_SCORE = (0.3, 0.7)
_CUT = (0.3, 0.03)  # of undamaged UTKFace crops, 99 % miss at most 0.03 on any side
_TIGHT = (0.15, 0.02)
_BORDER = 0.6  # factor if a face is found only with a border around the image
_COVERED = (1.1, 0.7)  # a reason above 0.8: 1 % of undamaged crops, of any race
_BRIGHTNESS = (10.0, 100.0)  # darkest of 300 undamaged crops: 104; their 95th percentile ignores skin tone
_CLIPPED = (0.7, 0.1)
_UNDETECTED = 0.5  # factor if no face was found and the whole image was taken as one
_IMPLAUSIBLE = 0.2  # factor if the landmarks cannot belong to the face in the box
_REASON_BELOW = 0.75

# In the mean face the tip of the nose stands this many eye distances before the line from eyes to mouth.
_NOSE = 0.4
_FRONTAL_NOSE = 0.5  # share of the way from the eyes to the mouth at which the nose of a frontal face is

# ArcFace's landmarks (arXiv 1801.07698) in a crop of 112 units, as complex numbers, and the oval from
# eyebrows to chin in the same crop: its centre and half its width and height.
_TEMPLATE = np.array(
    [38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j, 70.7299 + 92.2041j]
)
_OVAL, _OVAL_WIDTH, _OVAL_HEIGHT = 56 + 77j, 34.0, 42.0

# (factor of the score, scale of the interval's half-width) for each measure; linear in between. A table must
# ascend in its first column, descend in the second and end at (1, 1). Measured by
# `python -m benchmarks.quality_intervals`. A head's own distribution widens with most damage, but not in poor
# light, where heads err without being less certain.
REASON_SCALES: Final[Mapping[QualityReason, _Table]] = {
    "blurred": ((0.0, 1.7), (0.1, 1.5), (0.3, 1.3), (0.75, 1.05), (1.0, 1.0)),
    "cut": ((0.0, 1.15), (0.75, 1.05), (1.0, 1.0)),
    "tight": ((0.0, 1.25), (0.6, 1.2), (0.75, 1.1), (1.0, 1.0)),
    "covered": ((0.0, 1.1), (0.25, 1.1), (0.75, 1.05), (1.0, 1.0)),
    "dark": ((0.0, 2.4), (0.03, 2.2), (0.17, 1.55), (0.45, 1.15), (0.75, 1.0), (1.0, 1.0)),
    "overexposed": ((0.0, 2.6), (0.03, 2.5), (0.22, 1.4), (0.53, 1.15), (0.75, 1.05), (1.0, 1.0)),
    "undetected": ((0.0, 1.1), (0.75, 1.1), (1.0, 1.0)),
}
# The same for the product of all other measures' factors.
OTHER_SCALES: Final[_Table] = ((0.0, 1.5), (0.05, 1.1), (0.25, 1.06), (0.75, 1.05), (1.0, 1.0))


def face_quality(face: FaceGeometry, size: tuple[int, int] | None = None) -> Quality:
    """Score one face; a measure that is not available counts as good.

    Parameters
    ----------
    face : in the upright image.
    size : width and height of the upright image in pixels; None if unknown.
    """
    undetected = face.whole and face.det_score == 0
    x1, y1, x2, y2 = bbox = _face_box(face.landmarks) if face.whole else face.bbox
    pixels = max(0.0, min(x2 - x1, y2 - y1))
    yaw, roll = head_angles(face.landmarks)
    missing = sorted(missing_sides(face.landmarks, size), reverse=True) if size else [0.0] * 4
    found = 1.0 if plausible(face.landmarks, bbox) else _IMPLAUSIBLE
    factors: dict[QualityReason, float] = {
        "small": _ramp(pixels, *_PIXELS),
        "blurred": _measured(_sharpness(face), _SHARPNESS),
        "turned": _ramp(abs(yaw), *_YAW),
        "tilted": _ramp(abs(roll), *_ROLL),
        "doubtful": found * (1.0 if undetected else _ramp(face.det_score, *_DET_SCORE)),
        "cut": _ramp(missing[0], *_CUT),
        "tight": min(_ramp(missing[1], *_TIGHT), _BORDER if face.border else 1.0),
        "covered": _measured(face.covered, _COVERED),
        "dark": _measured(face.brightness, _BRIGHTNESS),
        "overexposed": _measured(face.clipped, _CLIPPED),
        "undetected": _UNDETECTED if undetected else 1.0,
    }
    score = round(math.prod(factors.values()), 3)
    return Quality(
        score=score,
        interval_scale=interval_scale(factors),
        reasons=reasons_of(factors),
        pixels=round(pixels, 1),
        yaw=round(yaw, 1),
        roll=round(roll, 1),
        sharpness=_rounded(face.sharpness, 1),
        missing=round(missing[0], 3) if size else None,
        covered=_rounded(face.covered, 3),
        brightness=_rounded(face.brightness, 1),
        clipped=_rounded(face.clipped, 3),
    )


def reasons_of(factors: Mapping[QualityReason, float]) -> list[QualityReason]:
    """Return the reasons whose factor is below 0.75, the worst first."""
    low = (reason for reason, factor in factors.items() if factor < _REASON_BELOW)
    return sorted(low, key=factors.__getitem__)


def interval_scale(factors: Mapping[QualityReason, float]) -> float:
    """Return the largest scale of all measures: at least 1, and never smaller for smaller factors.

    factors : each measure's factor of the quality score, from 0 to 1.
    """
    others = math.prod(factor for reason, factor in factors.items() if reason not in REASON_SCALES)
    scales = [_interpolated(factors.get(reason, 1.0), table) for reason, table in REASON_SCALES.items()]
    return round(max(_interpolated(others, OTHER_SCALES), *scales), 3)


def scaled(age: AgeAnswer, scale: float, years: float = 0) -> AgeAnswer:
    """Return the answer with its interval extended about its middle, within 0 to 100 years.

    The half-width is multiplied by `scale`, or `years` are added to it, whichever makes it larger.
    """
    low, high = age.interval
    middle, half = (low + high) / 2, (high - low) / 2
    half = max(scale * half, half + years)
    interval = (round(max(0.0, min(low, middle - half)), 1), round(min(MAX_AGE, max(high, middle + half)), 1))
    return age.model_copy(update={"interval": interval})


def missing_sides(
    landmarks: list[tuple[float, float]], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return how far the face, from eyebrows to chin, reaches beyond the image at each side.

    The extent of the face follows from its landmarks, not from its box: a detector's box may end
    at the image's edge.

    Returns
    -------
    Shares of the width or height of the face at left, right, top and bottom; 0 if it does not reach the edge.
    """
    left, top, right, bottom = _face_box(landmarks)
    if left == right or top == bottom:
        return 0.0, 0.0, 0.0, 0.0
    width, height = size
    return (
        _share(-left, right - left),
        _share(right - width, right - left),
        _share(-top, bottom - top),
        _share(bottom - height, bottom - top),
    )


def _face_box(landmarks: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Return x1, y1, x2, y2 of the face from eyebrows to chin, as its landmarks indicate."""
    points = np.array(landmarks) @ np.array([1, 1j])
    centred = _TEMPLATE - _TEMPLATE.mean()
    turn = np.vdot(centred, points - points.mean()) / np.vdot(centred, centred).real
    centre = points.mean() + turn * (_OVAL - _TEMPLATE.mean())
    across, along = abs(turn.real), abs(turn.imag)
    half_width = math.hypot(across * _OVAL_WIDTH, along * _OVAL_HEIGHT)
    half_height = math.hypot(along * _OVAL_WIDTH, across * _OVAL_HEIGHT)
    x, y = float(centre.real), float(centre.imag)
    return x - half_width, y - half_height, x + half_width, y + half_height


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, float(part) / whole))


def _sharpness(face: FaceGeometry) -> float | None:
    """Return the sharpness as it would be in better light: it falls with the square of the light."""
    if face.sharpness is None or not face.brightness or face.brightness >= _BRIGHTNESS[1]:
        return face.sharpness
    return face.sharpness * (_BRIGHTNESS[1] / face.brightness) ** 2


def _measured(value: float | None, ends: tuple[float, float]) -> float:
    return 1.0 if value is None else _ramp(value, *ends)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def head_angles(landmarks: list[tuple[float, float]]) -> tuple[float, float]:
    """Return yaw and roll in degrees, from left eye, right eye, nose, left and right mouth corner.

    Yaw is a coarse estimate from the nose's distance to the face's midline in eye distances, positive towards
    the right of the image.
    """
    left, right, nose, mouth_left, mouth_right = landmarks
    dx, dy = right[0] - left[0], right[1] - left[1]
    distance = math.hypot(dx, dy)
    if distance == 0:
        return 90.0, 0.0
    roll = math.degrees(math.atan2(dy, dx))
    eyes = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    mouth = ((mouth_left[0] + mouth_right[0]) / 2, (mouth_left[1] + mouth_right[1]) / 2)
    down = (mouth[0] - eyes[0], mouth[1] - eyes[1])
    length = math.hypot(*down)
    if length == 0:
        return 90.0, roll
    # Distance of the nose from the line eyes-mouth, positive towards the right of the image.
    offset = ((nose[0] - eyes[0]) * down[1] - (nose[1] - eyes[1]) * down[0]) / length
    return math.degrees(math.atan2(offset, _NOSE * distance)), roll


def head_pitch(landmarks: list[tuple[float, float]]) -> float:
    """Return the pitch in degrees, coarsely, from how high the nose is between eyes and mouth; up is > 0."""
    left, right, nose, mouth_left, mouth_right = landmarks
    distance = math.hypot(right[0] - left[0], right[1] - left[1])
    eyes = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    down = ((mouth_left[0] + mouth_right[0]) / 2 - eyes[0], (mouth_left[1] + mouth_right[1]) / 2 - eyes[1])
    length = math.hypot(*down)
    if length == 0 or distance == 0:
        return 0.0
    height = ((nose[0] - eyes[0]) * down[0] + (nose[1] - eyes[1]) * down[1]) / length
    return math.degrees(math.atan2(_FRONTAL_NOSE * length - height, _NOSE * distance))


def sharpness_score(sharpness: float) -> float:
    """Return from 0 to 1 how sharp a face is: 1 if more sharpness would not make its age more certain."""
    return _ramp(sharpness, *_SHARPNESS)


def _ramp(value: float, nothing: float, everything: float) -> float:
    return min(1.0, max(0.0, (value - nothing) / (everything - nothing)))


def _interpolated(value: float, table: _Table) -> float:
    values, scales = zip(*table, strict=True)
    return float(np.interp(value, values, scales))
