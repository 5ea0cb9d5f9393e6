"""A data set whose folder belongs to another user, as in `data/` before the containers get access."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.redis_server import redis_server

# Posts an import to a trainer in a process that has no more rights than the owner of a file.
PROGRAM = """
import sys
from pathlib import Path
import httpx
from tests.support.serving import serving
from trainer.app import create_trainer
from trainer.settings import TrainerSettings
settings = TrainerSettings(data_dir=Path(sys.argv[1]), redis_url=sys.argv[2], reconcile_seconds=60)
with serving(create_trainer(settings)) as url:
    answer = httpx.post(f"{url}/datasets/faces/import", timeout=60)
    sys.stderr.write(f"{answer.status_code} {answer.json()['type']} {answer.json()['detail']}\\n")
"""
OTHER = 1000
RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_extraction_into_a_folder_of_another_user_says_how_to_give_access(tmp_path: Path) -> None:
    faces = tmp_path / "data" / "faces"
    faces.mkdir(parents=True)
    sample = {"image_path": "17/1_1981.jpg", "age": 3, "gender": "f", "embedding": np.ones(512, "f4")}
    np.save(faces / "data.npy", np.array([sample], dtype=object), allow_pickle=True)
    os.chown(faces, OTHER, OTHER)
    with redis_server(tmp_path) as server:
        command = [*RIGHTS, sys.executable, "-c", PROGRAM, str(tmp_path / "data"), server.url]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answered = next(line for line in done.stderr.splitlines() if "urn:" in line)
    assert answered.startswith("503 urn:age-gender:problem:volume-not-writable ")
    assert str(faces) in answered and "docker compose run --rm data-init" in answered
