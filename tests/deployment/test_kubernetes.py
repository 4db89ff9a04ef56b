"""The manifests against Kubernetes' own schemas, the compose file and the code. No cluster is needed."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from redis.asyncio import Redis

from services.embedding.metrics import Metrics
from services.generation.jobs.status import Status
from services.generation.jobs.store import JobStore
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import load_all_tasks
from shared.stream import PairStream
from tests.support.deployment_files import OWN, ROOT, compose, stages, variables_of

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.31.0", "1.37.0")
"""The oldest with every field that is used, and the newest that the package knows."""
ENGINE_STOPS_WITHIN_S = 30
DOCUMENTS: list[dict[str, Any]] = [
    document
    for file in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
    if document["kind"] != "Kustomization"
]
PLAIN = [document for document in DOCUMENTS if document["kind"] != "ScaledObject"]


def named(kind: str, name: str) -> dict[str, Any]:
    (document,) = [d for d in DOCUMENTS if d["kind"] == kind and d["metadata"]["name"] == name]
    return document


def workload(name: str) -> dict[str, Any]:
    """The Deployment or StatefulSet of a service."""
    return named("StatefulSet" if name in ("redis", "trainer") else "Deployment", name)


def pod(name: str) -> dict[str, Any]:
    return dict(workload(name)["spec"]["template"]["spec"])


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    return dict(only)


def environment(name: str) -> dict[str, str]:
    """What the container gets: the common settings, and its own."""
    (source,) = container(name)["envFrom"]
    common = named("ConfigMap", source["configMapRef"]["name"])["data"]
    return {**common, **{entry["name"]: entry["value"] for entry in container(name)["env"]}}


def identity(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", PLAIN, ids=identity)
def test_it_is_what_kubernetes_takes(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_find_what_is_wrong() -> None:
    wrong = json.loads(json.dumps(workload("embedding")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_manifest_is_applied() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in FOLDER.glob("*.yaml"))
    for document in DOCUMENTS:
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "pairwright"


@pytest.mark.parametrize("name", OWN)
def test_a_pod_runs_what_compose_runs(name: str) -> None:
    composed = compose()["services"][name]
    assert container(name)["image"] == composed["image"]
    assert container(name)["args"] == composed["command"]
    ours = {variable for variable in environment(name) if variable.startswith("PAIRWRIGHT_")}
    assert ours <= variables_of(name)
    chosen_there = {"PAIRWRIGHT_SECRETS", "HF_TOKEN_PATH", "CUDA_VISIBLE_DEVICES"}
    same = {variable: value for variable, value in composed["environment"].items() if variable not in chosen_there}
    assert same.items() <= environment(name).items()
    assert pod(name)["securityContext"]["runAsUser"] == int(stages()[name].all("USER")[-1].split(":")[0])


def test_redis_is_the_one_of_compose() -> None:
    composed = compose()["services"]["redis"]
    assert container("redis")["image"] == composed["image"]
    assert container("redis")["args"] == composed["command"]
    assert workload("redis")["spec"]["replicas"] == 1
    (place,) = container("redis")["volumeMounts"]
    assert place["mountPath"] == "/data"
    assert environment("trainer")["PAIRWRIGHT_REDIS_URL"] == "redis://redis:6379/0"
    assert named("Service", "redis")["spec"]["ports"][0]["port"] == 6379


@pytest.mark.parametrize("name", ["redis", *OWN])
def test_pods_are_fenced_in(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["runAsUser"] > 0
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(name)["automountServiceAccountToken"] is False
    assert pod(name)["enableServiceLinks"] is False, "they would set PAIRWRIGHT_..._PORT to an address"
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container(name)["resources"]["limits"]
    assert "readinessProbe" in container(name)


@pytest.mark.parametrize("name", OWN)
def test_whatever_is_written_has_a_place(name: str) -> None:
    volumes = {volume["name"] for volume in pod(name)["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in workload(name)["spec"].get("volumeClaimTemplates", [])}
    places = {mount["mountPath"]: mount["name"] for mount in container(name)["volumeMounts"]}
    assert set(places.values()) == volumes
    for target in compose()["services"][name].get("volumes", []):
        path = target.split(":")[1]
        assert any(Path(path).is_relative_to(place) for place in places), path
    assert "/tmp" in places
    secrets = environment(name)["PAIRWRIGHT_SECRETS"]
    assert places[secrets] == "secrets"
    assert Path(environment(name)["HF_TOKEN_PATH"]).parent == Path(secrets)


@pytest.mark.parametrize("name", OWN)
def test_services_are_probed_and_scraped(name: str) -> None:
    port = int(environment(name)[f"PAIRWRIGHT_{name.upper()}_PORT"])
    assert container(name)["ports"] == [{"name": "http", "containerPort": port}]
    annotations = workload(name)["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == (str(port), "/metrics")
    expected = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert {probe: container(name)[probe]["httpGet"]["path"] for probe in expected} == expected
    assert {container(name)[probe]["httpGet"]["port"] for probe in expected} == {"http"}


@pytest.mark.parametrize("name", ["generation", "embedding"])
def test_http_services_are_reached_and_drained(name: str) -> None:
    prefix = f"PAIRWRIGHT_{name.upper()}_"
    port = int(environment(name)[f"{prefix}PORT"])
    service = named("Service", name)["spec"]
    assert service["ports"] == [{"name": "http", "port": port, "targetPort": "http"}]
    labels = workload(name)["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    before = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(environment(name)[f"{prefix}DRAIN_SECONDS"])
    assert pod(name)["terminationGracePeriodSeconds"] > before + drain + ENGINE_STOPS_WITHIN_S
    budget = named("PodDisruptionBudget", name)["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert "replicas" not in workload(name)["spec"], "an autoscaler sets them"


def test_the_trainer_is_one() -> None:
    assert workload("trainer")["spec"]["replicas"] == 1


def test_everybody_who_needs_redis_may_reach_it() -> None:
    (rule,) = named("NetworkPolicy", "redis")["spec"]["ingress"]
    allowed = rule["from"][0]["podSelector"]["matchLabels"]
    for name in OWN:
        assert allowed.items() <= workload(name)["spec"]["template"]["metadata"]["labels"].items()


def test_embedding_is_scaled_by_a_metric_that_it_has() -> None:
    scaler = named("HorizontalPodAutoscaler", "embedding")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "embedding"
    (metric,) = [metric["pods"]["metric"]["name"] for metric in scaler["metrics"] if metric["type"] == "Pods"]
    registry = CollectorRegistry()
    Metrics(registry)
    assert f"# TYPE {metric} gauge" in generate_latest(registry).decode()
    assert scaler["minReplicas"] > named("PodDisruptionBudget", "embedding")["spec"]["minAvailable"]


def triggers() -> dict[str, dict[str, str]]:
    """What KEDA asks for, by its name in the formula."""
    return {trigger["name"]: trigger["metadata"] for trigger in named("ScaledObject", "generation")["spec"]["triggers"]}


def test_generation_is_scaled_by_jobs_and_backlog() -> None:
    scaled = named("ScaledObject", "generation")
    schema = json.loads(Path(__file__).with_name("scaled_object.schema.json").read_text())
    jsonschema.validate(scaled, schema)
    spec = scaled["spec"]
    assert spec["scaleTargetRef"]["name"] == workload("generation")["metadata"]["name"]
    formula = spec["advanced"]["scalingModifiers"]["formula"]
    assert set(re.findall(r"[a-z]+", formula)) == set(triggers())
    assert all(metadata["address"] == "redis.pairwright.svc:6379" for metadata in triggers().values())
    limit = int(OWN["generation"].model_fields["max_backlog"].default)
    assert limit / 2 < int(re.findall(r"\d+", formula)[0]) < limit
    assert named("ConfigMap", "settings")["data"]["PAIRWRIGHT_DATASET"] == "default"


@pytest.mark.anyio
async def test_the_keys_that_keda_counts_hold_jobs_and_pairs(redis: Redis, dataset: str) -> None:
    jobs, stream = (
        triggers()[name][key].replace("{default}", f"{{{dataset}}}")
        for name, key in (("jobs", "listName"), ("backlog", "stream"))
    )
    store = JobStore(redis, dataset, keep_s=60)
    await store.create(Plan(num_inputs=1).resolve(load_all_tasks(None)), Status(id="one"), None, 10)
    assert await redis.type(jobs) == "set"
    assert await redis.scard(jobs) == 1
    assert PairStream(redis, dataset, 10).key == stream
