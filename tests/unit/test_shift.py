"""The bench for shift damages images in the stated ways, and computes right figures."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy.shift import COLUMNS, Judged
from benchmarks.accuracy.shifted_images import CONDITIONS
from tests.support.made_faces import made_faces
from tools.stack import PHOTOGRAPH


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    with Image.open(PHOTOGRAPH) as photograph:
        return np.asarray(photograph.convert("RGB").crop((0, 0, 200, 160)))


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_each_condition_changes_the_image_and_is_reproducible(image: np.ndarray, condition: str) -> None:
    before = image.copy()
    one, again = (CONDITIONS[condition](image, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(one, again)
    assert one.dtype == np.uint8 and one.shape[2] == 3 and min(one.shape[:2]) >= 90
    assert np.array_equal(one, image) == (condition == "as they are")


def test_row_has_error_coverage_and_the_risk_of_the_narrowest_intervals_first() -> None:
    faces = made_faces(4, folds=2)
    faces = replace(
        faces,
        age_low=np.array([20, 30, 40, 50], np.float32),
        age_high=np.array([20, 30, 40, 50], np.float32),
        gender=np.array([0, 1, 0, -1], np.int8),
    )
    predicted = np.array([20, 31, 42, 53])
    plain = np.stack([predicted - 0.5, np.add(predicted, [0.5, 1.0, 1.5, 2.0])], axis=1)
    extended = np.add(plain, [[-2, 2]])
    judged = Judged(
        faces=faces,
        age=np.eye(101)[predicted],
        gender=np.array([[1, 0], [1, 0], [1, 0], [1, 0]], np.float64),
        plain=plain,
        extended=extended,
        quality=np.full(4, np.nan),
        familiarity=np.array([0.9, 0.7, 0.5, 0.3]),
    )
    row = dict(zip(COLUMNS, judged.row("made", 0.5), strict=True))
    assert (row["count"], row["found"], row["MAE"], row["gender"]) == ("4", "0.500", "1.50", "0.667")
    assert row["without familiarity: covered, width"] == "0.250, 1.8"
    assert (row["covered by 90 %"], row["width"], row["familiarity"]) == ("0.750", "5.8", "0.60")
    assert row["ranks: entropy, width, quality, familiarity"] == "–, 1.00, –, -1.00"
    assert row["AURC"] == "0.75"  # the mean of 0, 1/2, 3/3 and 6/4
