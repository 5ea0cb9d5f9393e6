"""One line of the table: goal and figure side by side."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """figure and goal are ratios of work done in the same time: more is better.

    seconds : of both sides, each the median of its runs. note : what to know of the comparison.
    """

    what: str
    against: str
    goal: float
    figure: float
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool:
        return self.figure >= self.goal


def compared(
    what: str,
    against: str,
    goal: float,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    note: str = "",
) -> Row:
    """Both sides by turns, so that what else the machine does slows both; medians."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    sides = {"ours": ours, "theirs": theirs}
    for side in sides.values():
        side()  # warm
    for _ in range(repeats):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return Row(what, against, goal, seconds["theirs"] / seconds["ours"], seconds, note)
