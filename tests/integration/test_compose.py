"""The compose file: what the specification's own loader and the relay make of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from relay.settings import Settings
from tests.support.go_tools import go_tool

pytestmark = pytest.mark.proof

FILE = Path(__file__).parents[2] / "deploy/compose.yaml"


def load(file: Path) -> subprocess.CompletedProcess[str]:
    """Load a file as compose does, which refuses what it does not know."""
    # The loader takes paths from where it runs, compose from where the file is.
    line = [go_tool("compose-spec"), "-format", "json", file.name]
    return subprocess.run(line, cwd=file.parent, capture_output=True, text=True)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    done = load(FILE)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def services(project: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = project["services"]
    return found


def test_the_loader_of_the_specification_takes_it(services: dict[str, Any]) -> None:
    assert services.keys() == {"postgres", "kafka", "topics", "migrate", "relay", "prometheus", "grafana"}


def test_the_loader_would_notice_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("read_only:", "readonly:"))
    done = load(wrong)
    assert done.returncode != 0
    assert "readonly" in done.stderr + done.stdout


def test_the_relay_takes_its_settings_and_reaches_what_is_there(services: dict[str, Any]) -> None:
    relay = services["relay"]
    settings = Settings.load(relay["environment"])
    assert settings.kafka.bootstrap_servers.partition(":")[0] in services
    assert "@postgres:" in settings.postgres.dsn.get_secret_value()
    password = services["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert f":{password}@" in settings.postgres.dsn.get_secret_value()


def test_the_relay_runs_without_rights_and_waits_for_the_migration(services: dict[str, Any]) -> None:
    relay, migrate = services["relay"], services["migrate"]
    for each in (relay, migrate):
        assert each["read_only"]
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]
    assert migrate["command"] == ["migrate"]
    assert relay["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert relay["healthcheck"]["test"] == ["CMD", "relay", "health"]


def test_prometheus_and_grafana_have_the_rules_the_dashboard_and_each_other(project: dict[str, Any]) -> None:
    yaml = pytest.importorskip("yaml")
    services, configs = project["services"], project["configs"]
    used = {each["source"] for name in ("prometheus", "grafana") for each in services[name]["configs"]}
    assert used == configs.keys()
    for name in ("alerts", "dashboard"):
        assert Path(configs[name]["file"]).is_file(), configs[name]
    prometheus = yaml.safe_load(configs["prometheus"]["content"])
    targets = {each["source"]: each["target"] for each in services["prometheus"]["configs"]}
    assert targets["alerts"] == f"/etc/prometheus/{prometheus['rule_files'][0]}"
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == ["relay:8080"]
    (source,) = yaml.safe_load(configs["grafana-datasource"]["content"])["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load(configs["grafana-dashboards"]["content"])["providers"]
    (shown,) = (each["target"] for each in services["grafana"]["configs"] if each["source"] == "dashboard")
    assert shown.startswith(f"{provider['options']['path']}/")
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == shown


def test_nothing_listens_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) >= 5
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
