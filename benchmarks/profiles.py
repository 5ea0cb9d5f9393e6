"""Draw flame graphs of the services at work, of this checkout and of the earlier commit.

`python -m benchmarks.profiles` needs py-spy (`pip install py-spy`) and the right to trace processes. A client
repeats two images, a small crop and six faces.
"""

import argparse
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.baseline import COMMIT, FOLDER, System, running, set_up
from benchmarks.photographs import one_face
from tools.stack import PHOTOGRAPH, ROOT

_MODULES = {"embedder": "embedder", "embedder-proxy": "embedder_proxy", "predictor": "predictor"}
_PY_SPY = Path(sys.executable).with_name("py-spy")
_SECONDS = 12
_SAMPLES = 100  # per second


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
    command = [str(_PY_SPY), "record", "--format", "flamegraph", "--function", "--output", str(path)]
    command += ["--duration", str(_SECONDS), "--rate", str(_SAMPLES)]
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        client = threads.submit(_ask, f"{system.urls['predictor']}/age-gender", stop)
        try:
            subprocess.run([*command, "--pid", str(system.pid_of(_MODULES[service]))], check=True)
        finally:
            stop.set()
        client.result()
    drawn, titles = re.subn(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>{title}", path.read_text())
    assert titles == 1, path
    path.write_text(drawn)


def _ask(url: str, stop: threading.Event) -> None:
    images = [one_face(), PHOTOGRAPH.read_bytes()]
    with httpx.Client(timeout=60, trust_env=False) as http:
        while not stop.is_set():
            for image in images:
                http.post(url, content=image).raise_for_status()


if __name__ == "__main__":
    main()
