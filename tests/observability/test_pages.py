"""The page of metrics, the alert rules, the runbook and the dashboard agree with the code and with each other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.metrics_page import PAGE, page
from services.embedding.settings import EmbeddingSettings
from services.generation.pairs.filters import ALL, OF_A_SENTENCE1
from services.generation.settings import GenerationSettings
from services.trainer.settings import TrainerSettings
from tests.support.vocabulary import names_in, sample_names, used_on_the_page

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "observability"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


@pytest.fixture(scope="module")
def names() -> set[str]:
    return sample_names(used_on_the_page())


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return dict(json.loads((DEPLOY / "grafana" / "dashboards" / "pairwright.json").read_text()))


def test_the_page_of_metrics_is_what_the_code_declares() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `.venv/bin/python -m scripts.metrics_page`"


def test_one_vocabulary() -> None:
    for name, kind in used_on_the_page().items():
        assert re.match(r"pairwright_(http|generation|trainer|embedding)_|process_|te_", name)
        assert name.endswith("_total") == (kind == "counter")


def test_names_are_found_in_queries_and_only_they() -> None:
    query = 'sum by (le) (rate(pairwright_x_bucket{route="/pairwright_y"}[5m])) / process_open_fds > 1'
    assert names_in(query) == {"pairwright_x_bucket", "process_open_fds"}


def test_each_alert_names_metrics_that_exist_and_a_place_in_the_runbook(
    rules: list[dict[str, Any]], names: set[str]
) -> None:
    headings = re.findall(r"^## (\S+)$", RUNBOOK, re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules]
    assert len(set(headings)) == len(headings)
    for rule in rules:
        used = names_in(rule["expr"])
        assert used <= names
        assert used or "up{" in rule["expr"]
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_the_runbook_names_settings_that_exist() -> None:
    example = (ROOT / ".env.example").read_text()
    for setting in set(re.findall(r"PAIRWRIGHT_[A-Z_]+[A-Z]", RUNBOOK)):
        assert f"#{setting}=" in example or setting in ("PAIRWRIGHT_HOME", "PAIRWRIGHT_REDIS_URL")


def test_the_runbook_names_reasons_that_are_counted() -> None:
    [section] = re.findall(r"^## PairwrightSamplesRejected$(.*?)^## ", RUNBOOK, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([a-z_]+)`", section))
    assert {"duplicate", "copy"} <= named <= {*ALL, *OF_A_SENTENCE1, "duplicate"}


def test_each_panel_asks_for_metrics_that_exist_of_the_source_that_is_provisioned(
    dashboard: dict[str, Any], names: set[str]
) -> None:
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert {panel["datasource"]["uid"], target["datasource"]["uid"]} <= {one["uid"] for one in sources}
            used = names_in(target["expr"])
            assert used <= names
            assert used or "up{" in target["expr"]


def test_no_two_panels_lie_on_one_another_or_past_the_edge(dashboard: dict[str, Any]) -> None:
    occupied: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in dashboard["panels"]):
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & occupied
        assert place["x"] + place["w"] <= 24
        occupied |= cells


def test_prometheus_asks_each_service_where_it_answers() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert [DEPLOY / file for file in config["rule_files"]] == [DEPLOY / "rules.yml"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    ports = {
        "generation": GenerationSettings.model_fields["port"].default,
        "trainer": TrainerSettings.model_fields["port"].default,
        "embedding": EmbeddingSettings.model_fields["port"].default,
    }
    assert targets == {f"pairwright-{service}": [f"{service}:{port}"] for service, port in ports.items()}
