"""The made videos of `benchmarks/video`: one seed makes one clip, and the truth is what it shows."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from agegender.images import ImageLimits, decode
from agegender.video.decoding import open_video

from benchmarks.video.clips import ENCODINGS, read_truth, write_clip
from benchmarks.video.measured import overlap
from benchmarks.video.portraits import Pixels, Portrait
from benchmarks.video.scenes import Scene, make_scene
from tests.support.system import SIX_ADULTS

WIDTH, HEIGHT, SECONDS = 192, 108, 4.0
_FACE = (720, 340, 870, 500)  # around one of the photograph's faces
_BOX = (35.0, 35.0, 115.0, 135.0)
_MARKED = ((255, 0, 255), (0, 255, 255))


@pytest.fixture(scope="module")
def cast() -> list[Portrait]:
    """Two persons, each with the face painted in a colour that nothing else has."""
    left, top, right, bottom = _FACE
    crop = decode(SIX_ADULTS.read_bytes(), ImageLimits())[top:bottom, left:right]
    found = []
    for colour in _MARKED:
        pixels = np.ascontiguousarray(crop)
        x1, y1, x2, y2 = _BOX
        middle = round((x1 + x2) / 2), round((y1 + y2) / 2)
        axes = round((x2 - x1) / 2), round((y2 - y1) / 2)
        cv2.ellipse(pixels, middle, axes, 0, 0, 360, colour, -1)
        found.append(Portrait("face", pixels, _BOX, 30.0, True))
    return found


def _scene(cast: list[Portrait]) -> Scene:
    """Return a scene whose background has no colour."""
    scene = make_scene(4, cast, WIDTH, HEIGHT, SECONDS)
    grey = scene._texture.mean(axis=2, keepdims=True).repeat(3, axis=2)
    scene.__dict__["_texture"] = grey
    return scene


def _marked(pixels: Pixels, person: int) -> npt.NDArray[np.bool_]:
    """Return the mask of the pixels with the person's colour, in any light."""
    red, green, blue = (pixels[..., channel].astype(int) for channel in range(3))
    lacking, other = (green, red) if person == 1 else (red, green)
    return np.asarray((np.minimum(other, blue) - lacking > 60) & (np.abs(other - blue) < 40))


def test_boxes_and_visible_shares_are_those_of_the_pixels(cast: list[Portrait]) -> None:
    scene, whole, hidden = _scene(cast), 0, 0
    for seconds in np.arange(0.2, SECONDS, 0.2):
        pixels, faces = scene.frame(float(seconds))
        for face in faces:
            mask = _marked(pixels, face.person)
            x1, y1, x2, y2 = face.box
            area = (x2 - x1) * (y2 - y1) * np.pi / 4
            assert mask.sum() / area == pytest.approx(face.visible, abs=0.25), (seconds, face)
            if face.visible > 0.98:
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                shown = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
                assert overlap(face.box, shown) > 0.75, (seconds, face, shown)
                whole += 1
            hidden += face.visible < 0.9
    assert whole >= 8 and hidden >= 2  # both cases occur


def test_same_seed_makes_the_same_file_and_another_seed_another(cast: list[Portrait], tmp_path: Path) -> None:
    files = [
        write_clip(tmp_path / str(number), "clip", _scene(cast), 0.4, ENCODINGS["variable"])
        for number in range(2)
    ]
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert read_truth(files[0]) == read_truth(files[1])
    other = make_scene(5, cast, WIDTH, HEIGHT, SECONDS)
    assert not np.array_equal(other.frame(1.0)[0], _scene(cast).frame(1.0)[0])


@pytest.mark.parametrize("name", ["rotated", "odd", "variable"])
def test_video_shows_the_scene_at_the_times_of_its_truth(
    cast: list[Portrait], tmp_path: Path, name: str
) -> None:
    scene = _scene(cast)
    if name == "odd":
        scene = replace(scene, width=WIDTH - 1, height=HEIGHT - 1)
    clip = write_clip(tmp_path, name, scene, 0.4, ENCODINGS[name])
    with open_video(clip) as video:
        frames = [(frame.seconds, frame.rgb()) for frame in video.frames()]
    assert [seconds for seconds, _ in frames] == pytest.approx(
        [frame.seconds for frame in read_truth(clip).frames], abs=2e-3
    )
    seconds, decoded = frames[-1]
    assert np.abs(decoded.astype(int) - scene.frame(round(seconds, 3))[0]).mean() < 12
