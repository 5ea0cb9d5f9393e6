"""The `Retry-After` header, in both forms of RFC 9110, 10.2.3: seconds, or a date."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_seconds(header: str | None) -> int | None:
    """The seconds from now, 0 for a date that is past; None for what is neither number nor date."""
    if not header:
        return None
    if header.isascii() and header.isdigit():
        return int(header[:9])
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    if at.tzinfo is None:  # a date that does not say its zone is in UTC
        at = at.replace(tzinfo=UTC)
    return max(0, math.ceil((at - datetime.now(UTC)).total_seconds()))
