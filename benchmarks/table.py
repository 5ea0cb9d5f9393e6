"""Rows of the table of results: measured figure and goal."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_TURN, _REST = 0.25, 0.1  # seconds


@dataclass(frozen=True)
class Goal:
    """A bound on a figure; for ratios, more is better."""

    bound: float
    at_most: bool = False

    def met_by(self, figure: float) -> bool:
        return figure <= self.bound if self.at_most else figure >= self.bound


@dataclass(frozen=True)
class Row:
    """One result.

    figure : measured value; None if it cannot be measured, with the reason in `note`.
    goal : None for values without a goal.
    seconds : duration of both sides, each the median of its turns.
    note : remark on the comparison. if_missed : known reason for missing the goal.
    """

    what: str
    against: str
    figure: float | None
    goal: Goal | None = None
    unit: str = "×"
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""
    if_missed: str = ""

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "not measured"
        if self.goal is None:
            return ""
        return "reached" if self.goal.met_by(self.figure) else "missed"

    @property
    def remark(self) -> str:
        """Return the remark on the figure."""
        reason = self.if_missed if self.verdict == "missed" else ""
        return "; ".join(text for text in (self.note, reason) if text)

    def cells(self) -> tuple[str, ...]:
        goal = ""
        if self.goal is not None:
            goal = f"{'≤' if self.goal.at_most else '≥'} {self.goal.bound:.3g}{self.unit}"
        figure = "–" if self.figure is None else f"{_digits(self.figure)}{self.unit}"
        return (self.what, self.against, goal, figure, self.verdict, self.remark)


def compared(
    what: str,
    against: str,
    goal: float | None,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    note: str = "",
    if_missed: str = "",
) -> Row:
    """Measure how many times as fast ours is. The sides alternate, so that other load slows both.

    A turn starts after a rest of `_REST` seconds, in which the other side's threads stop spinning, and
    repeats its side for at least `_TURN` seconds; otherwise cold caches would dominate short runs.
    """
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    sides = {"ours": ours, "theirs": theirs}
    for side in sides.values():
        side()  # warm-up
    for _ in range(repeats):
        for name, side in sides.items():
            time.sleep(_REST)
            times[name].append(_seconds_in_a_turn(side))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return Row(
        what,
        against,
        seconds["theirs"] / seconds["ours"],
        None if goal is None else Goal(goal),
        seconds=seconds,
        note=note,
        if_missed=if_missed,
    )


def _seconds_in_a_turn(work: Callable[[], object]) -> float:
    """Return the mean seconds of one run."""
    started, runs = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < _TURN:
        work()
        runs += 1
    return spent / runs


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _digits(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
