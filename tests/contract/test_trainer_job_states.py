"""The state of a run depends on its files only, and never on what RQ reports of its jobs."""

import signal
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agegender.files import write_json
from rq import SimpleWorker
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from trainer import jobs
from trainer.experiments.experiment import METRICS, fold_dir
from trainer.jobs import EXPERIMENTS, KINDS
from trainer.runs.scheduler import delete_job, fetch_job, job_queue, schedule
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.redis_server import redis_server

ENTRY_POINTS = [job for kind in KINDS for job in vars(kind).values()]


@contextmanager
def own_signals() -> Iterator[None]:
    """A worker takes SIGINT and SIGTERM, and does not give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("job", ENTRY_POINTS, ids=lambda job: job.__name__)
def test_job_takes_names_and_returns_nothing(job: Callable[..., None]) -> None:
    """RQ 3.0 ends a job whose value JSON cannot hold as finished, with a text in place of the value."""
    hints = typing.get_type_hints(job)
    assert hints.pop("return") is type(None)
    assert set(hints.values()) <= {str, int}


def test_queue_finds_each_job_by_the_name_that_it_stores() -> None:
    assert len(ENTRY_POINTS) == 15
    for job in ENTRY_POINTS:
        assert (job.__module__, getattr(jobs, job.__qualname__)) == ("trainer.jobs", job)


def test_waiting_jobs_of_release_0_1_0_are_replaced_and_others_fail_without_harm(tmp_path: Path) -> None:
    experiment = made_experiment([0, 1], TrainingOptions(), name="one")
    with redis_server(tmp_path) as server:
        queue = job_queue(server.client)
        for name in ("one-fold-0", "gone-fold-0"):
            queue.enqueue_call("trainer.jobs.train.train_fold", args=("one", 0), job_id=name)
        schedule(EXPERIMENTS, tmp_path, queue, experiment)
        assert set(queue.get_job_ids()) == {"one-fold-0", "one-fold-1", "gone-fold-0"}
        job = Job.fetch("one-fold-0", connection=server.client, serializer=JSONSerializer)
        assert job.func_name == "trainer.jobs.train_fold"
        for waiting in ("one-fold-0", "one-fold-1"):
            queue.remove(waiting)
        with own_signals():
            SimpleWorker([queue], connection=server.client, serializer=JSONSerializer).work(burst=True)
        job = Job.fetch("gone-fold-0", connection=server.client, serializer=JSONSerializer)
        assert job.get_status() == JobStatus.FAILED


def test_job_that_vanishes_while_it_is_deleted_is_deleted(tmp_path: Path) -> None:
    """Its worker ends it between the look at it and its deletion; RQ then raises for want of a status."""
    with redis_server(tmp_path) as server:
        queue = job_queue(server.client)
        for number in range(2):
            queue.enqueue_call("trainer.jobs.train_fold", args=("one", number), job_id=f"one-fold-{number}")
        job = fetch_job(queue, "one-fold-0")
        assert job is not None
        server.client.delete(job.key)
        delete_job(queue, job)
        assert fetch_job(queue, "one-fold-0") is None and fetch_job(queue, "one-fold-1") is not None


def test_fold_that_rq_calls_finished_but_left_no_file_is_enqueued_again(tmp_path: Path) -> None:
    experiment = made_experiment([0], TrainingOptions(), name="one")
    with redis_server(tmp_path) as server:
        queue = job_queue(server.client)
        queue.enqueue_call(
            "tests.support.misbehaving_jobs.returns_a_set",
            args=("one", 0),
            job_id="one-fold-0",
            result_ttl=3600,
        )
        with own_signals():
            SimpleWorker([queue], connection=server.client, serializer=JSONSerializer).work(burst=True)
        job = Job.fetch("one-fold-0", connection=server.client, serializer=JSONSerializer)
        assert job.get_status() == JobStatus.FINISHED
        schedule(EXPERIMENTS, tmp_path, queue, experiment)
        assert queue.get_job_ids() == ["one-fold-0"]
        job = Job.fetch("one-fold-0", connection=server.client, serializer=JSONSerializer)
        assert job.func_name == "trainer.jobs.train_fold"
        # A file is enough, whatever RQ reports.
        directory = fold_dir(tmp_path, "one", 0)
        directory.mkdir(parents=True)
        write_json(directory / METRICS, {})
        server.client.flushdb()
        schedule(EXPERIMENTS, tmp_path, queue, experiment)
        assert queue.get_job_ids() == ["one-report"]
