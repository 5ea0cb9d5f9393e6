"""Each promise of docker-compose.yml about its containers, asked of the containers that run."""

import ipaddress
import re

import pytest

from tests.support.compose_system import PUBLIC, ComposeSystem, docker

SERVICES = ("redis", "insightface", "embedder-proxy", "predictor", "trainer", "trainer-worker")
GIB = 1024**3
MEMORY = {"insightface": 3, "predictor": 3, "trainer": 2, "trainer-worker": 6}  # GiB; 1 for the others
SECRETS = "/run/age-gender"  # where Redis's password lies, for those that ask Redis
NETWORKS = {
    "redis": {"queue"},
    "insightface": {"faces"},
    "embedder-proxy": {"default", "faces", "queue"},
    "predictor": {"default", "queue"},
    "trainer": {"default", "queue"},
    "trainer-worker": {"queue"},
}


def inside(container: str, *words: str) -> str:
    """Return what a command in the container prints, errors too."""
    done = docker("exec", container, *words)
    return done.stdout + done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_engine_holds_the_container_to_its_limits(system: ComposeSystem, service: str) -> None:
    for container in system.containers(service):
        inspected = system.inspect(container)
        host = inspected["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Privileged"] is False
        assert host["Memory"] == MEMORY.get(service, 1) * GIB
        assert 0 < host["PidsLimit"] <= 128
        assert set(host["Tmpfs"]) == {"/tmp"}
        mounts = {mount["Destination"]: mount["RW"] for mount in inspected["Mounts"]}
        assert {path for path, writable in mounts.items() if writable} <= {"/data"}
        assert (SECRETS in mounts) == ("queue" in NETWORKS[service])
        networks = {name.rsplit("_", 1)[-1] for name in inspected["NetworkSettings"]["Networks"]}
        assert networks == NETWORKS[service]


@pytest.mark.parametrize("service", SERVICES)
def test_no_process_is_root_or_could_become_it(system: ComposeSystem, service: str) -> None:
    (container, *_) = system.containers(service)
    status = dict(
        line.split(":", 1) for line in inside(container, "cat", "/proc/1/status").splitlines() if ":" in line
    )
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert "Read-only file system" in inside(container, "touch", "/var/lib/mark")


def test_only_three_ports_are_published_and_on_this_machine_alone(system: ComposeSystem) -> None:
    for service in SERVICES:
        for container in system.containers(service):
            published = system.inspect(container)["HostConfig"]["PortBindings"] or {}
            bound = [binding for bindings in published.values() for binding in bindings]
            assert len(bound) == (1 if service in PUBLIC else 0), service
            assert all(ipaddress.ip_address(binding["HostIp"]).is_loopback for binding in bound)


def test_redis_answers_nobody_without_the_password_that_was_made_up(system: ComposeSystem) -> None:
    (redis,) = system.containers("redis")
    assert "NOAUTH" in inside(redis, "redis-cli", "ping")
    password = inside(redis, "cat", f"{SECRETS}/redis-password").strip()
    assert re.fullmatch("[0-9a-f]{64}", password)
    assert "PONG" in inside(redis, "env", f"REDISCLI_AUTH={password}", "redis-cli", "ping")
    assert password not in docker("top", redis, "-eo", "args").stdout
    assert password not in str(system.inspect(redis))


def test_what_decodes_pictures_does_not_reach_redis_and_redis_reaches_nothing(system: ComposeSystem) -> None:
    (redis,) = system.containers("redis")
    (insightface, *_) = system.containers("insightface")
    (predictor,) = system.containers("predictor")
    (address,) = (
        network["IPAddress"] for network in system.inspect(redis)["NetworkSettings"]["Networks"].values()
    )
    connect = f"import socket; socket.create_connection(({address!r}, 6379), 3); print('connected')"
    assert "connected" in inside(predictor, "python", "-c", connect)
    assert "connected" not in inside(insightface, "python", "-c", connect)
    project = system.environment["COMPOSE_PROJECT_NAME"]
    inspected = docker(
        "network", "inspect", "-f", "{{.Internal}}", f"{project}_queue", f"{project}_default"
    ).stdout
    assert inspected.split() == ["true", "false"]


def test_step_that_makes_the_volume_writable_can_do_nothing_else(system: ComposeSystem) -> None:
    """It makes up the password of Redis too."""
    (container,) = system.containers("data-init", state="exited")
    inspected = system.inspect(container)
    host = inspected["HostConfig"]
    assert inspected["State"]["ExitCode"] == 0 and not inspected["State"]["Running"]
    assert host["CapDrop"] == ["ALL"]
    assert [name.removeprefix("CAP_") for name in host["CapAdd"]] == ["CHOWN"]
    assert host["ReadonlyRootfs"] is True and host["NetworkMode"] == "none"
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] == 32 * 1024**2 and host["PidsLimit"] == 8
