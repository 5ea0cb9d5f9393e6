"""Draw the plots of reports as SVG text."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.rcParams["svg.hashsalt"] = "age-gender"  # the same data give the same bytes


def report_plots(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return title and SVG of each plot."""
    plots = []
    for task, found in summary["out_of_fold"].items():
        names = list(AGE_GROUP_NAMES if task == "age" else GENDER_NAMES)
        plots.append((f"Calibration: {task}", drawn(partial(_calibration, found=found))))
        confused = partial(_confusion, counts=found["confusion"], names=names)
        plots.append((f"Confusion: {task}", drawn(confused)))
    return plots


def drawn(draw: Callable[[Axes], None]) -> str:
    """Return one plot as SVG text."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    draw(figure.subplots())
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def _calibration(axes: Axes, found: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    for name, label in (("reliability_before", "before"), ("reliability", "after")):
        points = found[name]
        axes.plot(
            [point["confidence"] for point in points],
            [point["accuracy"] for point in points],
            marker="o",
            label=label,
        )
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend()


def _confusion(axes: Axes, counts: list[list[int]], names: list[str]) -> None:
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)
