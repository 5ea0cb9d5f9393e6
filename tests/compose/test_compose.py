"""The system as `docker compose up` starts it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.compose_system import ComposeSystem, docker
from tests.support.fault_record import record
from tests.support.serving import until
from tests.support.system import (
    SIX_ADULTS,
    assert_six_adults,
    client_of,
    predict,
    train_and_promote,
    wait_until_served,
)

REQUESTS = 60
JPEG = {"Content-Type": "image/jpeg"}


def test_photograph_training_promotion_and_photograph_again(system: ComposeSystem) -> None:
    system.wait_ready()
    with client_of(system) as client:
        answer = predict(client)
        assert_six_adults(answer)
        # The volume belongs to the services' user now; this test may be anybody.
        system.run("run", "--rm", "--no-deps", "--user", "0:0", "data-init")
        wait_until_served(client, train_and_promote(client, system.data_dir, answer.space))


def test_two_workers_that_share_the_volume_alone_took_folds_of_one_experiment(system: ComposeSystem) -> None:
    """Run two workers as on two machines: only the files of the volume are seen by both."""
    workers = [system.inspect(container) for container in system.containers("trainer-worker")]
    assert len(workers) == 2
    for worker in workers:
        assert worker["HostConfig"]["ReadonlyRootfs"] is True
        assert {mount["Destination"] for mount in worker["Mounts"]} <= {"/data", "/run/age-gender"}
    newest = httpx.get(f"{system.url('trainer')}/experiments").json()[0]
    assert newest["state"] == "finished"
    took = {fold["worker"].split(":")[0] for fold in newest["folds"]}
    assert took == {worker["Config"]["Hostname"] for worker in workers}


def test_dashboards_show_the_queue_and_the_folds_that_were_trained(system: ComposeSystem) -> None:
    queues = f"{system.url('rq-dashboard')}/0/data/queues.json"
    until(lambda: "trainer" in shown_at(queues), "the queue is shown", 60)
    runs = f"{system.url('tensorboard')}/data/runs"
    until(lambda: "folds" in shown_at(runs), "a fold is shown", 90)


def shown_at(url: str) -> str:
    try:
        return httpx.get(url, timeout=5).text
    except httpx.TransportError:
        return ""


def test_embedding_container_killed_under_load_costs_no_request(system: ComposeSystem) -> None:
    """Three containers, six clients; no image is in the cache."""
    system.wait_ready()
    url = f"{system.url('predictor')}/age-gender"
    photograph = SIX_ADULTS.read_bytes()
    killed = threading.Event()
    containers = system.containers("insightface")
    assert len(containers) == 3

    def ask(number: int) -> tuple[int, float, str]:
        """Faces answered, seconds, and what was wrong."""
        if number == REQUESTS // 3:
            assert docker("kill", "--signal", "KILL", containers[0]).returncode == 0
            killed.set()
        picture = photograph + str(number).encode()  # no decoder reads behind the end
        begun = time.monotonic()
        try:
            answer = httpx.post(url, content=picture, headers=JPEG, timeout=60)
        except httpx.TransportError as error:
            return 0, time.monotonic() - begun, repr(error)
        seconds = time.monotonic() - begun
        if answer.status_code != 200:
            return 0, seconds, answer.text
        return len(answer.json()["images"][0]["faces"]), seconds, ""

    again = calls_made_again(system)
    with ThreadPoolExecutor(6) as clients:
        outcomes = list(clients.map(ask, range(REQUESTS)))
    wrong = [error for _, _, error in outcomes if error]
    record(
        "embedding container killed",
        answered=REQUESTS - len(wrong),
        failed=len(wrong),
        slowest=round(max(seconds for _, seconds, _ in outcomes), 2),
        again=calls_made_again(system) - again,
    )
    assert wrong == []
    assert [faces for faces, _, _ in outcomes] == [6] * REQUESTS
    assert killed.is_set()
    assert containers[0] not in system.containers("insightface")


def calls_made_again(system: ComposeSystem) -> int:
    """By the proxy, at another container than the one that failed."""
    families = text_string_to_metric_families(httpx.get(f"{system.url('embedder-proxy')}/metrics").text)
    (calls,) = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "proxy_retries_total" and sample.labels["reason"] == "failed"
    ]
    return int(calls)
