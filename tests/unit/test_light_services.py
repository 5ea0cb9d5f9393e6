"""Services, and the worker that waits for jobs, start without what jobs alone need: seconds, and 250 MB."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "sklearn", "scipy", "matplotlib", "onnxruntime", "tensorboard"}


@pytest.mark.parametrize("module", ["trainer.app", "trainer.worker", "predictor.app", "embedder_proxy.app"])
def test_service_starts_without_heavy_libraries(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
