"""Varied copies of faces: the same each time, of bounded size, and different from one another."""

import numpy as np
import pytest
from trainer.extraction import variation
from trainer.extraction.variation import varied


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rows, columns = np.mgrid[:120, :160]
    return np.stack([rows, columns, rows + columns], axis=2).astype(np.uint8)


BOX = (60.0, 40.0, 100.0, 90.0)


def test_same_image_and_seed_give_the_same_copy_and_other_seeds_others(image: np.ndarray) -> None:
    copies = [varied(image, BOX, bytes([seed])) for seed in range(40)]
    again = [varied(image, BOX, bytes([seed])) for seed in range(40)]
    assert all(np.array_equal(*pair) for pair in zip(copies, again, strict=True))
    different = len({copy.tobytes() for copy in copies})
    assert 20 < different < 40  # 30 % are mirrored and nothing else
    assert all(copy.dtype == np.uint8 and copy.ndim == 3 and copy.shape[2] == 3 for copy in copies)


def test_copy_without_changes_is_the_mirrored_surroundings_of_the_face(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variation, "_CHANGES", ())
    np.testing.assert_array_equal(varied(image, BOX, b""), image[15:115, 35:125][:, ::-1])
    for box in (
        (200, 10, 210, 20),
        (10, 300, 20, 310),
        (-90, -90, -60, -60),
        (10.2, 10.2, 10.3, 10.3),
        (50, 50, 9, 9),
    ):
        outside = varied(image, box, b"")
        assert min(outside.shape) >= 1
    beyond = varied(image, (-10, -10, 200, 300), b"")  # a box may reach beyond the image
    np.testing.assert_array_equal(beyond, image[:, ::-1])


@pytest.mark.parametrize(
    "change", [change for _, change in variation._CHANGES], ids=lambda change: change.__name__
)
def test_every_change_keeps_a_small_and_a_large_face_and_changes_it(
    change: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.random.default_rng(0)
    monkeypatch.setattr(variation, "_UNCHANGED", 0.0)
    monkeypatch.setattr(variation, "_CHANGES", ())
    for side in (1, 12, 3000):
        plain = draws.integers(0, 255, (side, side, 3)).astype(np.uint8)
        monkeypatch.setattr(variation, "_CHANGES", ())
        unchanged = varied(plain, (0, 0, side, side), b"1")
        monkeypatch.setattr(variation, "_CHANGES", ((1.0, change),))
        changed = varied(plain, (0, 0, side, side), b"1")
        assert max(changed.shape) <= 400 and min(changed.shape[:2]) >= 1
        assert side < 1000 or not np.array_equal(changed, unchanged)
