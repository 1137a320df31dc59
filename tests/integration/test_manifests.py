"""Chart and kustomizations: what they render is what Kubernetes and the relay accept, and wrong values are named."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relay import __version__
from relay.settings import Settings, StopSettings
from relay.telemetry.metrics import METRICS
from tests.integration.test_alerts import ALERTS, promtool
from tests.support.containers.pods import container_of, mounts, of_kind, pod_of, variables
from tests.support.go_tools import DEFINITIONS, go_module, go_tool

if TYPE_CHECKING:
    from tests.support.containers.pods import Resource

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/outbox-relay"
EXAMPLES = sorted((ROOT / "deploy/helm/examples").glob("*.yaml"))
MINIMAL = ROOT / "deploy/helm/examples/minimal.yaml"
KUSTOMIZATIONS = sorted(path.parent for path in (ROOT / "deploy/kubernetes").glob("*/**/kustomization.yaml"))
KUSTOMIZATIONS = [path for path in KUSTOMIZATIONS if path.parent.name != "components"]
OLDEST, NEWEST = re.findall(r"\| Kubernetes \| (\S+) to (\S+) \|", (ROOT / "deploy/VERSIONS.md").read_text())[0]
RENDERED = [*EXAMPLES, *KUSTOMIZATIONS]


def helm(values: Path, *arguments: str, chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    """Render the chart as for the oldest Kubernetes."""
    command = [go_tool("helm"), "template", "outbox", str(chart), "--namespace", "shop", "--kube-version", OLDEST]
    return subprocess.run([*command, "--values", str(values), *arguments], capture_output=True, text=True)


@cache
def rendered(source: Path) -> list[Resource]:
    """The resources of a kustomization, or of the chart with a file of values."""
    if source.suffix:
        done = helm(source)
    else:
        done = subprocess.run([go_tool("kustomize"), "build", str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT / "deploy"))


@cache
def definition(group: str, kind: str) -> dict[str, Any]:
    """The schema of a resource that is not Kubernetes' own, closed: an unknown field is an error."""
    for file in go_module(DEFINITIONS[group]).rglob(f"{group}_{kind.lower()}s.yaml"):
        (found,) = yaml.safe_load_all(file.read_text())
        if found["kind"] == "CustomResourceDefinition":
            schema: dict[str, Any] = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            schema["properties"]["metadata"] = {"type": "object"}
            closed: dict[str, Any] = close(schema)
            return closed
    raise AssertionError(f"{DEFINITIONS[group]} has no definition of {kind}")


def close(schema: Any) -> Any:
    """Refuse properties that a schema does not name, as an API server's strict validation does."""
    if isinstance(schema, list):
        return [close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(value) for key, value in schema.items()}
    if isinstance(schema.get("pattern"), str):
        # Go's expressions take a flag anywhere, Python's only in front.
        closed["pattern"] = schema["pattern"].replace("^(?i)", "(?i)^")
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed


@pytest.mark.parametrize("source", RENDERED, ids=ids)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_every_resource_without_a_field_that_it_does_not_know(source: Path, version: str) -> None:
    resources = rendered(source)
    assert of_kind(resources, "Deployment")
    assert of_kind(resources, "Job")
    for each in resources:
        group = each["apiVersion"].partition("/")[0]
        if group in DEFINITIONS:
            jsonschema.validate(each, definition(group, each["kind"]))
        else:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_noticed() -> None:
    (deployment,) = of_kind(rendered(MINIMAL), "Deployment")
    wrong = json.loads(json.dumps(deployment))
    container_of(wrong)["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)
    (monitor,) = of_kind(rendered(ROOT / "deploy/kubernetes/examples/on-premises"), "PodMonitor")
    wrong = json.loads(json.dumps(monitor))
    wrong["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    with pytest.raises(jsonschema.ValidationError, match="intervall"):
        jsonschema.validate(wrong, definition("monitoring.coreos.com", "PodMonitor"))


@pytest.mark.parametrize("source", RENDERED, ids=ids)
def test_the_relay_takes_the_settings_of_its_pods_and_finds_the_files_that_they_name(
    source: Path, tmp_path: Path
) -> None:
    resources = rendered(source)
    for resource in (*of_kind(resources, "Deployment"), *of_kind(resources, "Job")):
        given = variables(resource, resources)
        for name, value in given.items():
            if value.startswith("/run/"):
                place = next((each for each in mounts(resource) if value.startswith(f"{each}/")), None)
                assert place is not None, f"{resource['kind']}: nothing is mounted for {name}={value}"
                file = tmp_path / value.removeprefix("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("postgresql://relay@db:5432/shop" if "DSN" in name else "secret")
                given[name] = str(file)
        if resource["kind"] == "Deployment":
            settings = Settings.load(given)
            assert settings.replica.name == "outbox-relay-0"
            assert pod_of(resource)["terminationGracePeriodSeconds"] >= settings.stop.grace + 10
        else:
            assert "RELAY_POSTGRES_DSN_FILE" in given


@pytest.mark.parametrize("source", RENDERED, ids=ids)
def test_pods_have_no_right_that_the_relay_does_not_need(source: Path) -> None:
    resources = rendered(source)
    for resource in (*of_kind(resources, "Deployment"), *of_kind(resources, "Job")):
        pod = pod_of(resource)
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert "cpu" not in container["resources"]["limits"], "a throttled relay cannot renew its lease in time"


@pytest.mark.parametrize("source", RENDERED, ids=ids)
def test_a_deployment_is_probed_and_everything_selects_its_pods(source: Path) -> None:
    resources = rendered(source)
    (deployment,) = of_kind(resources, "Deployment")
    container = container_of(deployment)
    assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [each["spec"]["selector"] for each in of_kind(resources, "Service")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind(resources, "PodDisruptionBudget")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind(resources, "PodMonitor")]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(resources, "NetworkPolicy")]
    selectors += [each["labelSelector"]["matchLabels"] for each in pod_of(deployment)["topologySpreadConstraints"]]
    assert len(selectors) >= 4
    for selector in selectors:
        assert selector.items() <= labels
    migrates = of_kind(resources, "Job")[0]["spec"]["template"]["metadata"]["labels"].items()
    for selector in selectors[: 1 + len(of_kind(resources, "Service"))]:
        assert not selector.items() <= migrates, "a pod that migrates is not a replica"


@pytest.mark.parametrize("source", RENDERED, ids=ids)
def test_a_job_has_a_deadline_and_the_version_in_its_name(source: Path) -> None:
    (job,) = of_kind(rendered(source), "Job")
    assert job["metadata"]["name"].endswith(f"migrate-{__version__.replace('.', '-')}")
    assert job["spec"]["activeDeadlineSeconds"] <= 600
    assert job["spec"]["backoffLimit"] <= 6
    assert container_of(job)["args"][0] == "migrate"


@pytest.mark.parametrize("source", RENDERED, ids=ids)
def test_rules_are_those_for_any_prometheus(source: Path, tmp_path: Path) -> None:
    """The chart's ask for its own pods only, so promtool reads them again."""
    for rules in of_kind(rendered(source), "PrometheusRule"):
        (group,) = rules["spec"]["groups"]
        assert [rule["alert"] for rule in group["rules"]] == [alert["alert"] for alert in ALERTS]
        (tmp_path / "rules.yaml").write_text(json.dumps(rules["spec"]))
        assert f"{len(ALERTS)} rules found" in promtool("check", "rules", tmp_path / "rules.yaml")


def test_the_charts_alerts_lead_to_the_run_book_that_its_values_name() -> None:
    done = helm(
        MINIMAL, "--set", "prometheusRule.enabled=true", "--set", "prometheusRule.runbookUrl=https://wiki/run-book"
    )
    assert done.returncode == 0, done.stderr
    (rules,) = of_kind([each for each in yaml.safe_load_all(done.stdout) if each], "PrometheusRule")
    urls = [rule["annotations"]["runbook_url"] for rule in rules["spec"]["groups"][0]["rules"]]
    assert urls == [
        alert["annotations"]["runbook_url"].replace("RUNBOOK.md", "https://wiki/run-book") for alert in ALERTS
    ]


@pytest.mark.parametrize("source", RENDERED, ids=ids)
def test_rules_ask_for_metrics_that_there_are_and_scaling_stays_within_the_lanes(source: Path) -> None:
    resources = rendered(source)
    names = {f"relay_{name}" for name in METRICS}
    for rules in of_kind(resources, "PrometheusRule"):
        for rule in rules["spec"]["groups"][0]["rules"]:
            asked = set(re.findall(r"\brelay_[a-z_]+", rule["expr"]))
            assert asked
            assert asked <= names
            assert source.is_dir() or rule["expr"].count('namespace="shop"') == len(
                re.findall(r"\brelay_", rule["expr"])
            )
    for scaled in of_kind(resources, "ScaledObject"):
        assert scaled["spec"]["maxReplicaCount"] <= 16
        assert "replicas" not in of_kind(resources, "Deployment")[0]["spec"], "two would set the number"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("settings.RELAY_KAFKA_COMPRESSION=zip", "/settings/RELAY_KAFKA_COMPRESSION"),
        ("settings.RELAY_KAFKA_COMPRESION=zstd", "RELAY_KAFKA_COMPRESION"),
        ("settings.RELAY_STOP_GRACE=long", "/settings/RELAY_STOP_GRACE"),
        ("settings.RELAY_KAFKA_BOOTSTRAP_SERVERS=null", "RELAY_KAFKA_BOOTSTRAP_SERVERS"),
        ("settings.RELAY_POSTGRES_DSN=postgresql://relay:secret@db/shop", "RELAY_POSTGRES_DSN"),
        ("secrets.RELAY_POSTGRES_DSN=null", "/secrets/RELAY_POSTGRES_DSN"),
        ("secrets.RELAY_POSTGRES_DSN.key=null", "/secrets/RELAY_POSTGRES_DSN"),
        ("secrets.RELAY_POSTGRES_DSNS.name=x", "RELAY_POSTGRES_DSNS"),
        ("files.RELAY_KAFKA_SSL_CAFILE.key=ca.crt", "files.RELAY_KAFKA_SSL_CAFILE needs"),
        ("replica=2", "replica"),
        ("replicas=17", "/replicas"),
        ("replicas=two", "/replicas"),
        ("image.digest=sha256:12", "/image/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("resources.limits.memory=lots", "/resources/limits/memory"),
        ("migrate.deadlineSeconds=0", "/migrate/deadlineSeconds"),
        ("podMonitor.interval=often", "/podMonitor/interval"),
        ("keda.enabled=true", "replicas must be null"),
        ("networkPolicy.enabled=true,podMonitor.enabled=true", "networkPolicy.metricsFrom is empty"),
        ("extraEnv[0].name=RELAY_KAFKA_BOOTSTRAP_SERVERS,extraEnv[0].value=x", "extraEnv has RELAY_KAFKA_BOOTSTRAP"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(given: str, told: str) -> None:
    done = helm(MINIMAL, "--set", given)
    assert done.returncode != 0
    assert told in done.stderr
    assert "relay:secret" not in done.stderr


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("settings: {RELAY_KAFKA_BOOTSTRAP_SERVERS: kafka:9092}\n")
    assert "secrets.RELAY_POSTGRES_DSN is missing: name the Secret" in helm(values).stderr
    injected = ("extraEnv[0].name=RELAY_POSTGRES_DSN_FILE", "extraEnv[0].value=/vault/secrets/dsn")
    assert helm(values, "--set", ",".join(injected)).returncode == 0, "others may inject it"
    assert helm(values, "--set", "settings.RELAY_POSTGRES_DSN_COMMAND=print-dsn").returncode == 0


def test_a_password_beside_the_dsn_and_a_token_endpoint_reach_the_relay(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        """
settings:
  RELAY_KAFKA_BOOTSTRAP_SERVERS: kafka:9092
  RELAY_KAFKA_SECURITY_PROTOCOL: SASL_SSL
  RELAY_KAFKA_SASL_MECHANISM: OAUTHBEARER
  RELAY_KAFKA_OAUTH_PROVIDER: oidc
  RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT: https://identity/token
  RELAY_KAFKA_OAUTH_CLIENT_ID: relay
secrets:
  RELAY_POSTGRES_DSN: {name: outbox-relay, key: postgres-dsn}
  RELAY_POSTGRES_PASSWORD: {name: postgres-user, key: password}
  RELAY_KAFKA_OAUTH_CLIENT_SECRET: {name: kafka-oauth, key: client-secret}
files:
  RELAY_KAFKA_OAUTH_CAFILE: {configMap: identity-ca, key: ca.crt}
"""
    )
    done = helm(values)
    assert done.returncode == 0, done.stderr
    resources = [each for each in yaml.safe_load_all(done.stdout) if each]
    (deployment,), (job,) = of_kind(resources, "Deployment"), of_kind(resources, "Job")
    password = "/run/outbox-relay/postgres-password/password"
    relay = variables(deployment, resources)
    assert (
        relay["RELAY_POSTGRES_PASSWORD_FILE"] == variables(job, resources)["RELAY_POSTGRES_PASSWORD_FILE"] == password
    )
    assert relay["RELAY_KAFKA_OAUTH_CLIENT_SECRET_FILE"] == "/run/outbox-relay/kafka-oauth-client-secret/client-secret"
    assert relay["RELAY_KAFKA_OAUTH_CAFILE"] == "/run/outbox-relay/kafka-oauth-cafile/ca.crt"
    assert relay["RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT"] == "https://identity/token"
    mounted = {volume["secret"]["secretName"] for volume in mounts(deployment).values() if "secret" in volume}
    assert mounted == {"outbox-relay", "postgres-user", "kafka-oauth"}
    assert not any("KAFKA" in name for name in variables(job, resources))
    by_command = values.read_text().replace("RELAY_POSTGRES_PASSWORD: {name: postgres-user, key: password}", "")
    values.write_text(by_command.replace("settings:\n", "settings:\n  RELAY_POSTGRES_PASSWORD_COMMAND: print-it\n"))
    printed = helm(values)
    assert printed.returncode == 0, printed.stderr


def test_a_kubernetes_that_is_too_old_is_refused() -> None:
    done = helm(MINIMAL, "--kube-version", "1.28.0")
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr


def test_helm_lint_finds_nothing() -> None:
    for values in EXAMPLES:
        lint = [go_tool("helm"), "lint", "--strict", str(CHART), "--values", str(values), "--kube-version", OLDEST]
        done = subprocess.run(lint, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_large_numbers_reach_the_relay_as_they_are() -> None:
    scaled = next(each for each in EXAMPLES if each.stem == "scaled")
    (settings,) = of_kind(rendered(scaled), "ConfigMap")
    assert settings["data"]["RELAY_BUFFER_MAX_BYTES"] == "67108864"
    assert settings["data"]["RELAY_SCAN_WAKE_UP"] == "false"


def test_the_chart_gives_a_drain_longer_than_the_relay_takes_by_default() -> None:
    (deployment,) = of_kind(rendered(MINIMAL), "Deployment")
    assert pod_of(deployment)["terminationGracePeriodSeconds"] >= StopSettings().grace + 10


def test_changed_settings_replace_the_pods_and_the_same_ones_do_not() -> None:
    def pods(*arguments: str) -> Any:
        resources = [each for each in yaml.safe_load_all(helm(MINIMAL, *arguments).stdout) if each]
        return of_kind(resources, "Deployment")[0]["spec"]["template"]

    assert pods() == pods()
    assert pods() != pods("--set", "settings.RELAY_TOPIC_ALLOW=orders")


def test_the_notes_say_what_to_do_next_and_what_is_not_fit_for_production(tmp_path: Path) -> None:
    """`helm template` does not show the notes, so that a ConfigMap has to."""
    chart = tmp_path / "outbox-relay"
    subprocess.run(["cp", "-r", str(CHART), str(chart)], check=True)
    (chart / "templates/NOTES.txt").rename(chart / "notes.txt")
    (chart / "templates/notes.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n  notes: |\n"
        '    {{- tpl (.Files.Get "notes.txt") . | nindent 4 }}\n'
    )

    def notes(values: Path) -> str:
        done = helm(values, "--show-only", "templates/notes.yaml", chart=chart)
        assert done.returncode == 0, done.stderr
        text: str = yaml.safe_load(done.stdout)["data"]["notes"]
        return text

    minimal = notes(MINIMAL)
    assert "kubectl -n shop rollout status deployment/outbox-outbox-relay" in minimal
    for warning in ("migrate.secrets is empty", "RELAY_TOPIC_ALLOW", "RELAY_KAFKA_SECURITY_PROTOCOL", "image.digest"):
        assert f"! {warning}" in minimal or f"! settings.{warning}" in minimal
    assert "is refused while" in minimal
    assert "kubectl -n shop scale deployment/outbox-outbox-relay --replicas 0" in minimal
    assert "KEDA would start them again" not in minimal
    assert "KEDA would start them again" in notes(next(each for each in EXAMPLES if each.stem == "scaled"))
    prepared = notes(next(each for each in EXAMPLES if each.stem == "rds-msk"))
    assert "! migrate" not in prepared
    assert "! settings" not in prepared
