"""What RQ says of a job decides nothing: the files do, and jobs leave nothing but files."""

import importlib
import re
import signal
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trainer
from agegender.files import write_json
from rq import SimpleWorker
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from trainer.experiments.schedule import reconcile
from trainer.experiments.store import METRICS, fold_dir
from trainer.queues import job_queue
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.redis_server import redis_server

_NAMED = re.compile(r'"(trainer\.jobs\.\w+\.\w+)"')
SOURCES = sorted(Path(trainer.__file__).parent.rglob("*.py"))
ENTRY_POINTS = sorted({name for path in SOURCES for name in _NAMED.findall(path.read_text())})


@contextmanager
def own_signals() -> Iterator[None]:
    """A worker takes SIGINT and SIGTERM, and does not give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_job_takes_names_and_returns_nothing(name: str) -> None:
    """RQ 3.0 ends a job whose value JSON cannot hold as finished, with a text in place of the value."""
    module, _, function = name.rpartition(".")
    hints = typing.get_type_hints(getattr(importlib.import_module(module), function))
    assert hints.pop("return") is type(None)
    assert set(hints.values()) <= {str, int}


def test_entry_points_are_found_in_every_module_of_jobs() -> None:
    modules = {name.split(".")[2] for name in ENTRY_POINTS}
    assert modules == {"extract", "import_original", "merge", "promote", "report", "search", "train"}


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
        reconcile(tmp_path, queue, experiment)
        assert queue.get_job_ids() == ["one-fold-0"]
        job = Job.fetch("one-fold-0", connection=server.client, serializer=JSONSerializer)
        assert job.func_name == "trainer.jobs.train.train_fold"
        # A file is enough, whatever RQ says.
        directory = fold_dir(tmp_path, "one", 0)
        directory.mkdir(parents=True)
        write_json(directory / METRICS, {})
        server.client.flushdb()
        reconcile(tmp_path, queue, experiment)
        assert queue.get_job_ids() == ["one-report"]
