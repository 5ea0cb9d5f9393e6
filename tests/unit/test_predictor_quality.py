"""A face's quality falls with what makes its answer doubtful, and says with what."""

import math

import pytest
from agegender.faces import FaceGeometry
from predictor.quality import face_quality, head_angles

# ArcFace's template for a 112-pixel crop (insightface, face_align.py): a frontal face.
FRONTAL = [(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)]


def face(*, side: float = 120, det_score: float = 0.9, sharpness: float | None = None) -> FaceGeometry:
    return FaceGeometry(
        bbox=(0, 0, side, side * 1.3), det_score=det_score, landmarks=FRONTAL, sharpness=sharpness
    )


def rotated(points: list[tuple[float, float]], degrees: float) -> list[tuple[float, float]]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def test_large_sharp_frontal_face_lacks_nothing() -> None:
    quality = face_quality(face(sharpness=500))
    assert (quality.score, quality.reasons) == (1.0, [])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (face(side=24), "small"),
        (face(sharpness=8), "blurred"),
        (face(det_score=0.4), "doubtful"),
    ],
)
def test_each_flaw_lowers_the_score_and_is_named(given: FaceGeometry, reason: str) -> None:
    quality = face_quality(given)
    assert quality.score < 0.75
    assert quality.reasons == [reason]


def test_worst_flaw_is_named_first() -> None:
    assert face_quality(face(side=30, det_score=0.31)).reasons == ["doubtful", "small"]


@pytest.mark.parametrize("degrees", [-90, -30, 0, 45, 90])
def test_roll_is_measured_and_leaves_yaw_alone(degrees: float) -> None:
    yaw, roll = head_angles(rotated(FRONTAL, degrees))
    assert roll == pytest.approx(degrees, abs=1)
    assert yaw == pytest.approx(0, abs=3)


def test_nose_off_the_midline_is_yaw_with_its_side() -> None:
    def with_nose_at(x: float) -> list[tuple[float, float]]:
        return [*FRONTAL[:2], (x, 71.7), *FRONTAL[3:]]

    to_the_right, _ = head_angles(with_nose_at(70))
    to_the_left, _ = head_angles(with_nose_at(42))
    assert 30 < to_the_right < 60
    assert to_the_left == pytest.approx(-to_the_right, abs=3)


def test_landmarks_in_one_point_are_no_frontal_face() -> None:
    yaw, _ = head_angles([(5.0, 5.0)] * 5)
    assert yaw == 90
