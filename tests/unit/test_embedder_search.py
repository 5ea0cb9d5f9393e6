"""Images whose faces are absent or doubtful are searched again: with a border, and turned."""

from collections.abc import Sequence

import numpy as np
import pytest
from agegender.faces import turned_points
from embedder.detection.search import TURNS, Detections, Image, search

WIDTH, HEIGHT = 120, 90
# Marks at the landmarks of one upright face, as grey values.
MARKS = {10: (50, 30), 20: (80, 30), 30: (65, 45), 40: (53, 60), 50: (77, 60)}


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image:
    image = np.full((height, width, 3), 200, np.uint8)
    for grey, (x, y) in MARKS.items():
        image[y * height // HEIGHT, x * width // WIDTH] = grey
    return image


def turned(image: Image, degrees: int) -> Image:
    return np.ascontiguousarray(np.rot90(image, -(degrees // 90)))


class MarkDetector:
    """Finds the face by its marks. Its evidence is the best for an upright face.

    rolled : a score of a face for each roll of 0, 90, 180 and 270 degrees; below 0.5 it is not found.
    room : how far the marks must be from the edges of the image, in widths of the image.
    misplaced : give the landmarks of an upright face to a turned one, as real detectors do.
    """

    def __init__(
        self, rolled: Sequence[float] = (0.9, 0.6, 0.7, 0.6), room: float = 0.0, misplaced: bool = False
    ) -> None:
        self._rolled = rolled
        self._room = room
        self._misplaced = misplaced
        self.shapes: list[tuple[int, ...]] = []

    def detect(self, image: Image) -> Detections:
        self.shapes.append(image.shape[:2])
        points = [self._point(image, grey) for grey in MARKS]
        across, down = points[1] - points[0], points[3] - points[0]
        roll = round(np.degrees(np.arctan2(across[1], across[0])) / 90) % 4
        score = self._rolled[roll]
        edge = min(*np.min(points, axis=0), *(np.array(image.shape[1::-1]) - np.max(points, axis=0)))
        if score < 0.5 or edge < self._room * np.linalg.norm(across):
            return Detections(
                np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32)
            )
        middle, size = np.mean(points, axis=0), np.linalg.norm(across) + np.linalg.norm(down)
        bbox = np.concatenate([middle - size / 2, middle + size / 2])
        if self._misplaced and roll:
            upright = np.array(list(MARKS.values()), np.float32)
            scale = np.linalg.norm(across) / 30
            points = list((upright - upright.mean(axis=0)) * scale + middle)
        return Detections(
            bbox[None].astype(np.float32),
            np.array([score], np.float32),
            np.array([points], np.float32),
            sure=np.array([score >= 0.8]),
        )

    @staticmethod
    def _point(image: Image, grey: int) -> np.ndarray:
        distance = np.abs(image.astype(int).max(axis=2) - grey)
        y, x = np.unravel_index(int(distance.argmin()), distance.shape)
        return np.array([x + 0.5, y + 0.5])


def expected(rotation: int) -> np.ndarray:
    """Landmarks in the scene that has to be turned clockwise by `rotation` to be upright."""
    points = [(x + 0.5, y + 0.5) for x, y in MARKS.values()]
    return np.array(turned_points(points, (360 - rotation) % 360, WIDTH, HEIGHT))


def test_upright_image_is_searched_once() -> None:
    detector = MarkDetector()
    found = search(detector, scene())
    assert (found.rotation, found.border) == (0, False)
    assert detector.shapes == [(HEIGHT, WIDTH)]
    np.testing.assert_allclose(found.landmarks[0], expected(0))


@pytest.mark.parametrize("misplaced", [False, True])
@pytest.mark.parametrize("rotation", TURNS)
def test_turn_is_found_and_landmarks_are_those_of_the_image_as_given(rotation: int, misplaced: bool) -> None:
    image = turned(scene(), (360 - rotation) % 360)
    found = search(MarkDetector(misplaced=misplaced), image)
    assert (found.rotation, found.border, len(found.score)) == (rotation, False, 1)
    np.testing.assert_allclose(found.landmarks[0], expected(rotation), atol=1e-3)
    assert (found.bbox >= 0).all()
    assert (found.bbox[:, 2:] <= [image.shape[1], image.shape[0]]).all()


@pytest.mark.parametrize("rotation", TURNS)
def test_turn_of_an_image_that_gives_nothing_as_it_is_is_found(rotation: int) -> None:
    found = search(MarkDetector((0.9, 0, 0, 0)), turned(scene(), (360 - rotation) % 360))
    assert found.rotation == rotation
    np.testing.assert_allclose(found.landmarks[0], expected(rotation), atol=1e-3)


def test_doubtful_face_is_turned_only_if_it_is_not_found_as_it_is() -> None:
    """A face without its chin is doubtful in every turn; the strongest one proves nothing."""
    assert search(MarkDetector((0.6, 0.7, 0.75, 0.7)), scene()).rotation == 0
    assert search(MarkDetector((0.0, 0.0, 0.75, 0.0)), scene()).rotation == 180


@pytest.mark.parametrize("room", [1.5, 3.5])
@pytest.mark.parametrize("rotation", TURNS)
def test_face_that_fills_the_image_is_found_with_a_border_and_marked(room: float, rotation: int) -> None:
    detector = MarkDetector(room=room)
    found = search(detector, turned(scene(), (360 - rotation) % 360))
    assert (found.rotation, found.border) == (rotation, True)
    np.testing.assert_allclose(found.landmarks[0], expected(rotation), atol=1e-3)


def test_large_image_is_turned_at_a_smaller_size_and_then_searched_as_it_is() -> None:
    image = np.asarray(np.repeat(np.repeat(scene(400, 300), 5, axis=0), 5, axis=1))
    detector = MarkDetector()
    found = search(detector, turned(image, 90))
    assert found.rotation == 270
    assert max(detector.shapes[2]) <= 1600
    assert detector.shapes[-1] == (1500, 2000)
    truth = np.array(turned_points([(x / WIDTH, y / HEIGHT) for x, y in MARKS.values()], 90, 1, 1))
    assert np.abs(found.landmarks[0] / [1500, 2000] - truth).max() < 0.02


def test_image_without_a_face_takes_a_bounded_number_of_searches() -> None:
    detector = MarkDetector((0, 0, 0, 0))
    found = search(detector, scene())
    assert (len(found.score), found.rotation, found.border) == (0, 0, False)
    assert len(detector.shapes) == 9


def test_no_further_search_is_made_for_who_has_left() -> None:
    detector = MarkDetector((0, 0, 0, 0))
    left = iter([True, True, False, *[False] * 9])
    search(detector, scene(), lambda: next(left))
    assert len(detector.shapes) == 3


class CrowdDetector:
    """Finds faces that are where it is said, in the image as given; in others one sure face."""

    def __init__(self, sure: Sequence[bool]) -> None:
        self._sure = sure
        self.searches = 0

    def detect(self, image: Image) -> Detections:
        self.searches += 1
        sure = self._sure if self.searches == 1 else [True]
        face = np.array(list(MARKS.values()), np.float32)
        boxes = [np.array([40, 20, 90, 70], np.float32) for _ in sure]
        score = np.array([0.9 if one else 0.6 for one in sure], np.float32)
        return Detections(np.array(boxes), score, np.array([face for _ in sure]), sure=score > 0.8)


@pytest.mark.parametrize(
    ("sure", "searches"), [([True, True, False], 1), ([True, False], 1), ([False, False], 8)]
)
def test_scene_in_which_half_of_the_large_faces_are_upright_is_not_turned(
    sure: list[bool], searches: int
) -> None:
    detector = CrowdDetector(sure)
    search(detector, scene())
    assert detector.searches == searches
    if searches == 1:
        assert search(CrowdDetector(sure), scene()).rotation == 0


class BlindDetector:
    """Finds nothing, and remembers the shape of each image."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def detect(self, image: Image) -> Detections:
        self.shapes.append(image.shape)
        none = np.empty((0, 5, 2), np.float32)
        return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), none)


@pytest.mark.parametrize("shape", [(1, 30_000, 3), (30_000, 1, 3), (100, 400_000, 3), (7_000, 7_000, 3)])
def test_borders_take_bounded_memory_whatever_the_shape_of_the_image(shape: tuple[int, ...]) -> None:
    """A border of a third of the long side around a line of pixels would be gigabytes."""
    detector = BlindDetector()
    search(detector, np.zeros(shape, np.uint8))
    searched = [int(np.prod(seen)) for seen in detector.shapes]
    assert len(searched) > 1  # one search with a border at least
    assert max(searched[1:]) <= 1_600 * 1_600 * 3
