"""The board's expressions, asked of a real Prometheus (Debian's) that watches the system."""

import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.serving import free_port, until
from tests.support.system import SIX_ADULTS
from tools.stack import ROOT, Stack

CONFIG = ROOT / "monitoring" / "prometheus.yml"
BOARD = ROOT / "monitoring" / "grafana" / "dashboards" / "age-gender.json"
PROGRAMS = {"insightface": "embedder"}  # where `make up` names a service otherwise than Compose
WINDOW = "15s"  # what Grafana would put in for $__rate_interval

Series = list[dict[str, Any]]

pytestmark = [
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="no prometheus: apt-get install --no-install-recommends prometheus",
    ),
]


@contextmanager
def prometheus(directory: Path, stack: Stack) -> Iterator[httpx.Client]:
    """Watches the stack under the names of `CONFIG`, every second."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"]["scrape_interval"] = "1s"
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        port = stack.ports[PROGRAMS.get(job["job_name"], job["job_name"])]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    options = (f"--config.file={file}", f"--storage.tsdb.path={directory}/data")
    command = ["prometheus", *options, f"--web.listen-address={address}", "--log.level=warn"]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=10) as client:
            until(lambda: is_ready(client), "Prometheus is ready", 30, every=0.1)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False


def series(client: httpx.Client, expression: str) -> Series:
    """Return the current values of the expression, without NaN, which is the mean of nothing."""
    query = expression.replace("$__rate_interval", WINDOW)
    answer = client.get("/api/v1/query", params={"query": query})
    if not answer.is_success:
        pytest.fail(f"{expression}: {answer.text}")
    return [found for found in answer.json()["data"]["result"] if math.isfinite(float(found["value"][1]))]


@pytest.fixture
def stack(human_system: Stack) -> Stack:
    return human_system


def test_every_expression_of_the_board_gives_a_series(stack: Stack, tmp_path: Path) -> None:
    panels = json.loads(BOARD.read_text())["panels"]
    missing = {target["expr"] for panel in panels for target in panel["targets"]}
    first = panels[0]["targets"][0]["expr"]
    photograph, numbers = SIX_ADULTS.read_bytes(), count()

    def nothing_is_missing() -> bool:
        httpx.get(f"{stack.url('trainer')}/v2/health/live").raise_for_status()
        unknown = photograph + str(next(numbers)).encode()  # to the cache; no decoder reads behind the end
        for content in (photograph, unknown):
            httpx.post(f"{stack.url('predictor')}/age-gender", content=content, timeout=60).raise_for_status()
        missing.difference_update({expression for expression in missing if series(client, expression)})
        return not missing

    with prometheus(tmp_path, stack) as client:
        try:
            until(nothing_is_missing, "every expression gives a series", 60, every=0.5)
        except AssertionError:
            pytest.fail(f"no series: {sorted(missing)}")
        stages = {found["metric"].get("stage") for found in series(client, panels[3]["targets"][1]["expr"])}
        assert stages == {"decode", "detect", "embed"}
        asked = {found["metric"]["job"] for found in series(client, first) if float(found["value"][1]) > 0}
        assert asked == {"insightface", "embedder-proxy", "predictor"}  # of the trainer, health alone


def test_list_of_services_is_one_that_prometheus_takes() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(CONFIG)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
