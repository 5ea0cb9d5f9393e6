"""Each process of the running system killed or told to stop under load; Redis gone, full, and back."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from agegender.spaces import Space

from benchmarks.photographs import PHOTOGRAPH, one_face
from tests.support.fault_record import record
from tests.support.packs import human_pack_dir
from tests.support.recovery import recovery_seconds
from tests.support.serving import until
from tests.support.system import EXPERIMENT, made_data
from tests.support.traffic import SECONDS, Outcome, Traffic, ask
from tools.stack import Stack, running_stack

OPTIMIZER = {"epochs": 60, "patience": 60, "batch_size": 32}
TRAINING = {**EXPERIMENT, "folds": [0], "optimizer": OPTIMIZER}
SHORT = {"optimizer": {**OPTIMIZER, "epochs": 10}}  # where it need only be accepted
PROGRAMS = ("redis", "embedder", "embedder-proxy", "predictor", "trainer", "trainer-worker-1")


@dataclass
class System:
    """A running system under load, and the ids of the experiments that it accepted."""

    stack: Stack
    traffic: Traffic
    accepted: list[str] = field(default_factory=list)

    @property
    def experiments(self) -> str:
        return f"{self.stack.url('trainer')}/experiments"

    def pids(self) -> dict[str, int]:
        lines = [line.split() for line in self.stack.control("status").splitlines()]
        return {words[0]: int(words[3].rstrip(",")) for words in lines if words[1] == "RUNNING"}

    def accept(self, **changes: Any) -> httpx.Response:
        answer = httpx.post(self.experiments, json={**TRAINING, **changes}, timeout=30)
        if answer.status_code == 202:
            self.accepted.append(answer.json()["id"])
        return answer

    def state(self, experiment: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.experiments}/{experiment}", timeout=30).json())

    def trains(self, experiment: str) -> bool:
        return bool(self.state(experiment)["folds"][0]["epoch"] > 0)

    def works(self) -> bool:
        """The embedding container has something to do."""
        embedders = httpx.get(f"{self.stack.url('embedder-proxy')}/info", timeout=30).json()["embedders"]
        return any(embedder["in_flight"] for embedder in embedders)

    def predicts(self) -> bool:
        return ask(self.stack.url("predictor"), one_face() + os.urandom(8)).status == 200

    def takes_work(self) -> bool:
        """A prediction is answered, and an experiment is accepted."""
        try:
            ready = httpx.get(f"{self.stack.url('trainer')}/health/ready", timeout=5).is_success
        except httpx.TransportError:
            return False
        return ready and self.predicts()

    def finished(self, experiment: str) -> bool:
        return bool(self.state(experiment)["state"] == "finished")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    root = tmp_path_factory.mktemp("faults")
    environment = {
        "EMBEDDER_HUMAN_DIR": str(human_pack_dir()),
        "TRAINER_RECONCILE_SECONDS": "2",
        "PROXY_ATTEMPT_TIMEOUT": "30",  # a busy machine makes the container late, which is no fault here
    }
    with running_stack(root, **environment) as stack:
        space = Space.model_validate(httpx.get(f"{stack.url('embedder-proxy')}/info").json()["space"])
        made_data(stack.data_dir, space)
        with Traffic(stack.url("predictor")).flowing() as traffic:
            until(lambda: len(traffic.outcomes) > 3, "the load flows", 240)
            yield System(stack, traffic)


def kill_tree(pid: int) -> None:
    """As a container is killed: with its children, at once."""
    process = psutil.Process(pid)
    for victim in [*process.children(recursive=True), process]:
        victim.kill()


@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_under_load_is_back_within_30_s_and_nothing_else_starts_anew(
    system: System, program: str
) -> None:
    experiment = None
    if program in ("redis", "trainer", "trainer-worker-1"):
        experiment = system.accept().json()["id"]
        until(lambda: system.trains(experiment), "the fold trains", 240)
    before = system.pids()
    kill_tree(before[program])
    killed = time.monotonic()
    until(lambda: system.pids().get(program, before[program]) != before[program], "it starts anew", 240)
    until(system.takes_work, "the system works again", 240)
    if experiment and program == "trainer-worker-1":
        until(lambda: attempts(system, experiment) == 2, "the fold goes on", 240)
    seconds = time.monotonic() - killed
    after = system.pids()
    outcomes = system.traffic.after(killed)
    record(f"killed: {program}", seconds=round(seconds, 1), answers=counted(outcomes))
    assert seconds < recovery_seconds()
    # A worker ends itself where Redis left it in the middle of a job, and is started anew like any other.
    may_end = {program, "trainer-worker-1"} if program == "redis" else {program}
    assert {name for name in before if after.get(name) != before[name]} <= may_end
    if program == "predictor":  # what it had accepted died with it, and the client knows at once
        outcomes = [outcome for outcome in outcomes if outcome.status != 0]
    assert all(outcome.kept_promise for outcome in outcomes), counted(outcomes)
    if program in ("redis", "trainer", "trainer-worker-1"):
        assert {outcome.status for outcome in outcomes} == {200}


def attempts(system: System, experiment: str) -> int:
    return int(system.state(experiment)["folds"][0]["attempts"])


def counted(outcomes: list[Outcome]) -> dict[str, int]:
    told: dict[str, int] = {}
    for outcome in outcomes:
        name = f"{outcome.status} {outcome.problem}".strip()
        told[name] = told.get(name, 0) + 1
    return told


@pytest.mark.parametrize("program", ["embedder", "embedder-proxy", "predictor"])
def test_sigterm_under_load_answers_what_was_accepted_and_refuses_the_rest(
    system: System, program: str
) -> None:
    until(system.predicts, "predictions are answered", 240)
    process = system.pids()[program]
    with ThreadPoolExecutor(2) as clients:
        long_ones = [clients.submit(ask, system.stack.url("predictor"), *two_pictures()) for _ in range(2)]
        time.sleep(0.2)
        until(system.works, "they are being worked at", 60)
        os.kill(process, signal.SIGTERM)
        stopped = time.monotonic()
        accepted = [one.result() for one in long_ones]
    until(system.takes_work, "it is back", 240)
    refused = [one for one in system.traffic.after(stopped) if one.began > stopped]
    record(f"SIGTERM: {program}", accepted=counted(accepted), later=counted(refused))
    assert [one.status for one in accepted] == [200, 200]
    if program == "predictor":
        # Nothing stands before it: its port refuses, or resets what the kernel still held when it closed.
        refused = [one for one in refused if one.problem not in ("ConnectError", "ReadError")]
    assert all(one.kept_promise for one in refused), counted(refused)


def two_pictures() -> list[bytes]:
    """Of six faces, new to the cache: work for a moment."""
    return [PHOTOGRAPH.read_bytes() + os.urandom(8) for _ in range(2)]


def test_sigterm_lets_a_worker_end_its_fold(system: System) -> None:
    experiment = system.accept().json()["id"]
    until(lambda: system.trains(experiment), "the fold trains", 240)
    worker = system.pids()["trainer-worker-1"]
    os.kill(worker, signal.SIGTERM)
    until(lambda: system.pids().get("trainer-worker-1", worker) != worker, "the worker ends", 240)
    until(lambda: system.finished(experiment), "the experiment ends", 240)
    record("SIGTERM in a fold", attempts=attempts(system, experiment))
    assert attempts(system, experiment) == 1


def test_redis_gone_is_503_at_the_trainer_and_costs_no_prediction(system: System) -> None:
    system.accept(**SHORT)
    system.stack.control("stop", "redis")
    gone = time.monotonic()
    try:
        until(lambda: len(system.traffic.after(gone)) > 3, "the load flows", 240)
        refused = system.accept()
        ready = httpx.get(f"{system.stack.url('trainer')}/health/ready", timeout=30)
    finally:
        system.stack.control("start", "redis")
    back = time.monotonic()
    until(system.takes_work, "the system works again", 240)
    record("Redis gone", seconds=round(time.monotonic() - back, 1), trainer=refused.status_code)
    assert (refused.status_code, ready.status_code) == (503, 503)
    assert int(refused.headers["retry-after"]) > 0
    assert {outcome.status for outcome in system.traffic.after(gone)} == {200}


def test_full_redis_refuses_new_work_and_keeps_what_it_has(system: System) -> None:
    import redis

    server = redis.Redis.from_url(system.stack.redis_url)
    system.accept(**SHORT)
    full = time.monotonic()
    server.config_set("maxmemory", "1mb")
    try:
        refused = system.accept()
        until(lambda: len(system.traffic.after(full)) > 3, "the load flows", 240)
    finally:
        server.config_set("maxmemory", "0")
    record("Redis full", trainer=refused.status_code)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert {outcome.status for outcome in system.traffic.after(full)} == {200}


def test_redis_back_without_its_data_gets_the_queue_from_the_files(system: System) -> None:
    for _ in range(2):
        system.accept(**SHORT)
    system.stack.control("stop", "redis")
    shutil.rmtree(system.stack.run_dir / "redis")
    Path(system.stack.run_dir / "redis").mkdir()
    system.stack.control("start", "redis")
    back = time.monotonic()
    until(system.takes_work, "the system works again", 240)
    record("Redis back without its data", seconds=round(time.monotonic() - back, 1))


def test_no_accepted_work_was_lost(system: System) -> None:
    """Of all the faults above: every accepted experiment ends, none twice, and no request hung."""
    for number, experiment in enumerate(system.accepted):  # each in its time: a slow machine loses nothing
        until(partial(system.finished, experiment), f"experiment {number} ends", 400, 0.5)
    record("accepted experiments", finished=len(system.accepted))
    assert max(outcome.ended - outcome.began for outcome in system.traffic.outcomes) < SECONDS
