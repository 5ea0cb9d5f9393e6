"""A managed Redis by URL: TLS with a certificate that is checked, Debian's Redis 7, user and password."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from trainer.settings import TrainerSettings

from tests.support.embedder_double import EmbedderDouble
from tests.support.proxies import picture, post, proxy
from tests.support.serving import free_port, until
from tests.support.trainer_processes import REQUEST, Trainer
from tools import installation

PASSWORD = "a managed password"

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="no Redis with TLS: apt-get install --no-install-recommends redis-server",
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `localhost`, with its key beside it."""
    path = tmp_path_factory.mktemp("tls") / "redis.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2",
         "-out", str(path), "-keyout", str(path.with_suffix(".key"))],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return path


@pytest.fixture
def port(certificate: Path, tmp_path: Path) -> Iterator[int]:
    port = free_port()
    options = {
        "port": "0",
        "tls-port": str(port),
        "bind": "127.0.0.1",
        "dir": str(tmp_path),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(certificate.with_suffix(".key")),
        "tls-ca-cert-file": str(certificate),
        "tls-auth-clients": "no",
        "requirepass": PASSWORD,
        "maxmemory": "64mb",
    }
    command = ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = redis.Redis("localhost", port, password=PASSWORD, ssl=True, ssl_ca_certs=str(certificate))

    def answers() -> bool:
        with suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    try:
        until(answers, "Redis answers over TLS")
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def url(port: int, certificate: Path) -> str:
    return f"rediss://default@localhost:{port}/0?ssl_ca_certs={certificate}"


def test_training_runs_over_tls(url: str, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, url, free_port(), REDIS_PASSWORD=PASSWORD)
    try:
        trainer.start_api()
        trainer.start("trainer.worker")
        trainer.wait(trainer.create(REQUEST))
        assert "trainer_redis_memory_limit_bytes 6.7108864e+07" in trainer.http.get("/metrics").text
    finally:
        trainer.stop()


def test_faces_are_cached_over_tls(url: str) -> None:
    double = EmbedderDouble()
    cache = {"redis_url": url, "redis_password": PASSWORD, "cache_ttl": 60, "cache_timeout": 20}
    with double.served(), proxy(double, **cache) as client:
        first, again = post(client, picture()), post(client, picture())
    assert first.json() == again.json() and double.batches == [1]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_certificate_must_be_trusted_and_for_this_host(
    port: int, certificate: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the authority, and with it for an address that the certificate does not name."""
    query = "" if host == "localhost" else f"?ssl_ca_certs={certificate}"
    settings = TrainerSettings(redis_url=f"rediss://:word@{host}:{port}/0{query}")
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        redis.Redis.from_url(settings.redis_url).ping()
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    assert "CERTIFICATE_VERIFY_FAILED" in installation.own_redis().what


def test_doctor_reads_the_authority_as_the_services_do(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    assert installation.own_redis().good, installation.own_redis()
