"""One line of the table: goal and figure side by side."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_TURN, _REST = 0.25, 0.1  # seconds


@dataclass(frozen=True)
class Goal:
    """A bound on a figure; of ratios, more is better."""

    bound: float
    at_most: bool = False

    def met_by(self, figure: float) -> bool:
        return figure <= self.bound if self.at_most else figure >= self.bound


@dataclass(frozen=True)
class Row:
    """
    figure : None where it cannot be measured here; then `note` says why.
    goal : None for figures that are told for their own sake.
    seconds : of both sides, each the median of its turns. note : what to know of the comparison.
    if_missed : the reason, where it is known why the goal may be missed.
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
        """What stands beside the figure."""
        reason = self.if_missed if self.verdict == "missed" else ""
        return "; ".join(part for part in (self.note, reason) if part)

    def cells(self) -> tuple[str, ...]:
        goal = ""
        if self.goal is not None:
            goal = f"{'≤' if self.goal.at_most else '≥'} {self.goal.bound:g}{self.unit}"
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
    """How many times as fast ours is; both sides by turns, so that what else the machine does slows both.

    A turn follows a rest of `_REST` seconds, in which the other side's threads end their spinning for more
    work, and repeats its side for at least `_TURN`: emptied caches would else be most of a short run's time.
    """
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    sides = {"ours": ours, "theirs": theirs}
    for side in sides.values():
        side()  # warm
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
    """Mean seconds of one run."""
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
