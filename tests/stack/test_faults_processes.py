"""Each process of the running system killed or stopped under load; Redis gone, full, and back."""

import os
import re
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

from tests.support.fault_record import record
from tests.support.packs import human_pack_dir
from tests.support.recovery import recovers_in_time
from tests.support.serving import until
from tests.support.system import EXPERIMENT, made_data
from tests.support.traffic import SECONDS, Outcome, Traffic, ask
from tests.support.trainer_processes import SOON
from tools.stack import PHOTOGRAPH, Stack, running_stack

pytestmark = pytest.mark.alone  # it measures seconds under load

OPTIMIZER = {"epochs": 60, "patience": 60, "batch_size": 32}
TRAINING = {**EXPERIMENT, "folds": [0], "optimizer": OPTIMIZER}
SHORT = {"optimizer": {**OPTIMIZER, "epochs": 10}}  # where it need only be accepted
_ACCEPTED = re.compile(r"^proxy_(?:in_flight|waiting) (\S+)$", re.M)
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
        return self.stack.pids()

    def accept(self, **changes: Any) -> httpx.Response:
        answer = httpx.post(self.experiments, json={**TRAINING, **changes}, timeout=30)
        if answer.status_code == 202:
            self.accepted.append(answer.json()["id"])
        return answer

    def state(self, experiment: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.experiments}/{experiment}", timeout=30).json())

    def trains(self, experiment: str) -> bool:
        return bool(self.state(experiment)["folds"][0]["epoch"] > 0)

    def accepted_requests(self) -> int:
        """Return how many requests for predictions the proxy has now, at the embedder or before it."""
        text = httpx.get(f"{self.stack.url('embedder-proxy')}/metrics", timeout=30).text
        return sum(int(float(number)) for number in _ACCEPTED.findall(text))

    def until_it_takes_work(self) -> None:
        """Until a request of the load that begins from now on is answered, and the trainer is ready."""
        now = time.monotonic()

        def takes_work() -> bool:
            try:
                ready = httpx.get(f"{self.stack.url('trainer')}/health/ready", timeout=5).is_success
            except httpx.TransportError:
                return False
            return ready and self.traffic.answered(now)

        until(takes_work, "the system works again", 240)

    def drain(self) -> None:
        """Until every accepted experiment has ended, in its time: a slow machine loses nothing."""
        with self.traffic.paused():
            for number, experiment in enumerate(self.accepted):
                until(partial(self.finished, experiment), f"experiment {number} ends", 400)
        assert max(outcome.ended - outcome.began for outcome in self.traffic.outcomes) < SECONDS

    def finished(self, experiment: str) -> bool:
        return bool(self.state(experiment)["state"] == "finished")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    root = tmp_path_factory.mktemp("faults")
    environment = {
        "EMBEDDER_HUMAN_DIR": str(human_pack_dir()),
        **SOON,
        "PROXY_ATTEMPT_TIMEOUT_SECONDS": "30",  # on a busy machine the container may be late
        "EMBEDDER_THREADS": "1",  # a second one takes as much of a core to wait for the first as to compute
    }
    with running_stack(root, **environment) as stack:
        space = Space.model_validate(httpx.get(f"{stack.url('embedder-proxy')}/info").json()["space"])
        made_data(stack.data_dir, space)
        with Traffic(stack.url("predictor")).flowing() as traffic:
            until(lambda: len(traffic.outcomes) > 3, "the load flows", 240)
            started = System(stack, traffic)
            yield started
            started.drain()  # whatever the last test was


def kill_tree(pid: int) -> None:
    """Kill as a container is killed: with its children, at once."""
    process = psutil.Process(pid)
    for victim in [*process.children(recursive=True), process]:
        victim.kill()


@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_under_load_is_back_within_30_s_and_nothing_else_is_restarted(
    system: System, program: str
) -> None:
    before: dict[str, int] = {}
    experiment: str | None = None

    def kill_and_wait() -> float:
        nonlocal experiment
        if program in ("redis", "trainer", "trainer-worker-1"):
            experiment = system.accept().json()["id"]
            until(lambda: system.trains(experiment), "the fold trains", 240)
        before.update(system.pids())
        kill_tree(before[program])
        killed = time.monotonic()
        until(lambda: system.pids().get(program, before[program]) != before[program], "it is restarted", 240)
        system.until_it_takes_work()
        if experiment and program == "trainer-worker-1":
            until(lambda: attempts(system, experiment) == 2, "the fold continues", 240)
        return time.monotonic() - killed

    seconds = recovers_in_time(kill_and_wait, lambda: system.pids().values())
    after = system.pids()
    outcomes = system.traffic.after(time.monotonic() - seconds)
    record(f"killed: {program}", seconds=round(seconds, 1), answers=counted(outcomes))
    # A worker ends itself if Redis leaves in the middle of a job, and is restarted like any other.
    may_end = {program, "trainer-worker-1"} if program == "redis" else {program}
    assert {name for name in before if after.get(name) != before[name]} <= may_end
    if program == "predictor":  # what it had accepted died with it, and the client knows at once
        outcomes = [outcome for outcome in outcomes if outcome.status != 0]
    assert all(outcome.kept_promise for outcome in outcomes), counted(outcomes)
    if program in ("redis", "trainer", "trainer-worker-1"):
        assert {outcome.status for outcome in outcomes} == {200}
    if experiment and program == "redis":  # until then its worker may end itself, in another test
        until(lambda: system.finished(experiment), "the fold ends", 240)


def attempts(system: System, experiment: str) -> int:
    return int(system.state(experiment)["folds"][0]["attempts"])


def counted(outcomes: list[Outcome]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        name = f"{outcome.status} {outcome.problem}".strip()
        counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize("program", ["embedder", "embedder-proxy", "predictor"])
def test_sigterm_under_load_answers_what_was_accepted_and_refuses_the_rest(
    system: System, program: str
) -> None:
    system.until_it_takes_work()
    process = system.pids()[program]
    with ThreadPoolExecutor(2) as clients:
        with system.traffic.paused():
            until(lambda: system.accepted_requests() == 0, "the load has paused", 60)
            url = system.stack.url("predictor")
            long_ones = [clients.submit(ask, url, *pictures()) for _ in range(2)]
            until(lambda: system.accepted_requests() == 2, "both are being worked at", 60, 0.02)
        os.kill(process, signal.SIGTERM)
        stopped = time.monotonic()
        accepted = [one.result() for one in long_ones]
    system.until_it_takes_work()
    refused = [one for one in system.traffic.after(stopped) if one.began > stopped]
    record(f"SIGTERM: {program}", accepted=counted(accepted), later=counted(refused))
    assert [one.status for one in accepted] == [200, 200]
    if program == "predictor":
        # Nothing stands before it: its port refuses, or resets what the kernel still held when it closed.
        refused = [one for one in refused if one.problem not in ("ConnectError", "ReadError")]
    assert all(one.kept_promise for one in refused), counted(refused)


def pictures() -> list[bytes]:
    """Return images of six faces that are not in the cache: work for a second."""
    return [PHOTOGRAPH.read_bytes() + os.urandom(8) for _ in range(4)]


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
    system.until_it_takes_work()
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
    system.until_it_takes_work()
    record("Redis back without its data", seconds=round(time.monotonic() - back, 1))


def test_no_accepted_work_was_lost(system: System) -> None:
    """Check all faults so far: every accepted experiment ends, none twice, and no request hung."""
    if not system.accepted:
        pytest.skip("no fault of this module was caused before: run the whole module")
    system.drain()
    record("accepted experiments", finished=len(system.accepted))
