"""Files that a library writes for the system, cut short as a kill or a loss of power leaves them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trainer.experiments.fold import write_events
from trainer.jobs import train_fold
from trainer.runs.run import Step
from trainer.runs.scheduler import enqueue_steps, job_queue
from trainer.settings import TrainerSettings

from tests.support.redis_server import redis_server
from tests.unit.test_tensorboard import METRICS, read

SOON = TrainerSettings(heartbeat_seconds=1)  # a lock that the log brings back is held for 6 s, not for 30


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_redis_starts_with_what_is_whole_of_its_cut_log_and_the_rest_is_enqueued_again(
    tmp_path: Path, cut: int
) -> None:
    steps = [Step(f"job-{number}", train_fold, ("x", number), 60) for number in range(3)]
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        enqueue_steps(job_queue(server.client, SOON), "x", steps)
        server.process.kill()
        server.process.wait(10)
    (log,) = tmp_path.rglob("*.aof")
    log.write_bytes(log.read_bytes()[:-cut])
    with redis_server(tmp_path, "--appendonly", "yes") as server:
        queue = job_queue(server.client, SOON)
        enqueue_steps(queue, "x", steps)
        assert queue.get_job_ids() == ["job-0", "job-1", "job-2"]


def test_event_file_that_is_cut_short_is_read_up_to_there_and_written_again(tmp_path: Path) -> None:
    write_events(tmp_path, METRICS)
    (events,) = (tmp_path / "tensorboard").iterdir()
    whole = events.read_bytes()
    for length in range(0, len(whole), 37):
        events.write_bytes(whole[:length])
        read(tmp_path / "tensorboard")  # raises nothing
    write_events(tmp_path, METRICS)
    assert len(read(tmp_path / "tensorboard").Scalars("loss/train")) == 3


def test_drawing_continues_with_a_font_cache_that_is_cut_short(tmp_path: Path) -> None:
    program = (
        "from trainer.reports.contents import drawn; import matplotlib; print(matplotlib.get_cachedir());"
        "assert '<svg' in drawn(lambda axes: axes.set_xlabel('years'))"
    )
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
        (cache,) = tmp_path.glob("fontlist-*.json")
        cache.write_bytes(cache.read_bytes()[:1000])
