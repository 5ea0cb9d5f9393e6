"""Extract a data set through the queue, compared with the embedding container alone on the same images.

`python -m benchmarks.extraction 100000` measures only the worker's memory, with this number of images.
"""

import csv
import io
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.packs import human
from benchmarks.report import line
from benchmarks.serving import PATIENT, running
from benchmarks.table import Goal, Row, seconds_of
from tools.stack import PHOTOGRAPH, Stack

FEW, MANY, SCALED = 200, 1_000, 10_000  # images
SMALL, LARGE = 1_000, 10_000  # images whose faces are in the cache
_TOGETHER, _CLIENTS = 8, 2  # images per request, and concurrent requests, as in an extraction


def rows() -> list[Row]:
    with running(**PATIENT) as stack:
        contents = _crops(FEW + MANY)
        few, many = contents[:FEW], contents[FEW:]
        alone = seconds_of(lambda: _embed(stack, many)) / MANY * SCALED
        of_few = seconds_of(lambda: _extract(stack, "few", few))
        of_many = seconds_of(lambda: _extract(stack, "many", many))
        an_image = (of_many - of_few) / (MANY - FEW)
        through = of_many + an_image * (SCALED - MANY)
        speed = Row(
            f"extraction of {SCALED:,} images",
            "the embedding container alone on the same images",
            alone / through,
            Goal(0.9),
            seconds={"ours": through, "theirs": alone, "ours, few": of_few, "ours, many": of_many},
            note=f"extrapolated from runs of {FEW} and {MANY:,} images ({of_few:.0f} and {of_many:.0f} s), "
            f"which include starting the jobs and merging; {SCALED:,} would take {through / 60:.0f} minutes",
            if_missed="the trainer's processes decode JSON and write files on the cores that run the models",
        )
        return [speed, _memory(stack, contents, LARGE)]


def _memory(stack: Stack, contents: list[bytes], large: int) -> Row:
    """Measure the worker's memory. The faces are in the proxy's cache, so only the trainer is busy."""
    peaks = {}
    for count in (SMALL, large):
        with _peak(stack) as peaks[count]:
            _extract(stack, f"of-{count}", [contents[number % len(contents)] for number in range(count)])
    few, many = peaks[SMALL], peaks[large]
    return Row(
        f"memory of the worker, {large:,} images",
        f"{SMALL:,} images",
        many.own / few.own,
        Goal(1.1, at_most=True),
        note=f"peaks of {few.own:.0f} and {many.own:.0f} MB including jobs, without the pages of mapped "
        f"files, which the kernel can reclaim ({few.resident:.0f} and {many.resident:.0f} MB with them, "
        "because the embeddings are merged in such a file); the faces come from the proxy's cache",
        if_missed="the merged data set's file names and labels grow with the faces",
    )


def _crops(count: int) -> list[bytes]:
    """Return JPEG files of 200 pixels, each a slightly shifted crop of a face of the photograph."""
    with Image.open(PHOTOGRAPH) as file:
        photograph = file.convert("RGB")
    boxes = [face.bbox for face in human().faces([np.asarray(photograph)])[0]]
    draws = np.random.default_rng(0)
    found = []
    for number in range(count):
        left, top, right, bottom = boxes[number % len(boxes)]
        side = max(right - left, bottom - top) * draws.uniform(0.7, 0.9)
        x, y = (left + right) / 2 + draws.uniform(-5, 5), (top + bottom) / 2 + draws.uniform(-5, 5)
        crop = photograph.crop((round(x - side), round(y - side), round(x + side), round(y + side)))
        content = io.BytesIO()
        crop.resize((200, 200)).save(content, "JPEG", quality=90)
        found.append(content.getvalue())
    return found


def _embed(stack: Stack, contents: list[bytes]) -> None:
    with httpx.Client(base_url=stack.url("embedder"), timeout=120, trust_env=False) as http:

        def post(start: int) -> None:
            files = [("image", content) for content in contents[start : start + _TOGETHER]]
            http.post("/faces", files=files).raise_for_status()

        with ThreadPoolExecutor(_CLIENTS) as clients:
            list(clients.map(post, range(0, len(contents), _TOGETHER)))


def _extract(stack: Stack, name: str, contents: list[bytes]) -> None:
    folder = stack.data_dir / name
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "age", "gender", "subject"])
        for number, content in enumerate(contents):
            (folder / f"{number}.jpg").write_bytes(content)
            gender = "female" if number % 2 else "male"
            writer.writerow(
                [f"{number}.jpg", 20 + number % 50, gender, number]
            )  # known, so none are searched
    with httpx.Client(base_url=stack.url("trainer"), timeout=30, trust_env=False) as http:
        http.post(f"/datasets/{name}/extract").raise_for_status()
        while True:
            (status,) = http.get(f"/datasets/{name}").raise_for_status().json()["extractions"]
            if status["state"] not in ("planning", "extracting", "merging"):
                break
            time.sleep(0.1)
    if status["state"] != "finished":
        raise RuntimeError(f"extraction {status['state']}: {status.get('problem')}")


@dataclass
class _Memory:
    """Memory of some processes in MB. own : resident memory that is not backed by a file."""

    resident: float = 0.0
    own: float = 0.0


@contextmanager
def _peak(stack: Stack) -> Iterator[_Memory]:
    """Measure the peak memory of the worker and its jobs within the block."""
    worker = psutil.Process(stack.pids()["trainer-worker-1"])
    ended, peak = threading.Event(), _Memory()

    def watch() -> None:
        while not ended.wait(0.05):
            now = [_memory_of(process) for process in (worker, *worker.children(recursive=True))]
            peak.resident = max(peak.resident, sum(process.resident for process in now))
            peak.own = max(peak.own, sum(process.own for process in now))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        ended.set()
        watching.join()


def _memory_of(process: psutil.Process) -> _Memory:
    """Return the proportional memory of a process: pages that a job shares with its worker count once."""
    try:
        report = Path("/proc", str(process.pid), "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return _Memory()
    size = {name: int(number) * 1024 / 1e6 for name, number in re.findall(r"(\w+): +(\d+) kB", report)}
    return _Memory(size["Pss"], size["Pss_Anon"])


def main() -> None:
    with running(**PATIENT) as stack:
        contents = _crops(FEW)
        _extract(stack, "known", contents)
        print(line(_memory(stack, contents, int(sys.argv[1]))))


if __name__ == "__main__":
    main()
