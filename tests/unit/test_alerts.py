"""The alerting rules, checked by Prometheus's own `promtool`."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tools.stack import ROOT

RULES = ROOT / "monitoring" / "alerts.yml"
CASES = Path(__file__).parent / "alerts" / "alerts_test.yml"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool: apt-get install --no-install-recommends prometheus",
)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, timeout=60)


@needs_promtool
def test_alerts_fire_and_stay_silent_as_their_cases_say() -> None:
    done = promtool("test", "rules", CASES.name, folder=CASES.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_rule_that_never_fires_fails_the_cases(tmp_path: Path) -> None:
    """Guards the test above: promtool must really read our rules."""
    (tmp_path / "alerts.yml").write_text(RULES.read_text().replace("up == 0", "up == 7"))
    cases = CASES.read_text().replace("../../../monitoring/alerts.yml", "alerts.yml")
    (tmp_path / "alerts_test.yml").write_text(cases)
    done = promtool("test", "rules", "alerts_test.yml", folder=tmp_path)
    assert done.returncode != 0
    assert "ServiceDown" in done.stdout + done.stderr


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    fired = {
        check["alertname"]
        for case in cases
        for check in case.get("alert_rule_test", [])
        if check.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_uses_metrics_of_the_services_and_states_what_to_do(rule: dict[str, Any]) -> None:
    sources = "".join(
        path.read_text() for folder in ("services", "shared") for path in (ROOT / folder).rglob("*.py")
    )
    names = set(re.findall(r"\b(?:proxy|predictor|trainer|http)_[a-z_]+", rule["expr"]))
    assert all(f'"{name}"' in sources for name in names)
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "action"}


def test_prometheus_loads_the_alerts() -> None:
    config = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yml"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    mounted = [volume.split(":")[0] for volume in compose["services"]["prometheus"]["volumes"]]
    assert "./monitoring/alerts.yml" in mounted
