"""The media type of a report follows `Accept` with its weights, or the option `format`."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from trainer.app import create_trainer
from trainer.experiments.experiment import experiment_dir, save_experiment
from trainer.settings import TrainerSettings
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.serving import serving

CONTENTS = {"json": "{}", "md": "# Report", "html": "<h1>Report</h1>"}
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.URL]:
    data_dir: Path = tmp_path_factory.mktemp("data")
    experiment = made_experiment([0, 1], TrainingOptions())
    save_experiment(data_dir, experiment)
    for suffix, content in CONTENTS.items():
        (experiment_dir(data_dir, experiment.id) / f"report.{suffix}").write_text(content)
    settings = TrainerSettings(data_dir=data_dir, redis_url="redis://127.0.0.1:9/0")
    with serving(create_trainer(settings)) as url:
        yield httpx.URL(f"{url}/experiments/{experiment.id}/report")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "json"),
        (BROWSER, "html"),
        ("text/markdown", "md"),
        ("text/html;q=0.2, text/markdown;q=0.7", "md"),
        ("text/html;q=0, */*", "json"),
        ("image/png", "json"),
    ],
)
def test_report_has_the_preferred_media_type(report: httpx.URL, accept: str, expected: str) -> None:
    response = httpx.get(report, headers={"Accept": accept})
    assert response.status_code == 200 and response.text == CONTENTS[expected]
    assert "sandbox" in response.headers["content-security-policy"]
    selected = httpx.get(report, params={"format": "md"}, headers={"Accept": accept})
    assert selected.headers["content-type"].startswith("text/markdown")
