"""Steps of an experiment that are enqueued, and their order, for given files."""

from pathlib import Path

from agegender.files import write_json
from trainer.experiments.experiment import METRICS, fold_dir
from trainer.jobs import EXPERIMENTS
from trainer.runs.scheduler import job_queue, schedule
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.redis_server import redis_server

EXPERIMENT = made_experiment([0, 1], TrainingOptions(), name="one", refit=True)


def end_fold(data_dir: Path, fold: int) -> None:
    directory = fold_dir(data_dir, EXPERIMENT.id, fold)
    directory.mkdir(parents=True)
    write_json(directory / METRICS, {})


def test_report_is_written_before_the_refits_that_wait(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        queue = job_queue(server.client)
        schedule(EXPERIMENTS, tmp_path, queue, EXPERIMENT)
        assert queue.get_job_ids() == ["one-fold-0", "one-fold-1"]
        server.client.flushdb()
        end_fold(tmp_path, 0)
        schedule(EXPERIMENTS, tmp_path, queue, EXPERIMENT)
        assert queue.get_job_ids() == ["one-fold-1", "one-refit-0"]
        queue.remove("one-fold-1")
        end_fold(tmp_path, 1)
        schedule(EXPERIMENTS, tmp_path, queue, EXPERIMENT)
        assert queue.get_job_ids() == ["one-report", "one-refit-0", "one-refit-1"]
