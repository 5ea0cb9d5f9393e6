"""The manifests with which KEDA scales the workers: valid, and about the queue that the workers read."""

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from jsonschema_rs import Draft202012Validator, ValidationError
from trainer.runs.scheduler import job_queue

from tests.support.redis_server import redis_server
from tests.unit.test_kubernetes import KUBERNETES, kubernetes, of_kind
from tools.stack import ROOT

FOLDER = ROOT / "deploy" / "kubernetes" / "keda"
TEXT = {"type": "string"}
NAMED = {"type": "object", "properties": {"name": TEXT}, "required": ["name"], "additionalProperties": False}
COUNT = {"type": "integer", "minimum": 0}
# The fields of keda.sh/v1alpha1 that are used here; others are refused, which catches typing errors.
SPECS: dict[str, dict[str, Any]] = {
    "ScaledObject": {
        "type": "object",
        "properties": {
            "scaleTargetRef": NAMED,
            "minReplicaCount": COUNT,
            "maxReplicaCount": COUNT,
            "pollingInterval": COUNT,
            "advanced": {
                "type": "object",
                "properties": {"horizontalPodAutoscalerConfig": {"type": "object"}},
                "additionalProperties": False,
            },
            "triggers": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "type": {"const": "redis"},
                        "metadata": {"type": "object", "additionalProperties": TEXT},  # no numbers
                        "authenticationRef": NAMED,
                    },
                    "required": ["type", "metadata"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["scaleTargetRef", "triggers"],
        "additionalProperties": False,
    },
    "TriggerAuthentication": {
        "type": "object",
        "properties": {
            "secretTargetRef": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"parameter": TEXT, "name": TEXT, "key": TEXT},
                    "required": ["parameter", "name", "key"],
                    "additionalProperties": False,
                },
            }
        },
        "additionalProperties": False,
    },
}
MANIFESTS = {one["kind"]: one for one in yaml.safe_load_all((FOLDER / "trainer-worker.yaml").read_text())}


@pytest.mark.parametrize("kind", SPECS)
def test_manifest_of_keda_is_valid(kind: str) -> None:
    assert MANIFESTS[kind]["apiVersion"] == "keda.sh/v1alpha1"
    Draft202012Validator(SPECS[kind]).validate(MANIFESTS[kind]["spec"])
    with pytest.raises(ValidationError):
        Draft202012Validator(SPECS[kind]).validate({**MANIFESTS[kind]["spec"], "triggerz": []})


@pytest.mark.parametrize("version", KUBERNETES)
def test_its_autoscaler_and_network_policy_are_valid(version: str) -> None:
    """KEDA hands `behavior` to a HorizontalPodAutoscaler."""
    scaled = MANIFESTS["ScaledObject"]["spec"]
    ours = of_kind("HorizontalPodAutoscaler")["trainer-worker"]
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    autoscaler = {**ours, "spec": {**ours["spec"], "behavior": behavior}}
    kubernetes().validate(autoscaler, version, strict=True)
    kubernetes().validate(MANIFESTS["NetworkPolicy"], version, strict=True)


def test_list_that_keda_measures_is_the_workers_queue(tmp_path: Path) -> None:
    (trigger,) = MANIFESTS["ScaledObject"]["spec"]["triggers"]
    with redis_server(tmp_path) as server:
        queue = job_queue(server.client)
        for _ in range(3):
            queue.enqueue("trainer.jobs.train_fold", "nothing", 0)
        assert server.client.llen(trigger["metadata"]["listName"]) == 3
    worker = of_kind("Deployment")["trainer-worker"]["spec"]["template"]["spec"]["containers"][0]
    variables = {one["name"]: one.get("value") for one in worker["env"]}
    assert variables["REDIS_URL"].endswith(f"/{trigger['metadata']['databaseIndex']}")


def test_names_lead_to_what_the_other_manifests_define() -> None:
    scaled, authentication = MANIFESTS["ScaledObject"], MANIFESTS["TriggerAuthentication"]
    assert scaled["spec"]["scaleTargetRef"]["name"] in of_kind("Deployment")
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    address = trigger["metadata"]["address"]
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert address == f"redis.{kustomization['namespace']}.svc.cluster.local:6379"
    assert "redis" in of_kind("Service")
    (secret,) = authentication["spec"]["secretTargetRef"]
    assert (secret["name"], secret["key"]) == ("age-gender", "REDIS_PASSWORD")
    assert kustomization["resources"] == ["..", "trainer-worker.yaml"]
    (patch,) = (yaml.safe_load(one["patch"]) for one in kustomization["patches"])
    assert patch["$patch"] == "delete" and patch["metadata"]["name"] in of_kind("HorizontalPodAutoscaler")
