"""Annotated images have readable boxes and labels on any background and at any size."""

import io
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from agegender.drawing import Box, annotated, label_boxes, label_lines
from agegender.predictions import AgeAnswer, FaceAnswer, GenderAnswer, Quality
from PIL import Image

TEXT = "100 (88-100)\nfemale 99 %"  # no label is wider


def answer(box: Box, label: str = "female") -> FaceAnswer:
    return FaceAnswer(
        bbox=box,
        det_score=0.9,
        landmarks=[(1, 1)] * 5,
        quality=Quality(score=1, reasons=[], pixels=50, yaw=0, roll=0),
        age=AgeAnswer(mean=31.4, interval=(24.9, 38.2), coverage=0.9, group="25-32", groups={}, entropy=1),
        gender=GenderAnswer(label=label, probability={"female": 0.97, "male": 0.03}, entropy=0.1),
    )


def drawn(size: tuple[int, int], boxes: list[Box], ground: int = 128) -> npt.NDArray[np.int64]:
    """Grey values [height, width] of a plain image with these faces."""
    pixels = np.full((size[1], size[0], 3), ground, np.uint8)
    file = annotated(pixels, [answer(box) for box in boxes], "PNG")
    return np.asarray(Image.open(io.BytesIO(file)).convert("L")).astype(np.int64)


def covered(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def test_label_contains_age_interval_and_gender() -> None:
    assert label_lines(answer((0, 0, 9, 9))) == ("31 (24-39)", "female 97 %")


@pytest.mark.parametrize("ground", [0, 128, 255])
@pytest.mark.parametrize("size", [(60, 40), (640, 480), (3000, 2000)])
def test_boxes_and_labels_stand_out_on_any_background(ground: int, size: tuple[int, int]) -> None:
    width, height = size
    box = (width * 0.4, height * 0.5, width * 0.6, height * 0.9)
    image = drawn(size, [box], ground)
    assert image.shape == (height, width)
    changed = np.abs(image - ground) > 60
    assert changed[:, int(box[0]) - 1 : int(box[0]) + 4].sum() > height * 0.3  # the box's left side
    above = image[: int(box[1])]  # the label: white letters on a dark background
    assert (above > 200).any() and (above < 60).any()


@pytest.mark.parametrize("box", [(-50, -50, 700, 500), (630, 470, 650, 490), (10, 10, 5, 5), (0, 0, 0, 0)])
def test_boxes_that_leave_the_image_are_drawn_as_far_as_they_go(box: Box) -> None:
    file = annotated(np.zeros((480, 640, 3), np.uint8), [answer(box), answer(box, "male")], "JPEG")
    assert Image.open(io.BytesIO(file)).size == (640, 480)


@pytest.mark.parametrize("side", [30, 80, 100])
def test_frame_leaves_a_small_face_in_a_large_image_free(side: int) -> None:
    image = drawn((4000, 3000), [(2000, 1500, 2000 + side, 1500 + side)])
    inside = image[1500 : 1500 + side, 2000 : 2000 + side]
    assert (inside == 128).mean() > 0.65


@pytest.mark.parametrize("size", [(800, 600), (4000, 3000), (3000, 4000), (4000, 1500)])
def test_letters_can_be_read_when_the_image_is_shown_1000_pixels_wide(size: tuple[int, int]) -> None:
    (label,) = label_boxes([(300, 300, 380, 380)], [TEXT], size)
    capital = label.font.getbbox("H")
    seen = (capital[3] - capital[1]) * min(1, 1000 / max(size))
    assert seen >= 7


EDGES = {
    "upper left": (0, 0),
    "top": (450, 0),
    "upper right": (800, 0),
    "left": (0, 300),
    "right": (800, 300),
    "lower left": (0, 600),
    "bottom": (450, 600),
    "lower right": (800, 600),
}


@pytest.mark.parametrize("corner", EDGES.values(), ids=EDGES)
def test_label_of_a_face_at_an_edge_stands_beside_it_in_the_image(corner: tuple[int, int]) -> None:
    box = (corner[0], corner[1], corner[0] + 100, corner[1] + 100)
    (label,) = label_boxes([box], [TEXT], (900, 700))
    x1, y1, x2, y2 = label.box
    assert x1 >= 0 and y1 >= 0 and x2 <= 900 and y2 <= 700
    assert covered(label.box, box) == 0


@pytest.mark.parametrize("size", [(60, 60), (40, 200), (200, 30), (24, 24)])
def test_label_in_a_tiny_image_shrinks_until_it_is_whole(size: tuple[int, int]) -> None:
    (label,) = label_boxes([(2, 2, size[0] - 2, size[1] - 2)], [TEXT], size)
    x1, y1, x2, y2 = label.box
    assert 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)])
def test_image_without_room_for_letters_is_drawn_nevertheless(size: tuple[int, int]) -> None:
    assert drawn(size, [(0, 0, size[0], size[1])]).shape == size[::-1]


def test_label_of_a_face_that_fills_the_image_leaves_the_eyes_free() -> None:
    (label,) = label_boxes([(0, 0, 800, 1000)], [TEXT], (800, 1000))
    assert label.box[1] > 500


def test_labels_of_neighbours_cover_neither_each_other_nor_a_face() -> None:
    boxes: list[Box] = [(x, y, x + 90.0, y + 100.0) for y in (400, 1400, 2400) for x in range(100, 3800, 310)]
    labels = label_boxes(boxes, [TEXT] * len(boxes), (4000, 3000))
    assert [pair for pair in combinations([label.box for label in labels], 2) if covered(*pair)] == []
    assert [label.box for label in labels if any(covered(label.box, box) for box in boxes)] == []


def test_letters_of_a_crowd_are_smaller_rather_than_on_each_other() -> None:
    alone = label_boxes([(2000, 1500, 2090, 1600)], [TEXT], (4000, 3000))[0]
    row: list[Box] = [(x, 1500, x + 90.0, 1600) for x in range(100, 3800, 150)]
    labels = label_boxes(row, [TEXT] * len(row), (4000, 3000))
    assert [pair for pair in combinations([label.box for label in labels], 2) if covered(*pair)] == []
    assert min(label.spacing for label in labels) < alone.spacing
