"""The Kubernetes manifests: valid, and at one with docker-compose.yml and the settings of the services."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from agegender.environment import variables
from predictor.settings import PredictorSettings
from pydantic import ValidationError

from tools import configuration

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = ("1.30", "1.37")  # the oldest and the newest that these were checked against


@cache
def documents() -> dict[str, dict[str, Any]]:
    """`kind/name` → manifest; kustomization.yaml is kubectl's own and has no schema."""
    read = [
        document
        for file in FOLDER.glob("*.yaml")
        if file.name != "kustomization.yaml"
        for document in yaml.safe_load_all(file.read_text())
    ]
    return {f"{document['kind']}/{document['metadata']['name']}": document for document in read}


def of_kind(*kinds: str) -> dict[str, dict[str, Any]]:
    return {key.split("/")[1]: found for key, found in documents().items() if key.split("/")[0] in kinds}


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    return dict(workload["spec"]["template"]["spec"])


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(workload)["containers"]
    return dict(only)


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def kubernetes() -> Any:
    """Return the package that has Kubernetes' schemas. It compiles dozens of grammars at its import."""
    return import_module("kubernetes_validate")


WORKLOADS = tuple(of_kind("Deployment", "StatefulSet"))


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", documents())
def test_manifest_is_valid(name: str, version: str) -> None:
    kubernetes().validate(documents()[name], version, strict=True)


def test_validation_refuses_a_field_that_kubernetes_does_not_know() -> None:
    wrong = {**documents()["Deployment/predictor"], "replicaz": 1}
    with pytest.raises(kubernetes().ValidationError):
        kubernetes().validate(wrong, KUBERNETES[-1], strict=True)


def test_kustomization_applies_every_file() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(file.name for file in FOLDER.glob("*.yaml"))


def test_every_service_of_compose_runs_here_with_its_image_and_memory() -> None:
    profiled = {name for name, service in compose().items() if "profiles" in service}
    assert set(WORKLOADS) == set(compose()) - profiled - {"data-init"}  # fsGroup does what data-init does
    for name in WORKLOADS:
        in_compose, here = compose()[name], container(of_kind("Deployment", "StatefulSet")[name])
        assert here["image"] == in_compose["image"].removesuffix(":${VERSION:-latest}")  # kustomize sets tags
        assert here["resources"]["limits"]["memory"].lower() == f"{in_compose['mem_limit']}i"
        if name != "redis":
            assert here.get("command", []) == in_compose.get("command", [])


@pytest.mark.parametrize("name", WORKLOADS)
def test_container_has_no_more_rights_than_in_compose(name: str) -> None:
    workload = of_kind("Deployment", "StatefulSet")[name]
    assert pod(workload)["securityContext"]["runAsNonRoot"] is True
    assert pod(workload)["automountServiceAccountToken"] is False
    security = container(workload)["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_service_links_are_off_because_their_variables_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a service `predictor` Kubernetes would set PREDICTOR_PORT, which is a setting here."""
    assert all(
        pod(of_kind("Deployment", "StatefulSet")[name])["enableServiceLinks"] is False for name in WORKLOADS
    )
    monkeypatch.setenv("PREDICTOR_PORT", "tcp://10.0.0.1:10003")
    with pytest.raises(ValidationError):
        PredictorSettings()


def test_every_variable_is_a_setting_and_every_address_a_service() -> None:
    known = {
        variable
        for settings in configuration.SECTIONS.values()
        for name, _ in configuration.own_fields(settings)
        for variable in variables(settings, name)
    }
    for workload in of_kind("Deployment").values():
        for entry in container(workload).get("env", []):
            assert entry["name"] in known
            (host, port) = re.fullmatch(r"\w+://([a-z-]+):(\d+)(?:/0)?", entry["value"]).groups()  # type: ignore[union-attr]
            assert of_kind("Service")[host]["spec"]["ports"][0]["port"] == int(port)


def test_probes_and_services_ask_the_port_that_is_listened_on() -> None:
    for name, service in of_kind("Service").items():
        workload = of_kind("Deployment", "StatefulSet")[name]
        (listening,) = (entry["containerPort"] for entry in container(workload)["ports"])
        (asked,) = (entry["targetPort"] for entry in service["spec"]["ports"])
        assert asked == listening
        if name != "redis":
            probes = [
                container(workload)[f"{kind}Probe"]["httpGet"]
                for kind in ("startup", "liveness", "readiness")
            ]
            assert {probe["port"] for probe in probes} == {listening}
            assert {probe["path"] for probe in probes} == {"/health/live", "/health/ready"}


def test_worker_and_embedder_scale_on_the_cpu_that_they_ask_for() -> None:
    assert set(of_kind("HorizontalPodAutoscaler")) == {"trainer-worker", "insightface"}
    for name, scaler in of_kind("HorizontalPodAutoscaler").items():
        assert scaler["spec"]["scaleTargetRef"]["name"] == name
        assert scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
        resources = container(of_kind("Deployment")[name])["resources"]
        assert resources["requests"]["cpu"] == resources["limits"]["cpu"]  # so 100 % is all it can use
        assert "replicas" not in of_kind("Deployment")[name]["spec"]  # applying again would undo the scaling


def test_secret_of_the_documentation_has_what_the_manifests_read() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    for key in ("API_KEYS", "SERVICE_KEY", "REDIS_PASSWORD"):
        assert f"--from-literal={key}=" in page
    assert "kubectl apply -k deploy/kubernetes" in page
