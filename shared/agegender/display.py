"""How answers are written for people: one rounding rule for the command line, drawn labels and reports.

The pages write the same with `web/static/display.js`; a test compares the two.
"""

import math


def whole(value: float) -> int:
    """The nearest whole number; halves go up, as in JavaScript and unlike Python's `round`."""
    return math.floor(value + 0.5)


def decimals(value: float, digits: int) -> str:
    """With that many digits after the point; halves go up."""
    factor = 10**digits
    return f"{math.floor(value * factor + 0.5) / factor:.{digits}f}"


def years(mean: float) -> str:
    """An age: 31."""
    return str(whole(mean))


def interval(ends: tuple[float, float]) -> tuple[int, int]:
    """An age interval in whole years, rounded outwards so that it holds what the exact one holds."""
    return math.floor(ends[0]), math.ceil(ends[1])


def percent(share: float) -> str:
    """A share between 0 and 1: 84 %."""
    return f"{whole(100 * share)} %"


def certainty(share: float) -> str:
    """A head's probability of its own answer: at most 99 %, for no head is surer than that."""
    return f"{min(99, whole(100 * share))} %"


def score(value: float) -> str:
    """A score between 0 and 1: 0.92."""
    return decimals(value, 2)


def duration(seconds: float) -> str:
    """Seconds up to a minute and a half, then minutes, then hours: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{whole(seconds)} s"
    return f"{whole(seconds / 60)} min" if seconds < 5400 else f"{decimals(seconds / 3600, 1)} h"
