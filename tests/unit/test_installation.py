"""`make doctor` checks this installation: ports, services, `.env`, the data folder, Redis and the clock."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from redis import Redis
from trainer.app import create_trainer
from trainer.settings import TrainerSettings

from tests.support.redis_server import redis_server
from tests.support.serving import serving
from tools import configuration, installation, machine
from tools.stack import free_ports


@pytest.fixture(autouse=True)
def ports_of_our_own(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Ports on which nothing listens, though `make up` may run on this machine."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    ports = free_ports()
    for name, port in ports.items():
        monkeypatch.setenv(machine.variable(name), str(port))
    return ports


@pytest.fixture
def life() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_free_ports_are_all_well(ports_of_our_own: dict[str, int]) -> None:
    found = installation.ports()
    assert found.good and all(str(port) in found.what for port in ports_of_our_own.values())


def test_running_services_are_recognised_and_not_missing(
    life: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = life.enter_context(redis_server(tmp_path))
    redis.client.config_set("requirepass", "secret")
    urls = {
        "embedder-proxy": life.enter_context(serving(create_proxy(ProxySettings(data_dir=tmp_path)))),
        "predictor": life.enter_context(serving(create_predictor(PredictorSettings(data_dir=tmp_path)))),
        "trainer": life.enter_context(serving(create_trainer(TrainerSettings(data_dir=tmp_path)))),
    }
    for name, url in urls.items():
        monkeypatch.setenv(machine.variable(name), url.rpartition(":")[2])
    monkeypatch.setenv("REDIS_PORT", str(redis.port))
    found = installation.ports()
    assert found.good, found
    assert found.what.startswith("runs here already: ")
    for name in (*urls, "redis"):
        assert f"({name})" in found.what
    assert "(embedder)" not in found.what


def test_each_service_is_recognised_by_its_own_title(tmp_path: Path) -> None:
    """The trainer on the predictor's port is another program."""
    with serving(create_trainer(TrainerSettings(data_dir=tmp_path))) as url:
        port = int(url.rpartition(":")[2])
        assert installation.runs_here("trainer", port)
        assert not any(installation.runs_here(name, port) for name in ("predictor", "embedder", "redis"))


def test_all_ports_in_use_are_listed_with_one_line_that_moves_them(
    life: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in machine.PORTS:
        monkeypatch.delenv(machine.variable(name))
    first = machine.free_range()
    monkeypatch.setenv("PORTS", str(first))
    for offset in (1, 3):
        life.enter_context(socket.create_server(("127.0.0.1", first + offset)))
    found = installation.ports()
    assert f"port {first + 1} (embedder-proxy), port {first + 3} (trainer)" in found.what
    assert found.remedy is not None and found.remedy.count("make up") == 2
    (moved,) = [word for word in found.remedy.split() if word.startswith("PORTS=")]
    monkeypatch.setenv("PORTS", moved.removeprefix("PORTS="))
    assert installation.ports().good


def test_ports_moves_all_ports_and_a_variable_of_its_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.PORTS:
        monkeypatch.delenv(machine.variable(name))
    monkeypatch.delenv("EMBEDDER_PROXY_PORT", raising=False)
    monkeypatch.setenv("PORTS", "20001")
    monkeypatch.setenv("TRAINER_PORT", "30000")
    assert machine.chosen_ports() == {
        "embedder": 20001,
        "embedder-proxy": 20002,
        "predictor": 20003,
        "trainer": 30000,
        "redis": 20005,
    }
    remedy = machine.ports_remedy({"trainer": 30000})
    assert remedy.endswith("make up, without TRAINER_PORT")


def test_variables_that_nothing_reads_are_named_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert installation.dotenv(path).good
    path.write_text("PROXY_CACHE_SECONDS=0\nexport WORKERS=2\n# NOTHING=1\nPIP_INDEX_URL=x\nVERSION=1\n")
    assert installation.dotenv(path).good, installation.dotenv(path)
    path.write_text("PROXY_CACHE_SECOND=0\nWORKER=2\nQQQQQQQQ=1\n")
    found = installation.dotenv(path)
    assert "PROXY_CACHE_SECOND, WORKER, QQQQQQQQ" in found.what
    assert found.remedy is not None
    assert "PROXY_CACHE_SECOND: did you mean PROXY_CACHE_SECONDS?" in found.remedy
    assert "WORKER: did you mean WORKERS?" in found.remedy and "QQQQQQQQ: remove it" in found.remedy


def test_known_variables_are_the_documented_ones_and_compose_s_own() -> None:
    known = installation.known_variables()
    assert configuration.documented_variables() <= known
    assert {"GRAFANA_PORT", "PROXY_CACHE_TTL", "VERSION"} <= known


def test_dotenv_is_read_as_make_up_reads_it(tmp_path: Path) -> None:
    from dotenv import dotenv_values

    path = tmp_path / ".env"
    path.write_text("A=1\nexport B='two words'\nC=\"x=y\"\n\n# D=4\nE=\n")
    assert installation.read_dotenv(path) == dotenv_values(path)


def test_data_folder_that_is_not_writable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "/proc/self")  # where not even root can make a file
    found = installation.data_folder()
    assert "/proc/self is not writable" in found.what and "belongs to user" in found.what
    assert found.remedy is not None and "chown" in found.remedy and "/proc/self" in found.remedy


def test_data_folder_that_is_still_to_be_made_is_judged_by_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "new" / "data"))
    assert "is writable" in installation.data_folder().what
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(installation, "DATA_NEEDED", 1e18)
    found = installation.data_folder()
    assert found.remedy is not None and "agegender prune" in found.remedy


def test_redis_of_ones_own_must_answer_and_evict_no_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "of its own" in installation.own_redis().what
    with redis_server(tmp_path, "--unixsocket", str(tmp_path / "r.sock")) as redis:
        redis.client.config_set("requirepass", "se:cret@1")
        admin = Redis(port=redis.port, password="se:cret@1")
        for url in (
            f"redis://:se%3Acret%401@127.0.0.1:{redis.port}/0",
            f"redis://default:se%3Acret%401@127.0.0.1:{redis.port}/0",
        ):
            monkeypatch.setenv("REDIS_URL", url)
            assert installation.own_redis().good, installation.own_redis()
        admin.config_set("maxmemory-policy", "allkeys-lru")
        found = installation.own_redis()
        assert "maxmemory-policy allkeys-lru" in found.what and "evict jobs" in str(found.remedy)
        monkeypatch.setenv("REDIS_URL", f"redis://:wrong@127.0.0.1:{redis.port}/0")
        assert "WRONGPASS" in installation.own_redis().what
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{redis.port}/0")
        monkeypatch.setenv("REDIS_PASSWORD", "se:cret@1")
        assert "allkeys-lru" in installation.own_redis().what
        monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/r.sock")
        assert "allkeys-lru" in installation.own_redis().what
    found = installation.own_redis()
    assert "does not answer" in found.what and not found.good


def test_clock_before_the_checkout_is_found() -> None:
    found = installation.clock(0.0)
    assert "1970-01-01" in found.what and "set-ntp" in str(found.remedy)


@pytest.mark.parametrize(("word", "good"), [("yes", True), ("no", False), ("", True)])
def test_clock_is_judged_by_what_systemd_says(
    word: str, good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timedatectl").write_text(f"#!/bin/sh\necho {word}\n")
    (tmp_path / "timedatectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert installation.clock().good is good
