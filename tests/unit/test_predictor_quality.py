"""The quality of a face falls with each kind of damage, which becomes one of its reasons."""

import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import predictor
import pytest
from agegender.faces import FaceGeometry
from agegender.predictions import Quality, QualityReason
from predictor.quality import face_quality, head_angles, missing_sides

# ArcFace's template for a 112-pixel crop (insightface, face_align.py): a frontal face.
FRONTAL = [(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)]


SIZE = (200, 200)


def face(
    *, side: float = 100, landmarks: list[tuple[float, float]] = FRONTAL, **measures: Any
) -> FaceGeometry:
    """A frontal face with a box of `side` by 1.3 times `side` pixels; its landmarks scale with the box."""
    points = [(x * side / 100, y * side / 100) for x, y in landmarks]
    box = (6 * side / 100, 10 * side / 100, 1.06 * side, 1.4 * side)
    return FaceGeometry(bbox=box, landmarks=points, **{"det_score": 0.9, **measures})


def rotated(points: list[tuple[float, float]], degrees: float) -> list[tuple[float, float]]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def moved(points: list[tuple[float, float]], x: float, y: float) -> list[tuple[float, float]]:
    return [(a + x, b + y) for a, b in points]


def test_large_sharp_frontal_face_lacks_nothing() -> None:
    quality = face_quality(face(sharpness=500, brightness=200, clipped=0.01, covered=0.1), SIZE)
    assert (quality.score, quality.interval_scale, quality.reasons) == (1.0, 1.0, [])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (face(side=24), "small"),
        (face(sharpness=8), "blurred"),
        (face(det_score=0.4), "doubtful"),
        (face(covered=0.95), "covered"),
        (face(brightness=40), "dark"),
        (face(clipped=0.4), "overexposed"),
        (face(border=True), "tight"),
        (face(whole=True, det_score=0), "undetected"),
    ],
)
def test_each_flaw_lowers_the_score_and_is_named(given: FaceGeometry, reason: str) -> None:
    quality = face_quality(given, SIZE)
    assert quality.score < 0.75
    assert quality.reasons == [reason]


def test_image_taken_whole_is_judged_by_the_face_in_it() -> None:
    found = face(whole=True, side=150).model_copy(update={"bbox": (0.0, 0.0, 4000.0, 3000.0)})
    quality = face_quality(found, (4000, 3000))
    assert (quality.reasons, quality.interval_scale, quality.score) == ([], 1.0, 1.0)
    small = face(whole=True, side=24).model_copy(update={"bbox": (0.0, 0.0, 4000.0, 3000.0)})
    assert face_quality(small, (4000, 3000)).reasons == ["small"]
    assert face_quality(small, (4000, 3000)).pixels == pytest.approx(16, abs=1)


def test_undetected_face_has_a_wider_interval() -> None:
    quality = face_quality(face(whole=True, side=150, det_score=0), SIZE)
    assert quality.interval_scale == 1.1 and quality.score == 0.5
    implausible = face(whole=True, det_score=0, landmarks=[*FRONTAL[3:], FRONTAL[2], *FRONTAL[:2]])
    assert "doubtful" in face_quality(implausible).reasons


def test_worst_flaw_is_named_first() -> None:
    assert face_quality(face(side=30, det_score=0.31)).reasons == ["doubtful", "small"]


def test_measures_that_an_embedder_does_not_send_count_as_good() -> None:
    quality = face_quality(face())
    assert (quality.score, quality.reasons) == (1.0, [])
    assert (quality.missing, quality.covered, quality.brightness, quality.clipped) == (None,) * 4


@pytest.mark.parametrize(
    ("size", "reasons"),
    [((200, 119), []), ((200, 82), ["cut"]), ((73, 200), ["cut"]), ((76, 96), ["tight", "cut"])],
)
def test_face_beyond_the_edge_of_its_image_is_cut(size: tuple[int, int], reasons: list[str]) -> None:
    """Chin beyond the lower edge, then the left eye beyond the right edge, then both."""
    assert face_quality(face(), size).reasons == reasons


def test_missing_sides_follow_the_face_at_every_edge_and_angle() -> None:
    half = 112 - 56, 77
    assert missing_sides(moved(FRONTAL, -half[0], 0), (200, 200)) == pytest.approx((0.5, 0, 0, 0), abs=0.02)
    assert missing_sides(moved(FRONTAL, 0, -half[1]), (200, 200)) == pytest.approx((0, 0, 0.5, 0), abs=0.02)
    lying = rotated(FRONTAL, 90)  # the chin points to the left
    assert missing_sides(moved(lying, 77, 0), (200, 200)) == pytest.approx((0.5, 0, 0, 0), abs=0.02)


@pytest.mark.parametrize(
    "landmarks",
    [
        [(56.0, 90.0)] * 5,
        [*FRONTAL[3:], FRONTAL[2], *FRONTAL[:2]],
        moved(FRONTAL, 150, 0),
        [(x * 0.1 + 50, y * 0.1 + 60) for x, y in FRONTAL],
    ],
)
def test_landmarks_that_cannot_belong_to_the_box_make_a_face_doubtful(
    landmarks: list[tuple[float, float]],
) -> None:
    quality = face_quality(face(landmarks=landmarks))
    assert "doubtful" in quality.reasons
    assert quality.score <= 0.2


def test_dark_face_is_not_called_blurred() -> None:
    """A quarter of the light leaves a sixteenth of the variance."""
    assert face_quality(face(sharpness=200, brightness=200)).reasons == []
    assert face_quality(face(sharpness=200 / 16, brightness=50)).reasons == ["dark"]
    assert face_quality(face(sharpness=8 / 16, brightness=50)).reasons == ["blurred", "dark"]


def test_page_has_a_sentence_for_each_reason() -> None:
    script = (Path(predictor.__file__).parent / "static" / "cards.js").read_text()
    sentences = script[script.index("REASONS = {") : script.index("};")]
    assert set(re.findall(r"^  (\w+):", sentences, re.MULTILINE)) == set(get_args(QualityReason))


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


def test_answer_contains_the_scale_under_its_former_name_too() -> None:
    quality = face_quality(face(side=30, sharpness=5))
    answer = json.loads(quality.model_dump_json())
    assert answer["widening"] == answer["interval_scale"] == quality.interval_scale > 1
    del answer["interval_scale"]  # as releases up to 0.1 respond
    assert Quality.model_validate(answer) == quality
