"""Curves of a cost against one quantity, as points and as a plot."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

matplotlib.rcParams["svg.hashsalt"] = "age-gender"  # the same data give the same file


@dataclass(frozen=True)
class Curve:
    """A measured curve.

    name : name of the plot's file. points : (x, y) as measured.
    bend : explanation of the curve's shape, printed below the plot.
    """

    name: str
    title: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]
    bend: str

    def plot(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(*zip(*self.points, strict=True), marker="o", color="#1f6f8b")
        axes.set(title=self.title, xlabel=self.x, ylabel=self.y)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        figure.savefig(folder / f"{self.name}.svg", metadata={"Date": None})
