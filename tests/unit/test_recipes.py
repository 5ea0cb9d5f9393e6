"""The recipes in docs/ are requests that the trainer takes, and those that the shipped heads were made by."""

import json
from pathlib import Path

import pytest
from agegender.heads.head import Task, load_head, read_current
from trainer.experiments.experiment import ExperimentRequest

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.json"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("task", Task)
def test_shipped_head_was_made_by_its_recipe(path: Path, task: Task) -> None:
    request = ExperimentRequest.model_validate(json.loads(path.read_text()))
    directory = ROOT / "services" / "predictor" / "heads" / task.value / path.stem
    current = read_current(directory)
    assert current is not None
    card = load_head(directory / current.version).manifest.card
    assert card["options"] == request.training_options().model_dump(mode="json")
    assert card["data"]["sets"] == request.datasets
