"""The proxy's cache in a real Redis: quicker with it, right without it."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from agegender.faces import FacesAnswer, ImageFaces, ImageProblem
from agegender.spaces import Space
from agegender.wire import encode_image_request
from agegender_service.observability import stage_seconds
from agegender_service.packed_faces import PACKED, pack_image, unpack_answer
from embedder_proxy.cache import sign

from tests.support.embedder_double import SPACE, EmbedderDouble, faces_of
from tests.support.proxies import entry_problem, picture, post, proxy
from tests.support.redis_server import RedisServer, redis_server
from tests.support.serving import until


@pytest.fixture
def double() -> Iterator[EmbedderDouble]:
    with EmbedderDouble().served() as one:
        yield one


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def metric_value(client: httpx.Client, metric: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(metric)]
    return float(line.split()[-1])


def entries(server: RedisServer) -> list[str]:
    """Return the keys of the cached faces, without those that account for their memory."""
    return [str(key, "ascii") for key in server.client.scan_iter("agegender:faces:6:*")]


def test_the_same_picture_is_embedded_once(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        first, again = post(client, picture()), post(client, picture())
        assert first.json() == again.json()
        assert double.batches == [1]
        spent = stage_seconds(again.headers["Server-Timing"])
        assert spent.pop("check") > 0 and spent.pop("cache") > 0
        assert spent == {"queue": 0, "decode": 0, "detect": 0, "embed": 0}
        mixed = post(client, picture(1), picture(), picture(2))
        assert double.batches == [1, 2]
        answer = FacesAnswer.model_validate_json(mixed.content)
        assert answer.images == [faces_of(picture(seed)) for seed in (1, 0, 2)]


def test_entries_hold_no_picture_and_end(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
    (key,) = entries(redis)
    assert 0 < redis.client.ttl(key) <= 60
    entry = redis.client.get(key)
    assert isinstance(entry, bytes) and picture() not in entry


def test_a_lifetime_of_0_turns_the_cache_off(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=0) as client:
        post(client, picture())
        post(client, picture())
    assert double.batches == [1, 1]
    assert redis.client.keys() == []


def test_another_space_has_its_own_entries(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
        double.space = Space(id="other-1", dimension=192)
        until(lambda: client.get("/info").json()["space"]["id"] == "other-1", "the space is followed")
        answer = post(client, picture()).json()
        assert answer["space"]["id"] == "other-1"
        assert len(answer["images"][0]["faces"][0]["embedding"]) == 192


def test_a_damaged_picture_is_not_remembered(double: EmbedderDouble, redis: RedisServer) -> None:
    double.broken = lambda image: True
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        assert entry_problem(post(client, picture())) == (422, "damaged-image")
        assert redis.client.keys() == []


def test_an_entry_that_was_not_written_for_this_picture_and_space_is_no_hit(
    double: EmbedderDouble, redis: RedisServer
) -> None:
    other = pack_image(faces_of(b"another picture", count=2))
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
        (key,) = entries(redis)
        entry = bytes(redis.client.get(key) or b"")  # type: ignore[arg-type]
        wrong = {
            "empty": b"",
            "no seal": other,
            "cut short": entry[:-1],
            "a bit turned": entry[:-9] + bytes([entry[-9] ^ 1]) + entry[-8:],
            "for another image": sign(f"{key[:-1]}x", other, b""),
            "for another space": sign(key.replace("double-1", "double-2"), other, b""),
            "with another secret": sign(key, other, b"x" * 32),
            "no faces": sign(key, b"\xc1", b""),
            "another list": sign(key, b"\x91\x01", b""),
            "an endless list": sign(key, b"\xdd\xff\xff\xff\xff", b""),
            "lists in lists": sign(key, b"\x91" * 5000, b""),
            "an odd embedding": sign(key, other.replace(b"\xc5\x08\x00", b"\xc5\x07\xff"), b""),
            "not a number": sign(key, other[:-400] + b"\xff" * 20 + other[-380:], b""),
        }
        for what, content in wrong.items():
            redis.client.set(key, content)
            answer = post(client, picture()).json()
            assert answer["images"] == [faces_of(picture()).model_dump(mode="json")], what
        assert double.batches == [1] * (1 + len(wrong))


def test_an_entry_of_an_earlier_version_is_no_hit(double: EmbedderDouble, redis: RedisServer) -> None:
    digest = hashlib.sha256(picture()).hexdigest()
    old = faces_of(b"an earlier answer").model_dump_json().encode()
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        for version in (1, 4, 5):
            key = f"agegender:faces:{version}:{SPACE.id}:{SPACE.dimension}:{digest}"
            redis.client.set(key, sign(key, old, b""))
        answer = post(client, picture()).json()
    assert answer["images"] == [faces_of(picture()).model_dump(mode="json")]


def test_entries_are_sealed_with_the_services_key(double: EmbedderDouble, redis: RedisServer) -> None:
    for key in ("a" * 32, "b" * 32, "b" * 32):
        with proxy(double, redis_url=redis.url, cache_ttl=60, service_key=key) as client:
            post(client, picture())
    assert double.batches == [1, 1]  # the last is a hit


def test_faces_known_are_answered_while_no_embedder_is_there(redis: RedisServer) -> None:
    lost = EmbedderDouble()
    with lost.served(), proxy(lost, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
        lost.fault = "not ready"
        until(lambda: client.get("/health/ready").status_code == 503, "the embedder is lost")
        assert post(client, picture()).status_code == 200
        assert post(client, picture(1)).status_code == 503


def test_a_redis_that_is_gone_is_no_error(double: EmbedderDouble) -> None:
    with proxy(double, redis_url="redis://127.0.0.1:9/0", cache_ttl=60) as client:
        assert [post(client, picture()).status_code for _ in range(3)] == [200] * 3


def test_a_redis_that_hangs_costs_little(double: EmbedderDouble, redis: RedisServer) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60, cache_timeout=0.1) as client:
        post(client, picture())
        redis.hang()
        before = metric_value(client, "proxy_cache_errors_total")
        assert [post(client, picture(seed)).status_code for seed in range(20)] == [200] * 20
        # One wait of 0.1 s, after which Redis is left alone for five seconds.
        assert 1 <= metric_value(client, "proxy_cache_errors_total") - before <= 2


def test_a_redis_that_is_full_is_no_error(double: EmbedderDouble, tmp_path: Path) -> None:
    with (
        redis_server(tmp_path, "--maxmemory-policy", "noeviction") as full,
        proxy(double, redis_url=full.url, cache_ttl=60) as client,
    ):
        post(client, picture())
        full.client.config_set("maxmemory", "1kb")
        assert [post(client, picture(seed)).status_code for seed in range(5)] == [200] * 5
        assert len(double.batches) == 5  # what was written before is still read
        assert entries(full) == []  # faces give way to other data


def test_a_redis_that_comes_back_without_its_data_is_used_again(
    double: EmbedderDouble, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agegender_service.redis_breaker._PAUSE", 0.1)
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        post(client, picture())
        redis.client.flushall()
        redis.client.client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.2)
        post(client, picture())
        time.sleep(0.2)
        post(client, picture())
        until(lambda: bool(redis.client.keys()), "entries are written again")
        batches = len(double.batches)
        assert post(client, picture()).status_code == 200
        assert len(double.batches) == batches


def test_a_hit_in_memory_ends_when_redis_loses_or_changes_the_entry(
    double: EmbedderDouble, redis: RedisServer
) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        first = post(client, picture())
        assert post(client, picture()).content == post(client, picture()).content == first.content
        assert double.batches == [1]
        (key,) = entries(redis)
        redis.client.set(key, sign(key, pack_image(faces_of(b"newer")), b""))
        assert post(client, picture()).json()["images"] == [faces_of(b"newer").model_dump(mode="json")]
        redis.client.delete(key)
        assert post(client, picture()).content == first.content
        assert double.batches == [1, 1]


def test_packed_and_json_clients_share_entries(double: EmbedderDouble, redis: RedisServer) -> None:
    double.faces = 3
    packed = {"Accept": PACKED}
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        as_json = post(client, picture(), picture(1))
        small = post(client, picture(1), picture(), headers=packed)
        assert double.batches == [2]
        assert (small.headers["content-type"], small.headers["vary"]) == (PACKED, "Accept")
        assert len(small.content) < len(as_json.content) / 4
        shown = unpack_answer(small.content).model_dump(mode="json")
        assert shown == {**as_json.json(), "images": as_json.json()["images"][::-1]}
        mixed = unpack_answer(post(client, b"no image", picture(), headers=packed).content)
        assert isinstance(mixed.images[0], ImageProblem) and mixed.images[0].problem["status"] == 415
        assert mixed.images[1].model_dump(mode="json") == as_json.json()["images"][0]


def test_the_original_s_clients_are_answered_the_same_from_the_cache(
    double: EmbedderDouble, redis: RedisServer
) -> None:
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        headers = {"Content-Type": "application/json"}
        first, again = (
            client.post("/", content=encode_image_request(picture()), headers=headers) for _ in range(2)
        )
        assert first.status_code == 200 and first.content == again.content
    assert double.batches == [1]


def selected(client: httpx.Client, **options: str) -> ImageFaces:
    (image,) = FacesAnswer.model_validate_json(post(client, picture(), params=options).content).images
    assert isinstance(image, ImageFaces)
    return image


def test_an_answer_of_one_face_never_serves_a_request_for_all(
    double: EmbedderDouble, redis: RedisServer
) -> None:
    double.faces = 6
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        one = selected(client, max_faces="1")
        assert (len(one.faces), one.faces_found, one.truncated) == (1, 6, True)
        assert double.queries == [{"max_faces": "1"}]
        assert selected(client, max_faces="1") == one
        assert len(double.queries) == 1
        every = selected(client)
        assert (len(every.faces), every.faces_found, every.truncated) == (6, 6, False)
        assert double.queries[1:] == [{}]


def test_an_answer_of_all_faces_serves_every_selection(double: EmbedderDouble, redis: RedisServer) -> None:
    double.faces = 6
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        every = selected(client)
        assert selected(client, max_faces="2").faces == every.faces[:2]
        assert selected(client, max_faces="7") == every
        assert selected(client, min_face="81") == every.model_copy(update={"faces": []})
        assert selected(client, min_det_score="0.9") == every
        assert double.batches == [1]


def test_a_selection_that_left_nothing_out_is_an_answer_of_all_faces(
    double: EmbedderDouble, redis: RedisServer
) -> None:
    double.faces = 2
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        assert selected(client, max_faces="5") == selected(client)
        assert double.batches == [1]


def test_image_taken_whole_serves_only_the_same_option(double: EmbedderDouble, redis: RedisServer) -> None:
    double.faces = 1
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        one = selected(client, faces="whole")
        assert ([face.whole for face in one.faces], one.faces_found) == ([True], 1)
        found = selected(client)
        assert [face.whole for face in found.faces] == [False]
        assert selected(client, faces="found-or-whole") == found
        assert selected(client, faces="whole") == one
        assert double.queries == [{"faces": "whole"}, {}]


def test_whole_image_instead_of_no_face_is_cached_for_its_own_option(
    double: EmbedderDouble, redis: RedisServer
) -> None:
    double.faces = 0
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        assert selected(client).faces == []
        one = selected(client, faces="found-or-whole")
        assert ([face.whole for face in one.faces], one.faces_found) == ([True], 0)
        assert selected(client, faces="found-or-whole") == one
        assert selected(client).faces == []
        assert double.queries == [{}, {"faces": "found-or-whole"}]


def test_found_faces_are_cached_for_both_options(double: EmbedderDouble, redis: RedisServer) -> None:
    double.faces = 2
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        either = selected(client, faces="found-or-whole", min_face="5")
        assert selected(client) == selected(client, faces="found-or-whole") == either
        assert len(double.queries) == 1


def test_entry_that_the_containers_limit_cut_serves_only_what_it_holds(
    double: EmbedderDouble, redis: RedisServer
) -> None:
    double.faces, double.faces_found = 6, 600
    with proxy(double, redis_url=redis.url, cache_ttl=60) as client:
        every = selected(client)
        assert (len(every.faces), every.faces_found, every.truncated) == (6, 600, True)
        assert selected(client, max_faces="6").faces == every.faces
        assert double.batches == [1]
        selected(client, max_faces="7")
        selected(client, min_det_score="0.5")  # smaller faces that were suspended may pass
        assert double.queries == [{}, {"max_faces": "7"}, {"min_det_score": "0.5"}]
