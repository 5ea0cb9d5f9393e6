"""Grafana's board and Prometheus's list of services: what they ask for is there."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import REGISTRY

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "monitoring" / "grafana" / "dashboards" / "age-gender.json"
SERVICES = {"insightface": 10001, "embedder-proxy": 10002, "predictor": 10003, "trainer": 10004}
# Whatever is named like one of our metrics, or like those that prometheus_client brings.
NAMED = re.compile(r"\b(?:http|proxy|embedder|predictor|trainer|process)_[a-z_]+\b")


def panels() -> list[dict[str, Any]]:
    return list(json.loads(BOARD.read_text())["panels"])


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


@pytest.fixture(scope="module")
def shown() -> set[str]:
    """Names of all series of the four services, with the suffixes that /metrics writes."""
    for module in ("agegender_service.app", "embedder.app", "embedder_proxy.app", "predictor.app"):
        importlib.import_module(module)
    trainer = importlib.import_module("trainer.runs.scheduler")
    families = [*REGISTRY.collect(), *trainer.QueueCollector(None, Path()).describe()]
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {family.name + suffix for family in families for suffix in suffixes.get(family.type, ("",))}


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_of_the_board_is_shown_by_a_service(expression: str, shown: set[str]) -> None:
    names = set(NAMED.findall(expression))
    assert names, "the expression reads no metric of ours"
    assert names <= shown


def test_every_panel_states_what_it_shows() -> None:
    assert [panel["title"] for panel in panels() if len(panel["description"].split()) < 4] == []


@pytest.mark.parametrize("expression", [text for text in expressions() if "http_request" in text])
def test_questions_after_health_are_no_traffic(expression: str) -> None:
    (left_out,) = re.findall(r'route!~"([^"]*)"', expression)
    routes = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics")
    assert [route for route in routes if not re.fullmatch(left_out, route)] == []
    assert not re.fullmatch(left_out, "/age-gender")


def test_panels_have_places_and_numbers_of_their_own() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] >= 0 and at["x"] + at["w"] <= 24
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_board_reads_the_data_source_that_is_provisioned() -> None:
    provisioned = ROOT / "monitoring" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    uids = {source["uid"] for source in yaml.safe_load(provisioned.read_text())["datasources"]}
    assert {panel["datasource"]["uid"] for panel in panels()} <= uids


def test_prometheus_asks_every_service_at_its_port() -> None:
    jobs = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    asked = {
        name: entry["port"] for job in jobs for entry in job["dns_sd_configs"] for name in entry["names"]
    }
    assert asked == SERVICES
