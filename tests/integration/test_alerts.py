"""The alert rules: Prometheus takes them, each fires for its cause only, and each leads into the run book."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client import generate_latest

from relay.telemetry import METRICS, Telemetry
from tests.support import documents
from tests.support.servers.prometheus import program

if TYPE_CHECKING:
    from pathlib import Path

RULES = documents.ROOT / "deploy/monitoring/alerts.yaml"
TESTS = documents.ROOT / "tests/integration/alerts.promtool.yaml"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]


def promtool(*arguments: object, text: str = "") -> str:
    """Run promtool; returns its output, and fails with it if it complains."""
    command = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_takes_the_rules() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_for_its_cause_and_is_quiet_otherwise(tmp_path: Path) -> None:
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            # promtool compares them word by word.
            del rule["annotations"]
    (tmp_path / "alerts.yaml").write_text(json.dumps(rules))
    (tmp_path / "tests.yaml").write_text(TESTS.read_text())
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "tests.yaml")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_is_tried_in_both_ways(alert: dict[str, Any]) -> None:
    tried = [
        bool(each.get("exp_alerts"))
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for each in test["alert_rule_test"]
        if each["alertname"] == alert["alert"]
    ]
    assert set(tried) == {True, False}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_has_a_severity_a_summary_and_a_heading_of_the_run_book(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    annotations = alert["annotations"]
    assert annotations["summary"].endswith(".")
    assert annotations["description"].endswith(".")
    # The chapter has the same link, and a test of all documents follows it.
    assert annotations["runbook_url"].startswith("RUNBOOK.md#")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_asks_for_metrics_that_there_are(alert: dict[str, Any]) -> None:
    named = set(re.findall(r"\brelay_(\w+)", alert["expr"]))
    assert named
    assert named <= METRICS.keys()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_is_in_the_chapter_on_observability(alert: dict[str, Any]) -> None:
    anchor = alert["annotations"]["runbook_url"]
    (row,) = re.findall(rf"^\| `{alert['alert']}` \|.*$", documents.page("deploy/OBSERVABILITY.md"), re.MULTILINE)
    assert f"]({anchor})" in row
    assert alert["labels"]["severity"] in row


def test_the_manifests_have_the_same_rules() -> None:
    chart = documents.ROOT / "deploy/helm/outbox-relay/files/alerts.yaml"
    assert chart.read_text() == RULES.read_text(), f"copy {RULES.name} to {chart}"
    resource = yaml.safe_load(documents.page("deploy/kubernetes/components/monitoring/prometheus-rule.yaml"))
    assert resource["spec"] == yaml.safe_load(RULES.read_text())


def test_the_metrics_are_as_prometheus_wants_them() -> None:
    telemetry = Telemetry()
    telemetry.emit("service.started", version="1", replica="one")
    telemetry.expect("topic", "orders")
    promtool("check", "metrics", text=generate_latest(telemetry.registry).decode())
