"""Services and workers start without what jobs alone need: seconds and 414 MB."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "sklearn", "scipy", "matplotlib", "onnxruntime", "tensorboard", "insightface"}
JOBS = """
from trainer.jobs import preload
preload()
print(*sys.modules)
from pathlib import Path
from trainer.datasets.embedding_set import write_embedding_set
from tests.support.made_experiment import made_experiment
from tests.support.made_faces import made_faces
from trainer.experiments.fold import run_fold
from trainer.runs.attempt import Attempt
from trainer.experiments.experiment import fold_dir, save_experiment
from trainer.reports.report import summarise, write_reports
from trainer.training.config import TrainingOptions
from trainer.training.bank import prepare_device
data, faces = Path(sys.argv[1]), made_faces(200)
write_embedding_set(data, "made", "images", faces, {})
options = TrainingOptions.model_validate({"optimizer": {"epochs": 1}, "seeds": 1})
experiment = made_experiment([0, 1], options)
save_experiment(data, experiment)
for fold in experiment.folds:
    attempt = Attempt(fold_dir(data, experiment.id, fold))
    run_fold(data, experiment, faces, fold, attempt, prepare_device("cpu", False, 1))
write_reports(data, experiment, summarise(data, experiment))
"""


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("trainer.app", set()),
        ("trainer.worker", set()),
        ("predictor.app", set()),
        ("embedder_proxy.app", set()),
        ("embedder.app", {"onnxruntime"}),  # insightface for its own packs alone
    ],
)
def test_service_starts_without_heavy_libraries(module: str, needed: set[str]) -> None:
    (modules,) = modules_in(f"import {module}")
    assert HEAVY & modules == needed


def test_services_import_without_rich_and_leave_it_to_what_follows() -> None:
    program = """
import gc
from agegender_service import quick_imports
with quick_imports():
    import agegender_service.app
    assert not gc.isenabled()
print(*sys.modules)
assert gc.isenabled() and gc.get_freeze_count()
import rich
"""
    inside, after = modules_in(program)
    assert {"httpx", "structlog"} <= inside
    assert "rich" not in inside and "rich" in after


def test_jobs_find_everything_heavy_imported_by_their_worker(tmp_path: Path) -> None:
    before, after = modules_in(JOBS, str(tmp_path))
    assert {"torch", "sklearn"} <= before
    late = after - before
    heavy = sorted(name for name in late if name.partition(".")[0] in HEAVY)
    assert len(heavy) < 20, heavy  # a few are imported by the first computation or drawing alone


def modules_in(program: str, *arguments: str) -> list[set[str]]:
    """Names of all that a new interpreter has imported whenever the program prints them, and after it."""
    program = f"import sys\n{program}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return [set(line.split()) for line in done.stdout.splitlines()]
