"""Low quality scales the age interval by a table, monotonically and within 0 to 100 years."""

from typing import get_args

import numpy as np
import pytest
from agegender.predictions import AgeAnswer, QualityReason
from hypothesis import given
from hypothesis import strategies as st
from predictor.quality import OTHER_SCALES, REASON_SCALES, interval_scale, scaled

SCORES = st.floats(0, 1)
YEARS = st.floats(0, 100)


def age(low: float, high: float) -> AgeAnswer:
    return AgeAnswer(
        mean=(low + high) / 2, interval=(low, high), coverage=0.9, group="25-32", groups={}, entropy=1
    )


@pytest.mark.parametrize("table", [OTHER_SCALES, *REASON_SCALES.values()])
def test_tables_ascend_in_the_factor_descend_in_the_scale_and_end_at_one(
    table: tuple[tuple[float, float], ...],
) -> None:
    factors, scales = np.array(table).T
    assert factors[0] == 0 and (np.diff(factors) > 0).all()
    assert (np.diff(scales) <= 0).all() and tuple(table[-1]) == (1, 1)


@pytest.mark.parametrize("reason", get_args(QualityReason))
@given(SCORES, SCORES)
def test_smaller_factor_never_means_a_smaller_scale(reason: QualityReason, one: float, other: float) -> None:
    worse, better = sorted((one, other))
    assert interval_scale({reason: worse}) >= interval_scale({reason: better}) >= 1


def test_each_reason_scales_the_interval_when_its_factor_is_zero() -> None:
    assert all(interval_scale({reason: 0.0}) > 1 for reason in get_args(QualityReason))


def test_largest_scale_applies_and_not_the_product() -> None:
    assert interval_scale({"dark": 0.1, "covered": 0.1, "small": 0.5}) == interval_scale({"dark": 0.1})


@given(YEARS, YEARS, SCORES, SCORES)
def test_interval_of_a_worse_face_contains_that_of_a_better_one(
    one: float, other: float, a: float, b: float
) -> None:
    answer = age(*(round(end, 1) for end in sorted((one, other))))
    worse, better = (scaled(answer, interval_scale({"small": score})).interval for score in sorted((a, b)))
    assert 0 <= worse[0] <= better[0] <= answer.interval[0]
    assert answer.interval[1] <= better[1] <= worse[1] <= 100


def test_larger_of_scale_and_added_years_extends_the_interval() -> None:
    assert scaled(age(20, 30), 1.2, 2).interval == (18, 32)
    assert scaled(age(20, 30), 1.6, 2).interval == (17, 33)
    assert scaled(age(1, 99), 1, 2).interval == (0, 100)


def test_interval_grows_about_its_own_middle() -> None:
    assert scaled(age(20, 30), 2).interval == (15, 35)
    assert scaled(age(2, 12), 2).interval == (0, 17)


@pytest.mark.parametrize("interval", [(20.0, 30.0), (0.0, 0.0), (0.0, 100.0), (99.9, 100.0)])
def test_face_of_full_quality_keeps_its_interval(interval: tuple[float, float]) -> None:
    assert scaled(age(*interval), interval_scale({"small": 1})).interval == interval
