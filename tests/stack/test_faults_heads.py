"""A head that another process writes in place, byte by byte, while the predictor serves."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from agegender.heads.head import Task, set_current
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.fault_record import record
from tests.support.made_heads import made_head, promoted_heads
from tests.support.serving import serving, until

# Copies a file to its place in eight parts, and waits for a line before each.
WRITER = """
import sys
source, target = sys.argv[1:]
content = open(source, "rb").read()
with open(target, "wb", buffering=0) as file:
    for part in range(8):
        sys.stdin.readline()
        file.write(content[len(content) * part // 8 : len(content) * (part + 1) // 8])
        print(part, flush=True)
"""


@contextmanager
def writer(source: Path, target: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", WRITER, str(source), str(target)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def write_parts(process: "subprocess.Popen[str]", parts: int) -> Iterator[int]:
    assert process.stdin is not None and process.stdout is not None
    for _ in range(parts):
        process.stdin.write("\n")
        process.stdin.flush()
        yield int(process.stdout.readline())


def test_head_half_written_by_another_process_is_never_served(tmp_path: Path) -> None:
    promoted_heads(tmp_path / "models", SPACE)
    whole = made_head(tmp_path / "elsewhere", Task.AGE, SPACE, "v2", seed=2)
    target = made_head(tmp_path / "models", Task.AGE, SPACE, "v2", seed=2)
    weights = target / "head.safetensors"
    weights.unlink()
    answers: list[tuple[int, str]] = []
    with EmbedderDouble().served() as proxy:
        settings = PredictorSettings(
            data_dir=tmp_path, heads_dir=tmp_path / "none", proxy_url=proxy.url, poll_interval=0.02
        )
        with serving(create_predictor(settings)) as url, httpx.Client(base_url=url, timeout=20) as client:

            def ask() -> str:
                answer = client.post("/age-gender", content=b"picture")
                answers.append((answer.status_code, answer.json()["models"]["age"]))
                return answers[-1][1]

            assert ask() == "v1"
            with writer(whole / "head.safetensors", weights) as killed:
                set_current(target.parent, "v2")
                for _ in write_parts(killed, 4):
                    for _ in range(5):
                        assert ask() == "v1"
            until(lambda: "warnings" in client.get("/health/ready").json(), "it is reported")
            assert "v2" in client.get("/health/ready").json()["warnings"][0]
            with writer(whole / "head.safetensors", weights) as other:
                for part in write_parts(other, 8):
                    assert part == 7 or ask() == "v1"
            until(lambda: ask() == "v2", "the whole head is served")
            assert "warnings" not in client.get("/health/ready").json()
    record("head half written", answers=len(answers))
    assert {status for status, _ in answers} == {200}
