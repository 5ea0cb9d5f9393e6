"""Several embedders behind the proxy: the least loaded is asked, a failing one is ejected."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from agegender.faces import ImageFaces
from agegender.spaces import Space

from tests.support.embedder_double import SPACE, EmbedderDouble, faces_of
from tests.support.proxies import picture, post, problem_of, proxy, ready_embedders
from tests.support.serving import hang_up_once, until


@pytest.fixture
def two() -> Iterator[tuple[EmbedderDouble, EmbedderDouble]]:
    with EmbedderDouble().served() as first, EmbedderDouble().served() as second:
        yield first, second


@pytest.fixture
def double() -> Iterator[EmbedderDouble]:
    with EmbedderDouble().served() as one:
        yield one


def in_background(client: httpx.Client, *images: bytes) -> Future[httpx.Response]:
    return ThreadPoolExecutor(1).submit(post, client, *images)


def test_no_embedder_is_503_with_a_time_to_come_back() -> None:
    with proxy() as client:
        response = post(client, picture())
        assert (response.status_code, problem_of(response)) == (503, "embedder-unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert (ready.status_code, problem_of(ready)) == (503, "not-ready")
        assert "127.0.0.1:9" in ready.json()["detail"]


def test_a_name_that_does_not_resolve_is_503() -> None:
    with proxy(embedder_urls="http://no-such-host.invalid:10001") as client:
        assert post(client, picture()).status_code == 503


def test_an_embedder_that_starts_later_is_found(double: EmbedderDouble) -> None:
    double.fault = "not ready"
    with proxy(double) as client:
        response = post(client, picture())
        assert response.status_code == 503
        assert "loading weights" in response.json()["detail"]
        double.fault = None
        # Found on the next request, without waiting for the next look.
        assert post(client, picture()).status_code == 200


def test_embedder_that_starts_is_used_long_before_the_next_regular_probe(double: EmbedderDouble) -> None:
    double.fault = "not ready"
    with proxy(double, probe_interval=60) as client:
        assert client.get("/health/ready").status_code == 503
        double.fault = None
        until(lambda: client.get("/health/ready").is_success, "the embedder is found", 20)


def test_load_goes_to_the_one_with_less_to_do(two: tuple[EmbedderDouble, EmbedderDouble]) -> None:
    slow, quick = two
    slow.fault = "hang"
    with proxy(*two) as client:
        waiting = []
        while not slow.batches:
            waiting.append(in_background(client, picture()))
            time.sleep(0.05)
        before = len(quick.batches)
        for seed in range(6):
            assert post(client, picture(seed)).status_code == 200
        assert len(quick.batches) == before + 6
        slow.released.set()
        assert all(future.result(10).status_code == 200 for future in waiting)


def test_idle_embedders_are_asked_in_turn(two: tuple[EmbedderDouble, EmbedderDouble]) -> None:
    with proxy(*two) as client:
        for seed in range(6):
            post(client, picture(seed))
    assert [len(double.batches) for double in two] == [3, 3]


FAULTS = ["500", "503", "404", "redirect", "html", "empty", "cut", "too few", "nan", "short"]
FAULTS += ["long vectors", "another space"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_embedder_costs_no_request(fault: str, two: tuple[EmbedderDouble, EmbedderDouble]) -> None:
    broken, sound = two
    with proxy(*two) as client:
        broken.fault = fault
        for seed in range(4):
            answer = post(client, picture(seed))
            assert answer.status_code == 200
            assert ImageFaces.model_validate(answer.json()["images"][0]) == faces_of(picture(seed))
        assert broken.batches and len(sound.batches) == 4


@pytest.mark.parametrize("fault", ["500", "html", "another space"])
def test_a_lone_embedder_that_fails_is_503_and_comes_back(fault: str, double: EmbedderDouble) -> None:
    with proxy(double) as client:
        double.fault = fault
        response = post(client, picture())
        assert (response.status_code, problem_of(response)) == (503, "embedder-unavailable")
        assert response.headers["Retry-After"]
        double.fault = None
        assert post(client, picture()).status_code == 200


def test_an_embedder_that_dies_under_load_costs_no_request(double: EmbedderDouble) -> None:
    stop = threading.Event()
    statuses: list[int] = []

    def ask(client: httpx.Client) -> None:
        while not stop.is_set():
            statuses.append(post(client, picture(len(statuses))).status_code)

    dying = EmbedderDouble(seconds=0.02)
    with ExitStack() as life:
        life.enter_context(dying.served())
        with proxy(dying, double) as client, ThreadPoolExecutor(4) as threads:
            for _ in range(4):
                threads.submit(ask, client)
            until(lambda: len(dying.batches) > 5, "the load arrives")
            life.close()
            after = len(statuses)
            until(lambda: len(statuses) > after + 30, "the load continues")
            stop.set()
            assert ready_embedders(client) == [double.url]
    assert set(statuses) == {200}


def test_an_embedder_that_comes_back_is_readmitted(double: EmbedderDouble) -> None:
    other = EmbedderDouble()
    with ExitStack() as life:
        life.enter_context(other.served())
        port = int(other.url.rsplit(":", 1)[1])
        with proxy(other, double) as client:
            life.close()
            until(lambda: ready_embedders(client) == [double.url], "it is ejected without any request")
            with other.served(port):
                until(lambda: len(ready_embedders(client)) == 2, "it is readmitted")


def test_embedders_of_two_spaces_are_never_mixed() -> None:
    other = EmbedderDouble(space=Space(id="other-1", dimension=192))
    with (
        EmbedderDouble().served() as first,
        other.served(),
        proxy(first, embedder_urls=f"{first.url},{other.url}") as client,
    ):
        spaces = {post(client, picture(seed)).json()["space"]["id"] for seed in range(6)}
        assert len(spaces) == 1
        (left_out,) = [one for one in client.get("/info").json()["embedders"] if not one["ready"]]
        assert "other-1" in left_out["reason"] and SPACE.id in left_out["reason"]


def test_only_the_space_that_was_set_is_taken() -> None:
    other = EmbedderDouble(space=Space(id="other-1", dimension=192))
    with (
        EmbedderDouble().served() as first,
        other.served(),
        proxy(other, embedder_urls=f"{first.url},{other.url}", embedder_space="other-1") as client,
    ):
        assert post(client, picture()).json()["space"]["id"] == "other-1"
        assert not first.batches


def test_a_lone_embedder_that_comes_back_with_another_space_is_followed(double: EmbedderDouble) -> None:
    with proxy(double) as client:
        assert post(client, picture()).json()["space"]["id"] == SPACE.id
        double.space = Space(id="other-1", dimension=192)
        until(lambda: client.get("/info").json()["space"]["id"] == "other-1", "the space is followed")
        assert post(client, picture()).json()["space"]["dimension"] == 192


def test_an_answer_that_is_late_is_504(double: EmbedderDouble) -> None:
    double.fault = "hang"
    with proxy(double, timeout=1) as client:
        started = time.monotonic()
        response = post(client, picture())
        assert (response.status_code, problem_of(response)) == (504, "deadline-exceeded")
        assert time.monotonic() - started < 5
        until(lambda: double.hung_up == 1, "the embedder stops")


def test_the_callers_deadline_counts_where_it_is_shorter(double: EmbedderDouble) -> None:
    double.fault = "hang"
    with proxy(double) as client:
        response = post(client, picture(), headers={"X-Deadline-Ms": "200"})
        assert response.status_code == 504
        assert ready_embedders(client) == [double.url]  # a caller in a hurry is no failure of the embedder
        assert post(client, picture(), headers={"X-Deadline-Ms": "0"}).status_code == 504


def test_an_embedder_that_hangs_is_given_up_and_another_one_asked(
    two: tuple[EmbedderDouble, EmbedderDouble],
) -> None:
    two[0].fault = "hang"
    with proxy(*two, attempt_timeout=1) as client:
        for seed in range(6):
            assert post(client, picture(seed)).status_code == 200
        # Late once; from then on the other is asked.
        assert two[0].hung_up == len(two[0].batches) == 1


def test_a_lone_embedder_with_too_much_to_do_is_not_ejected(double: EmbedderDouble) -> None:
    double.fault = "hang"
    with proxy(double, attempt_timeout=1) as client:
        assert post(client, picture()).status_code == 503
        assert double.batches == [1]
        assert ready_embedders(client) == [double.url]
        double.fault = None
        assert post(client, picture()).status_code == 200


def test_a_lone_embedder_that_makes_progress_is_waited_for(double: EmbedderDouble) -> None:
    double.seconds, double.step = 1.5, 0.1
    with proxy(double, attempt_timeout=0.4) as client:
        assert post(client, picture()).status_code == 200
        assert double.batches == [1]
        assert ready_embedders(client) == [double.url]


def test_progress_is_asked_for_before_an_embedder_counts_as_late(double: EmbedderDouble) -> None:
    double.seconds, double.step = 1.5, 0.1
    with proxy(double, attempt_timeout=0.4, probe_interval=60) as client:
        assert post(client, picture()).status_code == 200
        assert double.batches == [1]


def test_an_embedder_whose_progress_stands_still_is_late(
    two: tuple[EmbedderDouble, EmbedderDouble],
) -> None:
    two[0].fault, two[0].step = "hang", 1e9
    with proxy(*two, attempt_timeout=1) as client:
        for seed in range(4):
            assert post(client, picture(seed)).status_code == 200
        assert two[0].hung_up == len(two[0].batches) == 1


def test_long_work_ends_with_the_callers_deadline_and_the_embedder_stays_in_use(
    double: EmbedderDouble,
) -> None:
    double.fault, double.step = "hang", 0.1
    with proxy(double, attempt_timeout=0.2) as client:
        answer = post(client, picture(), headers={"X-Deadline-Ms": "1500"})
        assert (answer.status_code, problem_of(answer)) == (504, "deadline-exceeded")
        assert "max_faces" in answer.json()["detail"]
        assert ready_embedders(client) == [double.url]
        assert int(double.headers[0]["x-deadline-ms"]) > 1000  # all of the caller's time, not one attempt's


def test_each_further_image_adds_to_the_time_of_a_request(double: EmbedderDouble) -> None:
    double.seconds = 1.0
    with proxy(double, timeout=0.5) as client:
        assert post(client, picture()).status_code == 504
        assert post(client, picture(), picture(1)).status_code == 200
        deadline = {"X-Deadline-Ms": "500"}  # the caller's own is never extended
        assert post(client, picture(2), picture(3), headers=deadline).status_code == 504


def test_a_container_that_keeps_the_deadline_itself_is_late_and_not_broken(
    two: tuple[EmbedderDouble, EmbedderDouble],
) -> None:
    two[0].fault = "504"
    with proxy(*two) as client:
        for seed in range(4):
            assert post(client, picture(seed)).status_code == 200
        assert len(two[0].batches) == 1
        assert len(ready_embedders(client)) == 2


def test_a_client_that_hangs_up_stops_costing(double: EmbedderDouble) -> None:
    double.fault = "hang"
    with proxy(double) as client:
        url, files = f"{client.base_url}/faces", {"image": picture()}
        hang_up_once(lambda: double.working, "the embedder is asked", url, files=files)
        until(lambda: double.hung_up == 1, "the embedder stops")
        until(lambda: client.get("/info").json()["embedders"][0]["in_flight"] == 0, "nothing is left")


def test_a_busy_embedder_is_passed_over_for_one_with_room(
    two: tuple[EmbedderDouble, EmbedderDouble],
) -> None:
    two[0].fault = "busy"
    with proxy(*two) as client:
        for seed in range(4):
            assert post(client, picture(seed)).status_code == 200
        assert len(ready_embedders(client)) == 2


def test_where_all_are_busy_the_client_hears_when_to_come_back(double: EmbedderDouble) -> None:
    double.fault = "busy"
    with proxy(double) as client:
        response = post(client, picture())
        assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
        assert len(double.batches) == 1


def test_more_than_fits_is_429_at_once(double: EmbedderDouble) -> None:
    double.fault = "hang"
    with proxy(double, max_in_flight=2, max_waiting=1) as client:
        accepted = [in_background(client, picture(seed)) for seed in range(3)]
        until(lambda: len(double.batches) == 2, "two are at the embedder")
        until(lambda: "proxy_waiting 1.0" in client.get("/metrics").text, "one waits")
        started = time.monotonic()
        response = post(client, picture(9))
        assert (response.status_code, problem_of(response)) == (429, "busy")
        assert response.headers["Retry-After"] == "1"
        assert time.monotonic() - started < 5  # those that were accepted wait for longer
        double.released.set()
        assert [future.result(10).status_code for future in accepted] == [200] * 3
        assert double.most_working == 2


def test_waiting_ends_with_the_deadline(double: EmbedderDouble) -> None:
    double.fault = "hang"
    with proxy(double, max_in_flight=1) as client:
        first = in_background(client, picture())
        until(lambda: len(double.batches) == 1, "one is at the embedder")
        assert post(client, picture(1), headers={"X-Deadline-Ms": "200"}).status_code == 504
        assert len(double.batches) == 1
        double.released.set()
        assert first.result(10).status_code == 200


def test_bodies_that_do_not_fit_in_memory_are_429(double: EmbedderDouble) -> None:
    double.fault = "hang"
    limits = {"max_image_bytes": 1_000_000, "max_request_bytes": 1_000_000, "max_body_memory": 2_600_000}
    with proxy(double, **limits) as client:
        held = [in_background(client, picture(seed) + bytes(900_000)) for seed in range(2)]
        until(lambda: len(double.batches) == 2, "two bodies are held")
        response = post(client, picture(2) + bytes(900_000))
        assert (response.status_code, problem_of(response)) == (429, "busy")
        double.released.set()
        assert [one.result(10).status_code for one in held] == [200, 200]
        assert post(client, picture(2) + bytes(900_000)).status_code == 200
