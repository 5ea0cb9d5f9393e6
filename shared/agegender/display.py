"""Format numbers for people, with one rounding rule for the command line, drawn labels and reports.

The pages use `agegender_service/static/display.js`; a test compares the two.
"""

import math
from typing import Literal

ReportFormat = Literal["json", "md", "html"]  # of an experiment or a search, the default first
TableFormat = Literal["json", "csv", "parquet"]  # of predictions, the default first


def whole(value: float) -> int:
    """Round to the nearest whole number; halves round up, as in JavaScript and unlike Python's `round`."""
    return math.floor(value + 0.5)


def decimals(value: float, digits: int) -> str:
    """Format with this many decimals; halves round up."""
    factor = 10**digits
    return f"{math.floor(value * factor + 0.5) / factor:.{digits}f}"


def years(mean: float) -> str:
    """Format an age: 31."""
    return str(whole(mean))


def interval(ends: tuple[float, float]) -> tuple[int, int]:
    """Round an age interval outwards to whole years, so that it contains the exact one."""
    return math.floor(ends[0]), math.ceil(ends[1])


def percent(share: float) -> str:
    """Format a share between 0 and 1: 84 %."""
    return f"{whole(100 * share)} %"


def certainty(share: float) -> str:
    """Format the probability of a head's answer, at most 99 %, because no head is more certain."""
    return f"{min(99, whole(100 * share))} %"


def score(value: float) -> str:
    """Format a score between 0 and 1: 0.92."""
    return decimals(value, 2)


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes (from 90 s) or hours (from 90 min): 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{whole(seconds)} s"
    return f"{whole(seconds / 60)} min" if seconds < 5400 else f"{decimals(seconds / 3600, 1)} h"
