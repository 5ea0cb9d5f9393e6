"""Guards before the routes of every service: keys, limits, origins and headers."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.keys import ApiKey, Scope
from agegender_service import app as service_app
from agegender_service.app import create_app
from agegender_service.guards import needs
from agegender_service.settings import UNUSABLE_SETTINGS, ServiceSettings
from fastapi import Depends, FastAPI, Request
from prometheus_client import REGISTRY
from pydantic import BaseModel, SecretStr

from tests.support.proxies import problem_of
from tests.support.redis_server import redis_server
from tests.support.serving import serving

SERVICE_SECRET = "the services' own secret"
KEYS = {scope: ApiKey.new(scope.value, [scope]) for scope in Scope}


class Wish(BaseModel):
    wish: str


def made_app(**settings: Any) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    async def ready() -> None:
        return None

    async def info() -> dict[str, Any]:
        return {}

    app = create_app(
        ServiceSettings(**settings),
        name="made",
        description="",
        scope=Scope.TRAIN,
        lifespan=lifespan,
        why_not_ready=ready,
        info=info,
        small_bodies=1024,
    )

    @app.post("/wish")
    async def wish(sent: Wish) -> Wish:
        return sent

    @app.post("/{name}/promote", dependencies=[Depends(needs(Scope.ADMIN))])
    async def promote(name: str, request: Request) -> str:
        return name

    return app


@pytest.fixture
def keyed() -> Iterator[httpx.Client]:
    keys = tuple(key for key, _ in KEYS.values())
    app = made_app(api_keys=keys, service_key=SecretStr(SERVICE_SECRET))
    with serving(app) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def anonymous() -> Iterator[httpx.Client]:
    with serving(made_app()) as url, httpx.Client(base_url=url) as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def of(scope: Scope) -> dict[str, str]:
    return bearer(KEYS[scope][1])


WISH = {"wish": "a photograph"}


def test_without_a_key_nothing_but_health_metrics_and_pages_is_answered(keyed: httpx.Client) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", "/web/key.js"):
        assert keyed.get(path).status_code == 200, path
    for method, path in (("POST", "/wish"), ("GET", "/info"), ("GET", "/absent"), ("POST", "/metrics")):
        answer = keyed.request(method, path, json=WISH)
        assert problem_of(answer) == "key-needed", path
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "secret",
    ["wrong", KEYS[Scope.TRAIN][0].sha256, "ü" * 20, "x" * 100_000],
    ids=["wrong", "hash", "no ASCII", "long"],
)
def test_wrong_key_is_401(keyed: httpx.Client, secret: str) -> None:
    header = f"Bearer {secret}".encode()[:60_000]
    answer = keyed.post("/wish", json=WISH, headers={b"Authorization": header})
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert problem_of(answer) == "key-unknown"
    assert secret not in answer.text


@pytest.mark.parametrize("header", ["", "Bearer", "Basic dXNlcjp3b3Jk"])
def test_header_without_a_key_of_ours_is_a_missing_key(keyed: httpx.Client, header: str) -> None:
    assert problem_of(keyed.post("/wish", json=WISH, headers={"Authorization": header})) == "key-needed"


def test_keys_are_rotated_without_a_request_that_fails() -> None:
    """The three steps of docs/security.md: the old key alone, both, the new one alone."""
    (old, old_secret), (new, new_secret) = (ApiKey.new("camera", [Scope.TRAIN]) for _ in range(2))
    for entries, accepted in (((old,), [200, 401]), ((old, new), [200, 200]), ((new,), [401, 200])):
        with serving(made_app(api_keys=entries, service_key=SecretStr(SERVICE_SECRET))) as url:
            answers = [
                httpx.post(f"{url}/wish", json=WISH, headers=bearer(secret))
                for secret in (old_secret, new_secret)
            ]
        assert [answer.status_code for answer in answers] == accepted
        assert all(problem_of(answer) == "key-unknown" for answer in answers if answer.status_code == 401)


def test_key_is_taken_from_either_header(keyed: httpx.Client) -> None:
    secret = KEYS[Scope.TRAIN][1]
    assert keyed.post("/wish", json=WISH, headers=bearer(secret)).json() == WISH
    assert keyed.post("/wish", json=WISH, headers={"X-API-Key": secret}).json() == WISH


def test_scopes_are_kept_apart_and_admin_has_all(keyed: httpx.Client) -> None:
    assert problem_of(keyed.post("/wish", json=WISH, headers=of(Scope.PREDICT))) == "scope-missing"
    assert problem_of(keyed.post("/x/promote", headers=of(Scope.TRAIN))) == "scope-missing"
    assert keyed.post("/x/promote", headers=of(Scope.ADMIN)).json() == "x"
    assert keyed.post("/wish", json=WISH, headers=bearer(SERVICE_SECRET)).status_code == 403
    assert keyed.get("/info", headers=of(Scope.PREDICT)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/x/promote%0A", "/x%0A/promote", "//x/promote", "/x/promote/", "/%78/promote"]
)
def test_no_spelling_of_a_path_gets_around_a_scope(keyed: httpx.Client, path: str) -> None:
    answer = keyed.post(path, headers=of(Scope.TRAIN), follow_redirects=True)
    assert answer.status_code in (403, 404), answer.text


@pytest.mark.parametrize(
    "path", ["/static/../info", "/web/%2e%2e/info", "/web/../../../keys.py", "/web/..%2f..%2fapp.py"]
)
def test_open_folders_open_nothing_else(keyed: httpx.Client, path: str) -> None:
    url = httpx.URL(str(keyed.base_url)).copy_with(raw_path=path.encode())
    assert keyed.get(url).status_code in (401, 404)


def test_pages_of_others_are_refused_where_no_key_is_asked(anonymous: httpx.Client) -> None:
    foreign = anonymous.post("/x/promote", headers={"Origin": "https://elsewhere.example"})
    assert problem_of(foreign) == "foreign-origin"
    assert problem_of(anonymous.post("/x/promote", headers={"Origin": "null"})) == "foreign-origin"
    rebound = anonymous.post("/x/promote", headers={"Host": "elsewhere.example:10004"})
    assert (rebound.status_code, problem_of(rebound)) == (421, "foreign-host")
    own = anonymous.post("/x/promote", headers={"Origin": str(anonymous.base_url).rstrip("/")})
    assert own.status_code == 200


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:10004", "embedder-proxy:10002"])
def test_names_that_cannot_be_rebound_are_taken(anonymous: httpx.Client, host: str) -> None:
    assert anonymous.get("/info", headers={"Host": host}).status_code == 200


def test_origins_are_closed_unless_named() -> None:
    origin = {"Origin": "https://example.org"}
    with serving(made_app(cors_origins="https://example.org")) as url:
        assert (
            httpx.post(f"{url}/x/promote", headers=origin).headers["access-control-allow-origin"]
            == origin["Origin"]
        )
        asked = {**origin, "Access-Control-Request-Method": "POST"}
        assert httpx.options(f"{url}/wish", headers=asked).status_code == 200
    with serving(made_app()) as url:
        assert "access-control-allow-origin" not in httpx.get(f"{url}/health/live", headers=origin).headers


def test_every_answer_forbids_browsers_to_use_it(keyed: httpx.Client) -> None:
    for path in ("/health/live", "/info", "/absent", "/docs"):
        headers = keyed.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "a/b", "<script>"])
def test_request_id_is_kept_if_it_is_short_and_plain_and_replaced_otherwise(
    anonymous: httpx.Client, given: str
) -> None:
    kept = anonymous.get("/absent", headers={"X-Request-ID": "trace-7.a_b"})
    assert kept.headers.get_list("x-request-id") == [kept.json()["request_id"]] == ["trace-7.a_b"]
    replaced = anonymous.get("/absent", headers={"X-Request-ID": given})
    (identifier,) = replaced.headers.get_list("x-request-id")
    assert replaced.json()["request_id"] == identifier and re.fullmatch("[0-9a-f]{32}", identifier)


@pytest.fixture
def patient_with_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Redis may need longer than a service waits for it, which then limits nobody."""
    monkeypatch.setattr("agegender_service.guards.TIMEOUT", 2)


@pytest.mark.usefixtures("patient_with_redis")
def test_caller_beyond_the_rate_learns_when_to_come_again(tmp_path: Path) -> None:
    keys = tuple(key for key, _ in KEYS.values())
    with redis_server(tmp_path) as redis:
        limited = made_app(
            api_keys=keys, service_key=SecretStr(SERVICE_SECRET), rate_limit="3/minute", redis_url=redis.url
        )
        with serving(limited) as url, httpx.Client(base_url=url) as client:
            answers = [client.post("/wish", json=WISH, headers=of(Scope.TRAIN)) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert problem_of(answers[3]) == "rate-limited"
            assert 1 <= int(answers[3].headers["retry-after"]) <= 60
            assert (
                client.post("/wish", json=WISH, headers=of(Scope.ADMIN)).status_code == 200
            )  # its own count
            services = [client.get("/info", headers=bearer(SERVICE_SECRET)) for _ in range(5)]
            assert {answer.status_code for answer in services} == {200}
            assert client.get("/health/live").status_code == 200


@pytest.mark.usefixtures("patient_with_redis")
def test_address_that_shows_wrong_keys_must_wait_and_a_right_key_of_it_is_answered(
    tmp_path: Path,
) -> None:
    keys = tuple(key for key, _ in KEYS.values())
    with redis_server(tmp_path) as redis:
        limited = made_app(
            api_keys=keys,
            service_key=SecretStr(SERVICE_SECRET),
            wrong_key_limit="3/minute",
            redis_url=redis.url,
        )
        with serving(limited) as url, httpx.Client(base_url=url) as client:
            wrong = [client.get("/info", headers=bearer(f"guess {number}")) for number in range(3)]
            refused = [client.get("/info", headers=bearer("guess 4")), client.get("/info")]
            assert [answer.status_code for answer in wrong] == [401] * 3
            assert [problem_of(answer) for answer in refused] == ["rate-limited"] * 2
            assert 1 <= int(refused[0].headers["retry-after"]) <= 60
            assert client.get("/info", headers=of(Scope.TRAIN)).status_code == 200
            assert client.get("/health/live").status_code == 200
            elsewhere = httpx.HTTPTransport(local_address="127.0.0.77")
            with httpx.Client(base_url=url, transport=elsewhere) as other:
                assert other.get("/info").status_code == 401
            redis.hang()
            assert [client.get("/info").status_code for _ in range(3)] == [401] * 3
            assert client.get("/info", headers=of(Scope.TRAIN)).status_code == 200


def failed_redis_calls() -> float:
    return REGISTRY.get_sample_value("rate_limit_errors_total") or 0


@pytest.mark.usefixtures("patient_with_redis")
def test_redis_that_hangs_or_is_gone_limits_nobody_and_delays_once(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        limited = made_app(service_key=SecretStr(SERVICE_SECRET), rate_limit="1/hour", redis_url=redis.url)
        with serving(limited) as url, httpx.Client(base_url=url) as client:
            assert client.get("/info").status_code == 200
            assert client.get("/info").status_code == 429
            redis.hang()
            before = failed_redis_calls()
            assert [client.get("/info").status_code for _ in range(5)] == [200] * 5
            assert 1 <= failed_redis_calls() - before <= 2  # one, unless five seconds have passed
    nowhere = "redis://127.0.0.1:9/0"
    limited = made_app(service_key=SecretStr(SERVICE_SECRET), rate_limit="1/hour", redis_url=nowhere)
    with serving(limited) as url:
        assert [httpx.get(f"{url}/info").status_code for _ in range(3)] == [200] * 3


def test_body_beyond_the_limit_is_refused_before_it_is_read(anonymous: httpx.Client) -> None:
    assert problem_of(anonymous.post("/wish", json={"wish": "x" * 2000})) == "body-too-large"

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1000

    try:
        answer = anonymous.post("/wish", content=endless())
        assert answer.status_code == 413
    except httpx.WriteError:  # the connection was closed while we were still sending
        pass


def test_connections_without_a_whole_head_are_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(service_app, "HEAD_SECONDS", 0.5)
    with serving(made_app(), http=service_app.BoundedHeads) as url:
        port = int(url.rsplit(":", 1)[1])
        for begun in (b"", b"GET /info HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            with socket.create_connection(("127.0.0.1", port)) as slow:
                slow.settimeout(5)
                slow.sendall(begun)
                assert slow.recv(1) == b""
        with socket.create_connection(("127.0.0.1", port)) as large, pytest.raises(OSError):
            large.settimeout(5)
            large.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n")
            for number in range(100_000):
                large.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        with httpx.Client(base_url=url) as client:  # kept alive for longer than a head may take
            for _ in range(2):
                assert client.get("/info").status_code == 200
                time.sleep(0.7)


@pytest.mark.parametrize("service", ["predictor", "embedder_proxy", "trainer", "embedder"])
def test_service_refuses_to_serve_strangers_without_keys(service: str, tmp_path: Path) -> None:
    environment = {"HOST": "0.0.0.0", "DATA_DIR": str(tmp_path), "PORT": "0"}

    done = subprocess.run(
        [sys.executable, "-m", service],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == UNUSABLE_SETTINGS
    assert "not started" in done.stderr and "API_KEYS" in done.stderr
