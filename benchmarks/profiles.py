"""Draw flame graphs of the services at work, of this checkout and of the earlier commit.

`python -m benchmarks.profiles` needs py-spy (`pip install py-spy`) and the right to trace processes. A client
repeats two images, a small crop and six faces.
"""

import argparse
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import httpx
import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.baseline import COMMIT, FOLDER, System, running, set_up
from benchmarks.photographs import one_face
from tools.stack import PHOTOGRAPH, ROOT

_MODULES = {"embedder": "embedder", "embedder-proxy": "embedder_proxy", "predictor": "predictor"}
_PY_SPY = Path(sys.executable).with_name("py-spy")
_SECONDS = 12
_SAMPLES = 100  # per second
_WIDTH, _HEIGHT = 11.0, 0.13  # inches, of the drawing and of a frame
_LETTERS, _FEWEST_LETTERS = 200, 4  # that fit the drawing's width; a frame with room for fewer has no name
_NARROWEST = 0.002  # share of one thread's samples that a frame needs to be drawn


@dataclass
class Frame:
    """A function in a stack, and what it called there.

    samples : in which it was on the stack.
    """

    samples: int = 0
    called: "defaultdict[str, Frame]" = field(default_factory=lambda: defaultdict(Frame))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles", description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "results", metavar="FOLDER")
    target: Path = parser.parse_args().to
    if not _PY_SPY.exists():
        sys.exit("error: py-spy is not installed; run `pip install py-spy` in this environment")
    if problem := set_up():
        sys.exit(f"error: {problem}")
    for name, folder in ((f"before ({COMMIT[:7]})", FOLDER), ("after", ROOT)):
        with running(folder, "UNCACHED") as system:
            for service in _MODULES:
                path = target / f"flame-{service}-{name.partition(' ')[0]}.svg"
                _record(system, service, path, f"{service}, {name}")
                print(path)


def _record(system: System, service: str, path: Path, title: str) -> None:
    stop = threading.Event()
    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as threads:
        stacks = Path(folder) / "stacks"
        command = [str(_PY_SPY), "record", "--format", "raw", "--function", "--output", str(stacks)]
        command += ["--duration", str(_SECONDS), "--rate", str(_SAMPLES)]
        client = threads.submit(_ask, f"{system.urls['predictor']}/age-gender", stop)
        try:
            subprocess.run([*command, "--pid", str(system.pid_of(_MODULES[service]))], check=True)
        finally:
            stop.set()
        client.result()
        _draw(read_stacks(stacks.read_text()), path, title)


def read_stacks(text: str) -> Frame:
    """Return the root of the frames in lines ``outermost;…;innermost SAMPLES``."""
    root = Frame()
    for line in text.splitlines():
        names, _, samples = line.rpartition(" ")
        frame = root
        frame.samples += int(samples)
        for name in names.split(";"):
            frame = frame.called[name]
            frame.samples += int(samples)
    return root


def _draw(root: Frame, path: Path, title: str) -> None:
    frames = list(_placed(root, 0.0, 0))
    depth = 1 + max(level for level, *_ in frames)
    figure = Figure(figsize=(_WIDTH, 0.6 + _HEIGHT * depth))
    axes = figure.add_axes((0.005, 0.005, 0.99, 0.99 - 0.4 / figure.get_figheight()), frameon=False)
    axes.set(xlim=(0, root.samples), ylim=(0, depth), xticks=[], yticks=[])
    figure.suptitle(f"{title}: {root.samples} samples", fontsize=9)
    for level, left, name, frame in frames:
        shade = matplotlib.colormaps["YlOrRd"](0.15 + 0.4 * (crc32(name.encode()) % 16) / 16)
        axes.add_patch(Rectangle((left, level), frame.samples, 0.92, facecolor=shade))
        letters = int(frame.samples / root.samples * _LETTERS)
        if letters >= _FEWEST_LETTERS:
            shown = name if len(name) <= letters else f"{name[: letters - 1]}…"
            axes.text(left, level + 0.2, f" {shown}", fontsize=6)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flame"}):
        figure.savefig(path, metadata={"Date": None})


def _placed(frame: Frame, left: float, level: int) -> Iterator[tuple[int, float, str, Frame]]:
    """Yield level, left edge, name and frame of all that it called, but for the narrowest."""
    for name, called in sorted(frame.called.items()):
        if called.samples / _SECONDS / _SAMPLES >= _NARROWEST:
            yield level, left, name, called
            yield from _placed(called, left, level + 1)
        left += called.samples


def _ask(url: str, stop: threading.Event) -> None:
    images = [one_face(), PHOTOGRAPH.read_bytes()]
    with httpx.Client(timeout=60, trust_env=False) as http:
        while not stop.is_set():
            for image in images:
                http.post(url, content=image).raise_for_status()


if __name__ == "__main__":
    main()
