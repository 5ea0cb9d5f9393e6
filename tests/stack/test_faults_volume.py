"""The volume full or read-only in the middle of a fold, a report, a promotion, an upload, or Redis's log."""

import os
import shutil
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from safetensors.numpy import load as load_safetensors
from trainer.datasets.uploads import STALE_SECONDS
from trainer.experiments.experiment import experiment_dir, load_experiment
from trainer.reports.report import summarise, write_reports

from tests.support.embedder_double import EmbedderDouble
from tests.support.fault_record import record
from tests.support.proxies import picture as noise
from tests.support.proxies import post, problem_of, proxy
from tests.support.redis_server import redis_server
from tests.support.serving import free_port, until
from tests.support.small_volumes import small_volume
from tests.support.trainer_processes import ONE_FOLD, REQUEST, Trainer


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_volume_that_cannot_be_written_keeps_the_old_files_and_reports_why(
    tmp_path: Path, life: ExitStack, undisturbed: dict[str, Any], fault: str
) -> None:
    server = life.enter_context(redis_server(tmp_path))
    volume = life.enter_context(small_volume(tmp_path / "volume", mebibytes=8))
    trainer = Trainer(tmp_path, server.url, free_port(), data_dir=volume.path)
    life.callback(trainer.stop)
    trainer.start_api()
    trainer.start_worker()
    experiment = trainer.create(ONE_FOLD)
    directory = experiment_dir(volume.path, experiment)
    checkpoint = directory / "folds" / "0" / "checkpoint.safetensors"
    until(checkpoint.exists, "a checkpoint is written", 240)
    (job,) = trainer.jobs()
    job.suspend()  # so that the fold does not end before the volume is full

    volume.fill() if fault == "full" else volume.make_read_only()
    kept = checkpoint.read_bytes()
    job.resume()
    until(lambda: reported_problem(trainer, experiment), "the status has the reason why it waits", 30)
    assert fault in reported_problem(trainer, experiment)
    (warning,) = httpx.get(f"{trainer.url}/health/ready").json()["warnings"]
    assert fault in warning
    refused = httpx.post(f"{trainer.url}/experiments", json=REQUEST)
    assert (refused.status_code, problem_of(refused)) == (503, "volume-not-writable")
    assert fault in refused.json()["detail"] and refused.headers["retry-after"]
    until(lambda: not trainer.jobs(), "the job has come upon it and given up", 60)
    assert checkpoint.read_bytes() == kept
    assert load_safetensors(kept)["state.epoch"] > 0

    volume.make_room() if fault == "full" else volume.make_writable()
    free = time.monotonic()
    trainer.wait(experiment)
    record(f"volume {fault}", goes_on_after=round(time.monotonic() - free, 1))
    assert trainer.figures(experiment) == undisturbed
    assert not list(volume.path.rglob("*.part"))
    if fault == "full":
        volume.fill()
        check_full_after_the_end(trainer, experiment)
        volume.make_room()
        assert httpx.post(f"{trainer.url}/experiments/{experiment}/promote", timeout=60).is_success


def reported_problem(trainer: Trainer, experiment: str) -> str:
    return str(trainer.status(experiment)["folds"][0]["problem"] or "")


def check_full_after_the_end(trainer: Trainer, experiment: str) -> None:
    """Neither a report nor a promotion that has no room harms what is there."""
    directory = experiment_dir(trainer.data_dir, experiment)
    reports = {path: path.read_bytes() for path in directory.glob("report.*")}
    assert len(reports) == 3
    with pytest.raises(OSError, match="No space left"):
        again = load_experiment(trainer.data_dir, experiment)
        write_reports(trainer.data_dir, again, summarise(trainer.data_dir, again))
    assert {path: path.read_bytes() for path in directory.glob("report.*")} == reports
    refused = httpx.post(f"{trainer.url}/experiments/{experiment}/promote", timeout=60)
    assert (refused.status_code, problem_of(refused)) == (503, "volume-not-writable")
    assert not list((trainer.data_dir / "models").rglob("current.json"))
    assert not list(trainer.data_dir.rglob("*.part"))


def test_redis_without_room_for_its_log_costs_no_prediction_and_caches_again_later(
    tmp_path: Path, life: ExitStack
) -> None:
    volume = life.enter_context(small_volume(tmp_path / "volume", mebibytes=2))
    server = life.enter_context(redis_server(volume.path, "--appendonly", "yes"))
    double = life.enter_context(EmbedderDouble().served())
    client = life.enter_context(proxy(double, redis_url=server.url, cache_ttl=600))
    assert post(client, noise(0)).status_code == 200
    until(lambda: bool(server.client.dbsize()), "the entry is written")
    volume.fill()
    until(lambda: post(client, noise(time.monotonic_ns())).status_code == 200 and refuses(server.url), "full")
    entries = server.client.dbsize()
    assert [post(client, noise(number)).status_code for number in range(1, 6)] == [200] * 5
    assert server.client.dbsize() == entries
    asked = len(double.batches)
    assert post(client, noise(0)).status_code == 200
    assert len(double.batches) == asked  # what was written before is still read
    volume.make_room()
    free = time.monotonic()
    until(lambda: not refuses(server.url), "Redis writes again", 30)
    post(client, noise(9))
    until(lambda: server.client.dbsize() > entries, "entries are written again")
    record("Redis's disk full", caches_again_after=round(time.monotonic() - free, 1))


def refuses(url: str) -> bool:
    import redis

    try:
        redis.Redis.from_url(url).set("probe", 1, ex=1)
    except redis.ResponseError:
        return True
    return False


def test_upload_whose_trainer_is_killed_is_not_visible_and_is_deleted_later(trainer: Trainer) -> None:
    assert trainer.api is not None
    head = (
        "POST /datasets/killed/files HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nabc'
    )
    address = urlsplit(trainer.url)
    with socket.create_connection((address.hostname, address.port or 0)) as connection:
        connection.sendall(head.encode())
        until(lambda: list(trainer.data_dir.glob(".upload-*")), "the upload began", 60)
        trainer.kill(trainer.api)
    trainer.start_api()
    listed = trainer.http.get("/datasets", params={"all_folders": True}).json()
    assert "killed" not in [one["name"] for one in listed]
    (left,) = trainer.data_dir.glob(".upload-*")
    os.utime(left, (0, time.time() - STALE_SECONDS - 1))
    files = {"file": ("a.jpg", noise())}
    assert trainer.http.post("/datasets/killed/files", files=files).status_code == 201
    assert not left.exists()
    assert [path.name for path in (trainer.data_dir / "killed").iterdir()] == ["a.jpg"]
    shutil.rmtree(trainer.data_dir / "killed")
