"""Measures of light and covers see damage on a real face, and none on the face as it is."""

import cv2
import numpy as np
import pytest
from embedder.alignment import SIZE, Image, Measures, cover_features, crop, measure, similarity, template

from tools.damage import DAMAGE, damaged

skimage_data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")

LANDMARKS = np.array([[204, 102], [247, 105], [224, 127], [201, 139], [246, 141]], np.float32)
COVERS = [name for name, (reason, _) in DAMAGE.items() if reason == "covered"]
NAMED = 0.8  # docs/results/quality.md


@pytest.fixture(scope="module")
def astronaut() -> Image:
    return np.asarray(skimage_data.astronaut(), np.uint8)


def measured(image: Image) -> Measures:
    return measure(crop(image, similarity(LANDMARKS, template(SIZE, 1.0)), SIZE))


def test_undamaged_face_is_bright_and_uncovered(astronaut: Image) -> None:
    found = measured(astronaut)
    assert 150 < found.brightness < 250
    assert found.clipped < 0.05
    assert found.covered < 0.5


@pytest.mark.parametrize("name", COVERS)
def test_covers_are_seen(astronaut: Image, name: str) -> None:
    assert measured(damaged(astronaut, LANDMARKS, name, "astronaut")).covered > NAMED


@pytest.mark.parametrize("change", ["mirrored", "grey", "blurred", "dim", "warm"])
def test_harmless_changes_are_no_cover(astronaut: Image, change: str) -> None:
    aligned = crop(astronaut, similarity(LANDMARKS, template(SIZE, 1.0)), SIZE)
    changed = {
        "mirrored": aligned[:, ::-1],
        "grey": np.repeat(cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1),
        "blurred": cv2.GaussianBlur(aligned, (0, 0), 2),
        "dim": aligned // 3,
        "warm": np.clip(aligned * np.array([1.1, 1.0, 0.8]), 0, 255).astype(np.uint8),
    }[change]
    assert measure(np.ascontiguousarray(changed)).covered < NAMED


def test_brightness_and_clipping_follow_the_light(astronaut: Image) -> None:
    lights = [name for name, (reason, _) in DAMAGE.items() if reason in ("dark", "overexposed")]
    found = {name: measured(damaged(astronaut, LANDMARKS, name, "astronaut")) for name in lights}
    assert found["a sixteenth of the light"].brightness < found["an eighth of the light"].brightness < 40
    assert found["a quarter of the light"].brightness < 77  # is named `dark`
    assert found["five times the light"].clipped > found["three times the light"].clipped > 0.25


def test_highlights_keep_dark_skin_from_being_called_dark(astronaut: Image) -> None:
    """A face with the median of dark skin and bright highlights is in good light."""
    aligned = crop(astronaut, similarity(LANDMARKS, template(SIZE, 1.0)), SIZE)
    darker = (255 * (aligned / 255.0) ** 3).astype(np.uint8)
    assert np.median(darker) < 80
    assert measure(darker).brightness > 100


def test_cover_features_do_not_depend_on_exposure(astronaut: Image) -> None:
    aligned = crop(astronaut, similarity(LANDMARKS, template(SIZE, 1.0)), SIZE)
    dim = np.asarray(np.round(aligned * 0.7), np.uint8)
    one, other = cover_features(aligned), cover_features(dim)
    assert np.corrcoef(one, other)[0, 1] > 0.98


def test_black_and_white_crops_have_finite_measures() -> None:
    for value in (0, 255):
        found = measure(np.full((SIZE, SIZE, 3), value, np.uint8))
        assert all(np.isfinite(list(found.rounded().values())))
        assert found.brightness == value
