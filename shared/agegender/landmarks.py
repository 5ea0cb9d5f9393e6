"""Check five facial landmarks against their box, and turn faces between an image and its upright form.

Landmarks are left eye, right eye, nose, left and right mouth corner as seen in the upright image, in pixels;
y points down.
"""

import math
from collections.abc import Sequence

Points = Sequence[Sequence[float]]

# Shares of the box's shorter side.
_OUTSIDE_BOX = 0.25  # a landmark of a turned head may lie a little outside a tight box
_MIN_SPAN, _MAX_SPAN = 0.15, 1.0  # from the middle of the eyes to the middle of the mouth
# Shares of the distance from the eyes to the mouth, along the line between them.
_NOSE_ABOVE, _NOSE_BELOW = -0.1, 1.1


def eye_roll(landmarks: Points) -> float:
    """Return the angle of the line from the left to the right eye, degrees clockwise, -180 to 180."""
    (left_x, left_y), (right_x, right_y) = landmarks[0], landmarks[1]
    return math.degrees(math.atan2(right_y - left_y, right_x - left_x))


def plausible(landmarks: Points, bbox: Sequence[float]) -> bool:
    """Return whether five landmarks [5, 2] can be those of the face in the box x1, y1, x2, y2.

    The check does not depend on the roll of the face. It fails if a landmark is not finite or lies outside
    the box, the mouth is not below the eyes, the nose is not between eyes and mouth, the mouth corners are
    exchanged, or the face is too small or too large for its box.
    """
    if not all(math.isfinite(value) for point in (*landmarks, bbox) for value in point):
        return False
    x1, y1, x2, y2 = bbox
    side = min(x2 - x1, y2 - y1)
    if side <= 0:
        return False
    margin = _OUTSIDE_BOX * side
    if not all(x1 - margin <= x <= x2 + margin and y1 - margin <= y <= y2 + margin for x, y in landmarks):
        return False
    left, right, nose, mouth_left, mouth_right = landmarks
    across = (right[0] - left[0], right[1] - left[1])
    eyes = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    down = (
        (mouth_left[0] + mouth_right[0]) / 2 - eyes[0],
        (mouth_left[1] + mouth_right[1]) / 2 - eyes[1],
    )
    span = math.hypot(*down)
    if not _MIN_SPAN * side <= span <= _MAX_SPAN * side:
        return False
    mouth = (mouth_right[0] - mouth_left[0], mouth_right[1] - mouth_left[1])
    nose_at = ((nose[0] - eyes[0]) * down[0] + (nose[1] - eyes[1]) * down[1]) / span**2
    return (
        across[0] * down[1] - across[1] * down[0] > 0
        and across[0] * mouth[0] + across[1] * mouth[1] > 0
        and _NOSE_ABOVE <= nose_at <= _NOSE_BELOW
    )


def turned_points(points: Points, rotation: int, width: float, height: float) -> list[tuple[float, float]]:
    """Return points of an image of width x height pixels after a clockwise turn by 0, 90, 180 or 270 degrees.

    To turn points back, turn them by 360 - rotation in the turned image, whose sides are exchanged at 90 and
    270.
    """
    if rotation % 90:
        raise ValueError(f"A rotation is 0, 90, 180 or 270 degrees, received {rotation}.")
    quarters = rotation // 90 % 4
    if quarters == 0:
        return [(x, y) for x, y in points]
    if quarters == 1:
        return [(height - y, x) for x, y in points]
    if quarters == 2:
        return [(width - x, height - y) for x, y in points]
    return [(y, width - x) for x, y in points]


def turned_box(
    bbox: Sequence[float], rotation: int, width: float, height: float
) -> tuple[float, float, float, float]:
    """Return a box x1, y1, x2, y2 after a clockwise turn of its image (see `turned_points`)."""
    (xa, ya), (xb, yb) = turned_points([bbox[:2], bbox[2:]], rotation, width, height)
    return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)
