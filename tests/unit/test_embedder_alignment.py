"""Crops put landmarks at the positions of the template, whatever the face's place, size and turn."""

import numpy as np
from embedder.alignment import ARCFACE_TEMPLATE, crop, sharpness, similarity, template
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(0.2, 5), st.floats(-np.pi, np.pi), st.floats(-300, 300), st.floats(-300, 300))
def test_similarity_undoes_any_turn_scale_and_shift(scale: float, turn: float, x: float, y: float) -> None:
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = (ARCFACE_TEMPLATE @ rotation.T * scale + [x, y]).astype(np.float32)
    matrix = similarity(moved, ARCFACE_TEMPLATE)
    np.testing.assert_allclose(moved @ matrix[:, :2].T + matrix[:, 2], ARCFACE_TEMPLATE, atol=0.05)


def test_large_and_small_pictures_of_a_face_give_the_same_crop() -> None:
    # A smooth image, drawn at two sizes; the large one is shrunk by area before it is sampled.
    def picture(size: int) -> np.ndarray:
        y, x = np.mgrid[:size, :size] / size
        return np.stack([x, y, (x + y) / 2], axis=-1).__mul__(255).astype(np.uint8)

    small, large = picture(300), picture(2400)
    points = template(300, 0.5)
    small_crop = crop(small, similarity(points, template(112, 1.0)), 112)
    large_crop = crop(large, similarity(points * 8, template(112, 1.0)), 112)
    assert np.abs(small_crop.astype(int) - large_crop.astype(int)).mean() < 2


def test_blur_lowers_sharpness() -> None:
    import cv2

    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    assert sharpness(np.asarray(cv2.GaussianBlur(noise, (7, 7), 3), np.uint8)) < sharpness(noise) / 10
