"""The manifests of a Ray cluster against Kubernetes' schemas, KubeRay's fields, the pins and the command line."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from services.generation.commands.options import Options, parse
from tests.support.deployment_files import ROOT, compose, stages, variables_of

FOLDER = ROOT / "deploy" / "kubernetes" / "ray"
DOCUMENTS: dict[str, dict[str, Any]] = {
    document["kind"]: document
    for file in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
}
CLUSTERS = {"RayCluster": DOCUMENTS["RayCluster"]["spec"], "RayJob": DOCUMENTS["RayJob"]["spec"]["rayClusterSpec"]}
SCHEMA = json.loads(Path(__file__).with_name("kuberay.schema.json").read_text())


def templates(kind: str) -> dict[str, dict[str, Any]]:
    """The pods of a cluster, by what they are."""
    cluster = CLUSTERS[kind]
    (workers,) = cluster["workerGroupSpecs"]
    return {"head": cluster["headGroupSpec"]["template"], "worker": workers["template"]}


@pytest.mark.parametrize("kind", CLUSTERS)
def test_kuberay_knows_every_field(kind: str) -> None:
    jsonschema.validate(DOCUMENTS[kind], SCHEMA)
    wrong = json.loads(json.dumps(DOCUMENTS[kind]).replace("workerGroupSpecs", "workerGroupSpec"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


@pytest.mark.slow
def test_kubernetes_takes_pods_claim_and_policy() -> None:
    plain = [document for kind, document in DOCUMENTS.items() if kind not in CLUSTERS]
    assert {document["kind"] for document in plain} == {"PersistentVolumeClaim", "NetworkPolicy"}
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]}, "spec": template["spec"]}
        for kind in CLUSTERS
        for template in templates(kind).values()
    ]
    for document in [*plain, *pods]:
        for version in ("1.31.0", "1.37.0"):
            kubernetes_validate.validate(document, version, strict=True)
    assert all(document["metadata"]["namespace"] == "pairwright" for document in DOCUMENTS.values())


def test_the_job_s_cluster_is_the_other_one() -> None:
    assert CLUSTERS["RayJob"] == CLUSTERS["RayCluster"]
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert CLUSTERS["RayJob"]["rayVersion"] == pinned[1]


def test_the_job_runs_a_command_that_there_is() -> None:
    words = shlex.split(DOCUMENTS["RayJob"]["spec"]["entrypoint"])
    assert words[:3] == ["python3", "-m", "services.generation"]
    options = parse(words[3:])
    assert isinstance(options, Options)
    assert options.cluster is not None
    assert options.cluster.address == "auto"
    places = [mount["mountPath"] for mount in templates("RayJob")["worker"]["spec"]["containers"][0]["volumeMounts"]]
    for path in (options.cluster.out, str(options.cluster.inputs)):
        assert any(Path(path).is_relative_to(place) for place in places)


@pytest.mark.parametrize("name", ["head", "worker"])
def test_pods_are_those_of_compose_and_fenced_in(name: str) -> None:
    spec = templates("RayJob")[name]["spec"]
    (container,) = spec["containers"]
    composed = compose()["services"][f"ray-{name}"]
    assert container["image"] == composed["image"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    ours = {variable for variable in environment if variable.startswith("PAIRWRIGHT_")}
    assert ours <= variables_of("generation")
    same = set(environment) & set(composed["environment"])
    assert {variable: environment[variable] for variable in same} == {
        variable: composed["environment"][variable] for variable in same
    }
    assert "RAY_worker_niceness" in same
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsUser"] == int(stages()["generation"].all("USER")[-1].split(":")[0])
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert "memory" in container["resources"]["limits"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    claim = next(volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume)
    assert claim["persistentVolumeClaim"]["claimName"] == DOCUMENTS["PersistentVolumeClaim"]["metadata"]["name"]


def test_nobody_else_reaches_ray() -> None:
    policy = DOCUMENTS["NetworkPolicy"]["spec"]
    for template in templates("RayJob").values():
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
