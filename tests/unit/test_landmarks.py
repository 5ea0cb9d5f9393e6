"""Five landmarks are checked against their box, and turned with their image."""

import math

import pytest
from agegender.faces import Face, ImageFaces, eye_roll, plausible, turned_box, turned_points

BOX = (30.0, 20.0, 90.0, 100.0)
FACE = [(45.0, 50.0), (75.0, 50.0), (60.0, 65.0), (48.0, 80.0), (72.0, 80.0)]  # of 150 x 120 pixels


def rolled(degrees: float) -> list[tuple[float, float]]:
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    moved = [(complex(x - 60, y - 65) * turn) for x, y in FACE]
    return [(point.real + 60, point.imag + 65) for point in moved]


@pytest.mark.parametrize("degrees", range(-180, 181, 15))
def test_face_is_plausible_at_any_roll(degrees: int) -> None:
    landmarks = rolled(degrees)
    assert plausible(landmarks, (20.0, 25.0, 100.0, 105.0))
    assert abs((eye_roll(landmarks) - degrees + 180) % 360 - 180) < 1e-6


@pytest.mark.parametrize(
    "change",
    [
        {3: (48.0, 20.0), 4: (72.0, 20.0)},  # the mouth is above the eyes
        {2: (60.0, 45.0)},  # the nose is above the eyes
        {2: (60.0, 90.0)},  # the nose is below the mouth
        {3: (72.0, 80.0), 4: (48.0, 80.0)},  # mouth corners are exchanged
        {0: (75.0, 50.0), 1: (45.0, 50.0)},  # eyes are exchanged
        {2: (120.0, 65.0)},  # the nose is outside the box
        {0: (math.nan, 50.0)},
        {0: (46.0, 76.0), 1: (74.0, 76.0), 2: (60.0, 78.0)},  # eyes and mouth are in one place
        dict.fromkeys(range(5), (60.0, 60.0)),
    ],
)
def test_misplaced_landmarks_are_not_plausible(change: dict[int, tuple[float, float]]) -> None:
    landmarks = [change.get(index, point) for index, point in enumerate(FACE)]
    assert plausible(FACE, BOX)
    assert not plausible(landmarks, BOX)


def test_box_without_area_has_no_plausible_landmarks() -> None:
    assert not plausible(FACE, (60.0, 60.0, 60.0, 60.0))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_points_and_boxes_turn_with_their_image_and_back(rotation: int) -> None:
    width, height = (150.0, 120.0) if rotation in (0, 180) else (120.0, 150.0)  # of the turned image
    turned = turned_points(FACE, rotation, 150, 120)
    assert turned_points(turned, (360 - rotation) % 360, width, height) == FACE
    box = turned_box(BOX, rotation, 150, 120)
    assert box[0] < box[2] and box[1] < box[3]
    assert plausible(turned, box)
    assert turned_box(box, (360 - rotation) % 360, width, height) == BOX


def test_a_clockwise_quarter_turn_puts_the_upper_left_corner_to_the_upper_right() -> None:
    assert turned_points([(0, 0), (150, 0)], 90, 150, 120) == [(120, 0), (120, 150)]
    assert turned_points([(0, 0)], 270, 150, 120) == [(0, 150)]
    with pytest.raises(ValueError, match="received 45"):
        turned_points(FACE, 45, 150, 120)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_face_of_a_turned_image_is_upright_for_its_quality(rotation: int) -> None:
    back = (360 - rotation) % 360
    delivered = turned_points(FACE, back, 150, 120)
    width, height = (150, 120) if rotation in (0, 180) else (120, 150)
    face = Face(bbox=turned_box(BOX, back, 150, 120), det_score=0.9, landmarks=delivered, embedding=[1.0])
    image = ImageFaces(width=width, height=height, rotation=rotation, faces=[face])
    upright = image.upright(face)
    assert upright.landmarks == FACE
    assert upright.bbox == BOX
    assert eye_roll(upright.landmarks) == 0
