"""Faults in the middle of a fold: a network cut, clocks that jump, two workers with one job, a slow Redis."""

import time
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from rq.job import Job, JobStatus
from trainer.jobs import train_fold
from trainer.runs.run import Step
from trainer.runs.scheduler import enqueue_step, job_queue
from trainer.settings import TrainerSettings
from trainer.worker import make_worker

from tests.support.fault_record import record
from tests.support.jumping_clock import jumping_clock
from tests.support.network_namespaces import island
from tests.support.recovery import PROMISED
from tests.support.redis_server import redis_server
from tests.support.relay import relay
from tests.support.serving import free_port, until
from tests.support.trainer_processes import ONE_FOLD, REQUEST, Trainer, running_trainer


@pytest.mark.parametrize("overtaken", [False, True])
def test_worker_cut_off_from_redis_in_the_middle_of_a_fold_loses_nothing(
    tmp_path: Path, life: ExitStack, undisturbed: dict[str, Any], overtaken: bool
) -> None:
    """It ends its fold by itself; or, where it is too slow, another has it within 30 s and it gives way."""
    network = life.enter_context(island())
    server = life.enter_context(redis_server(tmp_path, "--bind", "127.0.0.1", network.host))
    trainer = Trainer(tmp_path, server.url, free_port())
    if not overtaken:  # the fold must end before its worker is presumed dead, even on a busy machine
        trainer.environment["TRAINER_HEARTBEAT_SECONDS"] = "60"
    life.callback(trainer.stop)
    trainer.start_api()
    own_redis = {"REDIS_URL": f"redis://{network.host}:{server.port}/0"}
    cut_off = psutil.Process(trainer.start("trainer.worker", *network.prefix, environment=own_redis).pid)
    experiment = trainer.create(ONE_FOLD)
    trainer.wait_for_epoch(experiment, 5)
    (job,) = cut_off.children()
    if overtaken:
        job.suspend()
        trainer.start_worker()
        until(lambda: server.client.scard("rq:workers") == 2, "the other worker is there", 240)
        network.cut()
        cut = time.monotonic()
        until(lambda: trainer.attempts(experiment) == 2, "the other worker has the fold", 240)
        seconds = time.monotonic() - cut
        record("partition, overtaken", seconds=round(seconds, 1))
        assert seconds < PROMISED
        with suppress(psutil.NoSuchProcess):  # its worker may have given up, and it with that
            job.resume()
    else:
        network.cut()
        trainer.start_worker()  # for the report
    trainer.wait(experiment)
    record("partition", overtaken=overtaken, attempts=trainer.attempts(experiment))
    assert trainer.figures(experiment) == undisturbed
    assert trainer.attempts(experiment) == 1 + overtaken
    network.join()
    until(lambda: has_ended(job), "it has given way", 240)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_clocks_that_jump_by_hours_lose_nothing(
    tmp_path: Path, life: ExitStack, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = jumping_clock(tmp_path)
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    server = life.enter_context(redis_server(tmp_path))
    trainer = Trainer(tmp_path, server.url, free_port())
    life.callback(trainer.stop)
    trainer.start_api(forked=False)  # in processes that have begun with this clock
    trainer.start("trainer.worker")
    experiment = trainer.create(ONE_FOLD)
    for epoch, seconds in ((5, 3600), (30, -3600)):
        trainer.wait_for_epoch(experiment, epoch)
        clock.jump(seconds)
    trainer.wait(experiment)
    record("clock jumps an hour ahead and two back", attempts=trainer.attempts(experiment))
    assert trainer.figures(experiment) == undisturbed
    assert trainer.attempts(experiment) <= 3


def test_two_workers_with_the_same_job_give_one_result(
    tmp_path: Path, life: ExitStack, undisturbed: dict[str, Any]
) -> None:
    server = life.enter_context(redis_server(tmp_path))
    trainer = Trainer(tmp_path, server.url, free_port())
    life.callback(trainer.stop)
    trainer.start_api()
    held = psutil.Process(trainer.start_worker().pid)
    experiment = trainer.create(ONE_FOLD)
    trainer.wait_for_epoch(experiment, 5)
    held_processes = [held, *held.children()]
    for process in held_processes:
        process.suspend()  # as a machine is that sleeps
    trainer.start_worker()
    until(lambda: trainer.attempts(experiment) == 2, "the other has begun too", 240)
    for process in held_processes:
        process.resume()
    trainer.wait(experiment)
    record("two workers with one job", attempts=trainer.attempts(experiment))
    assert trainer.figures(experiment) == undisturbed
    assert trainer.attempts(experiment) == 2
    # The report's job ends a moment after the report is there.
    until(lambda: not list(server.client.scan_iter("rq:job:*")), "no job is left", 30)


def test_job_whose_worker_is_long_dead_is_enqueued_again(tmp_path: Path, life: ExitStack) -> None:
    """Even where RQ has forgotten half of what it knew of it, as after hours without power."""
    server = life.enter_context(redis_server(tmp_path))
    settings = TrainerSettings(redis_url=server.url)
    worker, queue = make_worker(settings), job_queue(server.client, settings)
    worker.presumed_dead_seconds, queue.presumed_dead = 1, timedelta(seconds=1)  # below what a setting allows
    step = Step("fold", train_fold, ("experiment", 0), 600)
    enqueue_step(queue, step)
    taken = queue.dequeue_any([queue], None, connection=server.client, serializer=queue.serializer)
    assert taken is not None
    job, _ = taken
    execution = worker.prepare_execution(job)
    worker.prepare_job_execution(job)
    enqueue_step(queue, step)
    assert queue.get_job_ids() == []
    until(lambda: not server.client.exists(execution.key), "its record expires")
    enqueue_step(queue, step)
    assert queue.get_job_ids() == ["fold"]
    assert Job.fetch("fold", server.client, queue.serializer).get_status() == JobStatus.QUEUED


def test_slow_redis_makes_training_slow_and_no_more(
    tmp_path: Path, life: ExitStack, undisturbed: dict[str, Any]
) -> None:
    server = life.enter_context(redis_server(tmp_path))
    wire = life.enter_context(relay(server.port))
    trainer = Trainer(tmp_path, f"redis://127.0.0.1:{wire.port}/0", free_port())
    life.callback(trainer.stop)
    trainer.start_api()
    trainer.start_worker()
    wire.delay = 0.3
    started = time.monotonic()
    experiment = trainer.create(ONE_FOLD)
    accepted = time.monotonic() - started
    trainer.wait(experiment)
    record("Redis slow by 0.3 s an answer", accepted=round(accepted, 1))
    assert trainer.figures(experiment) == undisturbed
    assert trainer.attempts(experiment) == 1


def test_redis_that_hangs_is_reported_in_seconds(tmp_path: Path, life: ExitStack) -> None:
    server = life.enter_context(redis_server(tmp_path))
    trainer = Trainer(tmp_path, server.url, free_port())
    life.callback(trainer.stop)
    trainer.start_api()
    server.hang()
    started = time.monotonic()
    ready = httpx.get(f"{trainer.url}/health/ready", timeout=60)
    reported_after = time.monotonic() - started
    started = time.monotonic()
    refused = httpx.post(f"{trainer.url}/experiments", json=REQUEST, timeout=120)
    seconds = time.monotonic() - started
    server.go_on()
    record(
        "Redis hangs", ready=round(reported_after, 1), refused=round(seconds, 1), status=refused.status_code
    )
    assert ready.status_code == 503
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert max(reported_after, seconds) < PROMISED
    until(trainer.ready, "Redis is back", 30)


def test_fold_of_a_worker_that_was_stopped_twice_continues_elsewhere(tmp_path: Path) -> None:
    """After the second SIGTERM, RQ 3.0 kills the job and ends, and calls the job started ever after."""
    with running_trainer(tmp_path) as trainer:
        worker = trainer.start_worker()
        experiment = trainer.create(ONE_FOLD)
        trainer.wait_for_epoch(experiment, 5)
        (job,) = trainer.jobs()
        job.suspend()  # so that the fold cannot end before the second signal
        worker.terminate()
        time.sleep(1.2)  # RQ ignores a second one within a second
        worker.terminate()
        worker.wait(20)
        trainer.processes.remove(worker)
        trainer.start_worker()
        trainer.wait(experiment)
        assert trainer.attempts(experiment) == 2
