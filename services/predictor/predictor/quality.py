"""How far a face may be trusted, from what is seen of it: 1 for a good portrait, towards 0 for a guess."""

import math

from agegender.faces import FaceGeometry
from agegender.predictions import Quality, QualityReason

from predictor.widening import widening_factor

# From a face that tells nothing to one that lacks nothing, in each measure's unit.
_PIXELS = (16.0, 80.0)
# On UTKFace crops blurred step by step, the age error rises below 40: by 5 % at 36, by 25 % at 11.
_SHARPNESS = (3.0, 40.0)
_YAW = (75.0, 30.0)
_ROLL = (120.0, 60.0)  # alignment turns a face upright; detectors are made for less than that
_DET_SCORE = (0.3, 0.7)
_NAMED_BELOW = 0.75

# In the mean face the tip of the nose stands this many eye distances before the line from eyes to mouth.
_NOSE = 0.4


def face_quality(face: FaceGeometry) -> Quality:
    """Measures a face's box, landmarks and sharpness; a measure that is not at hand counts as good."""
    x1, y1, x2, y2 = face.bbox
    pixels = max(0.0, min(x2 - x1, y2 - y1))
    yaw, roll = head_angles(face.landmarks)
    measures: dict[QualityReason, float] = {
        "small": _ramp(pixels, *_PIXELS),
        "blurred": 1.0 if face.sharpness is None else _ramp(face.sharpness, *_SHARPNESS),
        "turned": _ramp(abs(yaw), *_YAW),
        "tilted": _ramp(abs(roll), *_ROLL),
        "doubtful": _ramp(face.det_score, *_DET_SCORE),
    }
    named: list[QualityReason] = [reason for reason, left in measures.items() if left < _NAMED_BELOW]
    score = round(math.prod(measures.values()), 3)
    return Quality(
        score=score,
        widening=widening_factor(score),
        reasons=sorted(named, key=measures.__getitem__),
        pixels=round(pixels, 1),
        yaw=round(yaw, 1),
        roll=round(roll, 1),
        sharpness=None if face.sharpness is None else round(face.sharpness, 1),
    )


def head_angles(landmarks: list[tuple[float, float]]) -> tuple[float, float]:
    """Yaw and roll in degrees, from left eye, right eye, nose, left and right mouth corner.

    Yaw is what the nose's distance from the face's midline tells, measured in eye distances; it is a
    coarse estimate, signed towards the right of the picture.
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
    # Distance of the nose from the line eyes-mouth, positive towards the right of the picture.
    offset = ((nose[0] - eyes[0]) * down[1] - (nose[1] - eyes[1]) * down[0]) / length
    return math.degrees(math.atan2(offset, _NOSE * distance)), roll


def _ramp(value: float, nothing: float, everything: float) -> float:
    return min(1.0, max(0.0, (value - nothing) / (everything - nothing)))
