"""The examples of deploy/ for nginx and Caddy: the real servers in front of a predictor and a trainer."""

import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from trainer.app import create_trainer
from trainer.experiments.experiment import save_experiment
from trainer.settings import TrainerSettings
from trainer.training.config import TrainingOptions

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.made_experiment import made_experiment
from tests.support.made_heads import promoted_heads
from tests.support.redis_server import redis_server
from tests.support.serving import free_port, serving, until
from tools.stack import ROOT

NAMES = ("faces.example.org", "trainer.example.org")
LIMIT = 5  # requests a minute


@dataclass(frozen=True)
class Front:
    """A reverse proxy with TLS on `port`; `certificate` signs both names."""

    port: int
    certificate: Path

    def client(self, name: str, address: str = "127.0.0.1") -> httpx.Client:
        """Return a client that asks for `name` from a loopback address of its own."""
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        transport = httpx.HTTPTransport(verify=trusted, local_address=address)
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            headers={"Host": name},
            transport=transport,
            timeout=20,
            event_hooks={"request": [lambda request: request.extensions.update(sni_hostname=name)]},
        )


def certificate(directory: Path) -> tuple[Path, Path]:
    paths = directory / "fullchain.pem", directory / "privkey.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    names = ",".join(f"DNS:{name}" for name in NAMES)
    subject = ["-subj", f"/CN={NAMES[0]}", "-addext", f"subjectAltName={names}", "-days", "2"]
    files = ["-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True, timeout=60)
    return paths


def nginx(directory: Path, port: int, predictor: str, trainer: str, chain: Path, key: Path) -> list[str]:
    config = (ROOT / "deploy" / "nginx" / "age-gender.conf").read_text()
    for old, new in {
        "listen 443": f"listen 127.0.0.1:{port}",
        "http://127.0.0.1:10003": predictor,
        "http://127.0.0.1:10004": trainer,
        "/etc/nginx/tls/fullchain.pem": str(chain),
        "/etc/nginx/tls/privkey.pem": str(key),
    }.items():
        assert old in config
        config = config.replace(old, new)
    places = "".join(
        f"{kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = directory / "nginx.conf"
    main.write_text(
        f"daemon off;\nuser root;\npid {directory}/nginx.pid;\nerror_log {directory}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}{config}\n}}\n"
    )
    return ["nginx", "-c", str(main), "-p", str(directory), "-e", f"{directory}/error.log"]


def caddy(directory: Path, port: int, predictor: str, trainer: str, chain: Path, key: Path) -> list[str]:
    config = (ROOT / "deploy" / "caddy" / "Caddyfile").read_text()
    for name, upstream, ours in zip(
        NAMES, ("127.0.0.1:10003", "127.0.0.1:10004"), (predictor, trainer), strict=True
    ):
        assert f"{name} {{" in config
        config = config.replace(
            f"{name} {{", f"https://{name}:{port} {{\n\tbind 127.0.0.1\n\ttls {chain} {key}"
        )
        assert upstream in config
        config = config.replace(upstream, ours.removeprefix("http://"))
    options = "{\n\tadmin off\n\tauto_https off\n}\n"
    file = directory / "Caddyfile"
    file.write_text(options + config)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "HOME": str(log.parent)}
        )

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            httpx.get(f"http://127.0.0.1:{port}", timeout=5)
        except httpx.ConnectError:
            return False
        except httpx.HTTPError:
            return True
        return True

    try:
        until(listens, f"{command[0]} listens", 20, every=0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)  # an abandoned event stream must not keep the server


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    server: str = request.param
    if shutil.which(server) is None:
        pytest.skip(f"no {server}: apt-get install --no-install-recommends nginx-light caddy")
    directory = tmp_path_factory.mktemp(server)
    chain, key = certificate(directory)
    promoted_heads(directory / "models", SPACE)
    save_experiment(directory, made_experiment([0], TrainingOptions(), name="waiting"))
    with redis_server(directory) as redis, EmbedderDouble().served() as double:
        shared: dict[str, Any] = {
            "data_dir": directory,
            "redis_url": redis.url,
            "allowed_hosts": list(NAMES),
            "service_key": "k" * 64,
            "rate_limit": f"{LIMIT}/minute",
        }
        predictor_settings = PredictorSettings(
            **shared, heads_dir=directory / "shipped", proxy_url=double.url, poll_interval=0.1
        )
        with (
            serving(create_predictor(predictor_settings)) as predictor,
            serving(create_trainer(TrainerSettings(**shared))) as trainer,
        ):
            make = {"nginx": nginx, "caddy": caddy}[server]
            port = free_port()
            command = make(directory, port, predictor, trainer, chain, key)
            with running(command, port, directory / f"{server}.log"):
                yield Front(port, chain)


def test_an_image_is_answered_over_tls(front: Front) -> None:
    with front.client(NAMES[0], "127.0.1.1") as client:
        answer = client.post("/age-gender", content=b"an image", headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["images"][0]["faces"]) == 1


def test_a_body_of_several_megabytes_passes_and_one_above_the_limit_does_not(front: Front) -> None:
    with front.client(NAMES[0], "127.0.1.2") as client:
        headers = {"Content-Type": "image/jpeg"}
        assert client.post("/age-gender", content=b"x" * 15_000_000, headers=headers).status_code == 200
        try:
            refused = client.post("/age-gender", content=b"x" * 106_000_000, headers=headers).status_code
        except httpx.TransportError:  # the server may close while the body is still being sent
            refused = 413
    assert refused == 413


def test_a_data_set_of_several_megabytes_is_uploaded(front: Front) -> None:
    files = [("file", (f"{number}.jpg", bytes(6_000_000))) for number in range(3)]
    with front.client(NAMES[1], "127.0.1.6") as client:
        answer = client.post("/datasets/uploaded/files", files=files)
    assert answer.status_code == 201 and answer.json()["images"] == 3, answer.text


def test_callers_have_rate_limits_of_their_own_and_cannot_forge_their_address(front: Front) -> None:
    def statuses(address: str) -> list[int]:
        with front.client(NAMES[0], address) as client:
            forged = [{"X-Forwarded-For": f"10.9.8.{number}"} for number in range(LIMIT + 2)]
            return [client.get("/models", headers=headers).status_code for headers in forged]

    assert statuses("127.0.1.3") == [200] * LIMIT + [429] * 2
    assert statuses("127.0.1.4") == [200] * LIMIT + [429] * 2


def test_server_sent_events_arrive_before_the_stream_ends(front: Front) -> None:
    with (
        front.client(NAMES[1], "127.0.1.5") as client,
        client.stream("GET", "/experiments/waiting/events") as answer,
    ):
        assert answer.status_code == 200
        started = time.monotonic()
        data = next(line for line in answer.iter_lines() if line.startswith("data:"))
    assert '"queued"' in data
    assert time.monotonic() - started < 5
