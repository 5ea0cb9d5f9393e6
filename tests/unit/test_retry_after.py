"""`Retry-After` is read in both of its forms."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from agegender.errors import retry_after_seconds


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("9" * 5000, 999_999_999),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("Fri, 31 Dec 1999 23:59:59 -0000", 0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
    ],
)
def test_seconds_and_past_dates_are_exact_and_the_rest_is_none(
    header: str | None, seconds: int | None
) -> None:
    assert retry_after_seconds(header) == seconds


def test_date_to_come_is_the_seconds_until_then() -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    assert retry_after_seconds(format_datetime(at, usegmt=True)) in range(3500, 3601)
