"""The capacity table of docs/deployment.md follows from the figures of `make bench` and its assumptions."""

import json
import math
import re

from tools.stack import ROOT

CORES = 2  # of the machine of benchmarks/README.md
LOAD = 0.7  # share of the cores' capacity that is planned for
CONTAINER_CORES = 2  # of an embedding container
PAGE = (ROOT / "docs" / "deployment.md").read_text()


def answers_per_core() -> float:
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert f" {CORES} CPUs" in results["machine"]
    (clients,) = [curve for curve in results["curves"] if curve["name"] == "clients"]
    return float(max(answers for _, answers in clients["points"])) / CORES


def test_table_is_computed_from_the_benchmarks() -> None:
    per_core = answers_per_core()
    assert f"{per_core:.1f} faces per second per core" in PAGE
    megabytes = 50 * 1000 / 1e6  # of Redis per cached face: tests/stack/test_redis_memory.py
    rows = re.findall(r"^\| ([\d,]+) faces/s \| (\d+) \| (\d+) \| ([\d.]+) GB \|", PAGE, re.M)
    assert [row[0] for row in rows] == ["10", "100", "1,000"]
    for rate_text, cores, containers, cache in rows:
        rate = int(rate_text.replace(",", ""))
        needed = math.ceil(rate / (per_core * LOAD))
        assert int(cores) == needed
        assert int(containers) == math.ceil(needed / CONTAINER_CORES)
        assert float(cache) == round(rate * 3600 * megabytes / 1000, 1)
