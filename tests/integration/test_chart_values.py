"""The chart with odd values: it renders what Kubernetes takes, or refuses the value by its name."""

from __future__ import annotations

import copy
import json
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_manifests import CHART, NEWEST, OLDEST, definition
from tests.support.containers.pods import container_of, of_kind, pod_of, variables
from tests.support.go_tools import DEFINITIONS, go_tool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.containers.pods import Resource

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

pytestmark = pytest.mark.proof

Values = dict[str, Any]

DSN = {"name": "outbox-relay", "key": "postgres-dsn"}
LITTLE: Values = {
    "settings": {"RELAY_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"},
    "secrets": {"RELAY_POSTGRES_DSN": DSN},
}
EVERYTHING: Values = {
    **LITTLE,
    "image": {"pullSecrets": [{"name": "images"}]},
    "files": {"RELAY_KAFKA_SSL_CAFILE": {"configMap": "kafka-ca", "key": "ca.crt"}},
    "migrate": {"roles": True, "owner": "outbox_owner", "serviceAccountName": "migrate", "secrets": {}},
    "replicas": None,
    "priorityClassName": "outbox-relay",
    "podAnnotations": {"example.com/team": "shop"},
    "podLabels": {"example.com/inject": "true"},
    "extraEnv": [{"name": "AWS_REGION", "value": "eu-central-1"}],
    "networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {}}], "more": [{"ports": [443]}]},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "keda": {"enabled": True, "secret": {"name": "keda", "key": "dsn"}},
}


def merged(values: Values, changes: Values) -> Values:
    """The values with changes, as Helm merges files of values."""
    found = copy.deepcopy(values)
    for name, value in changes.items():
        old = found.get(name)
        found[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def template(
    folder: Path, values: Values, release: str = "outbox", namespace: str = "shop"
) -> subprocess.CompletedProcess[str]:
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    line = [go_tool("helm"), "template", release, str(CHART), "--namespace", namespace, "--kube-version", OLDEST]
    return subprocess.run([*line, "--values", str(file)], capture_output=True, text=True)


class Strict(yaml.SafeLoader):  # type: ignore[misc, name-defined]
    """Refuses what an API server refuses: a name that is there twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(names) == len(set(names)), f"twice in one place: {names}"
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def judged(done: subprocess.CompletedProcess[str]) -> list[Resource]:
    """The resources that were rendered, each of which Kubernetes has to take."""
    assert done.returncode == 0, done.stderr
    resources = [each for each in yaml.load_all(done.stdout, Strict) if each]
    for each in resources:
        group = each["apiVersion"].partition("/")[0]
        if group in DEFINITIONS:
            jsonschema.validate(each, closed_definition(group, each["kind"]))
        else:
            kubernetes_validate.validate(each, NEWEST, strict=True)
        metadata = [each["metadata"], each.get("spec", {}).get("template", {}).get("metadata", {})]
        for name, value in [pair for one in metadata for pair in one.get("labels", {}).items()]:
            assert isinstance(value, str), f"{name} of {each['kind']} is {value!r}"
            assert len(value) <= 63
        assert isinstance(each["metadata"]["name"], str)
        assert isinstance(each["metadata"]["namespace"], str)
        assert len(each["metadata"]["name"]) <= 63, "a Job's name becomes a label"
    return resources


@cache
def closed_definition(group: str, kind: str) -> dict[str, Any]:
    return definition(group, kind)


@pytest.mark.parametrize(
    ("release", "namespace"),
    [
        ("a" * 53, "shop"),
        ("a" * 49 + "-b-c", "n" * 63),
        ("a.b.c", "123"),
        ("outbox-relay", "1e3"),
        ("outbox-relay-of.the-shop", "true"),
    ],
)
def test_any_name_that_helm_takes_makes_names_that_kubernetes_takes(
    release: str, namespace: str, tmp_path: Path
) -> None:
    resources = judged(template(tmp_path, EVERYTHING, release, namespace))
    for each in resources:
        assert each["metadata"]["namespace"] == namespace
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == release
        assert "." not in each["metadata"]["name"]
    (service,), (job,) = of_kind(resources, "Service"), of_kind(resources, "Job")
    assert service["spec"]["selector"]["app.kubernetes.io/instance"] == release
    assert job["metadata"]["name"] != of_kind(resources, "Deployment")[0]["metadata"]["name"]


def test_a_name_that_no_service_may_have_is_refused_with_what_mends_it(tmp_path: Path) -> None:
    for release in ("1shop", "123"):
        done = template(tmp_path, LITTLE, release)
        assert done.returncode != 0
        assert "fullnameOverride is needed" in done.stderr
        judged(template(tmp_path, LITTLE | {"fullnameOverride": "shop"}, release))


@pytest.mark.parametrize("name", ["true", "null", "y", "off"])
def test_a_name_that_yaml_would_take_for_something_else_stays_a_name(name: str, tmp_path: Path) -> None:
    changes = {
        "fullnameOverride": name,
        "nameOverride": name,
        "priorityClassName": name,
        "serviceAccount": {"name": name},
    }
    resources = judged(template(tmp_path, merged(EVERYTHING, changes), name, name))
    (deployment,) = of_kind(resources, "Deployment")
    assert deployment["metadata"]["name"] == name
    assert pod_of(deployment)["serviceAccountName"] == pod_of(deployment)["priorityClassName"] == name


def _paths(values: Values, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, value in values.items():
        found.append((*path, name))
        if isinstance(value, dict):
            found += _paths(value, (*path, name))
    return found


DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


WRONG: tuple[Any, ...] = (None, [], {}, "", "a: b\n  - c", -1, 0, True)
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def without_nulls(values: Any) -> Any:
    """As Helm gives values to the schema and to the templates: what is null is not there."""
    if not isinstance(values, dict):
        return values
    return {name: without_nulls(value) for name, value in values.items() if value is not None}


def test_a_value_that_is_null_or_of_another_type_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    validator = jsonschema.Draft7Validator(SCHEMA)
    harm = []
    for path in _paths(DEFAULTS):
        for wrong in WRONG:
            changes: Any = wrong
            for name in reversed(path):
                changes = {name: changes}
            values = merged(EVERYTHING, changes)
            # What the schema refuses is refused with its place; Helm takes a while for each.
            if not validator.is_valid(without_nulls(merged(DEFAULTS, values))):
                continue
            done = template(tmp_path, values)
            if done.returncode == 0:
                try:
                    judged(done)
                except (kubernetes_validate.ValidationError, jsonschema.ValidationError, AssertionError) as error:
                    harm.append(f"{'.'.join(path)}={wrong!r} makes what Kubernetes refuses: {error!s:.200}")
            elif path[-1] not in done.stderr:
                harm.append(f"{'.'.join(path)}={wrong!r}: {done.stderr}")
    assert harm == []


SASL = {"RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "RELAY_KAFKA_SASL_MECHANISM": "PLAIN"}
TOKENS = SASL | {"RELAY_KAFKA_SASL_MECHANISM": "OAUTHBEARER", "RELAY_KAFKA_OAUTH_PROVIDER": "oidc"}
ENDPOINT = TOKENS | {
    "RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT": "https://identity/token",
    "RELAY_KAFKA_OAUTH_CLIENT_ID": "relay",
    "RELAY_KAFKA_OAUTH_CLIENT_SECRET_COMMAND": "print-it",
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fullnameOverride": "Shop"}, "/fullnameOverride"),
        ({"fullnameOverride": "shop\n  namespace: kube-system"}, "/fullnameOverride"),
        ({"nameOverride": "a b"}, "/nameOverride"),
        ({"image": {"repository": "images/relay:1.0"}}, "/image/repository"),
        ({"image": {"repository": "images/relay latest"}}, "/image/repository"),
        ({"image": {"tag": "1.0@sha256"}}, "/image/tag"),
        ({"priorityClassName": "high\n      hostNetwork: true"}, "/priorityClassName"),
        ({"serviceAccount": {"name": "a_b"}}, "/serviceAccount/name"),
        ({"migrate": {"serviceAccountName": "x\n      hostPID: true"}}, "/migrate/serviceAccountName"),
        ({"secrets": {"RELAY_POSTGRES_DSN": {"key": ".."}}}, "/secrets/RELAY_POSTGRES_DSN/key"),
        ({"secrets": {"RELAY_POSTGRES_DSN": {"name": "a..b"}}}, "/secrets/RELAY_POSTGRES_DSN/name"),
        ({"settings": {"RELAY_KAFKA_BOOTSTRAP_SERVERS": ""}}, "RELAY_KAFKA_BOOTSTRAP_SERVERS"),
        ({"settings": {"RELAY_POSTGRES_SCHEMA": "x; DROP TABLE y"}}, "RELAY_POSTGRES_SCHEMA"),
        ({"settings": {"RELAY_HTTP_HOST": "127.0.0.1"}}, "RELAY_HTTP_HOST"),
        ({"secrets": None, "settings": {"RELAY_POSTGRES_DSN_COMMAND": ""}}, "RELAY_POSTGRES_DSN_COMMAND"),
        ({"settings": {"RELAY_POSTGRES_DSN_COMMAND": "print"}}, "settings.RELAY_POSTGRES_DSN_COMMAND are given"),
        ({"extraEnv": [{"name": "RELAY_POSTGRES_DSN", "value": "x"}]}, "extraEnv RELAY_POSTGRES_DSN are given"),
        ({"extraEnv": [{"name": "RELAY_POSTGRES_DSN_COMMAND"}]}, "extraEnv RELAY_POSTGRES_DSN_COMMAND are given"),
        ({"extraEnv": [{"name": "TZ", "value": "UTC"}, {"name": "TZ", "value": "CET"}]}, "extraEnv TZ"),
        ({"extraEnv": [{"name": "RELAY_HTTP_PORT", "value": "9090"}]}, "extraEnv has RELAY_HTTP_PORT"),
        ({"extraEnv": [{"name": "A=B", "value": "x"}]}, "/extraEnv/0/name"),
        ({"extraEnv": [{"name": "A", "value": "x", "valueFrom": {}}]}, "/extraEnv/0"),
        (
            {
                "files": {"RELAY_KAFKA_SSL_CAFILE": {"secret": "ca", "key": "ca.crt"}},
                "extraEnv": [{"name": "RELAY_KAFKA_SSL_CAFILE", "value": "/x"}],
            },
            "extraEnv has RELAY_KAFKA_SSL_CAFILE",
        ),
        # Helm would leave them out without a word.
        ({"podAnnotations": {"example.com/x": "\x7f"}}, "/podAnnotations/example.com~1x"),
        ({"extraEnv": [{"name": "X", "value": "\x01"}]}, "/extraEnv/0/value"),
        ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels has app.kubernetes.io/name"),
        ({"podLabels": {"app.kubernetes.io/component": "x"}}, "podLabels has app.kubernetes.io/component"),
        ({"podAnnotations": {"checksum/settings": "x"}}, "podAnnotations has checksum/settings"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable"),
        ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "/podDisruptionBudget/maxUnavailable"),
        ({"keda": {"secret": {"name": "keda"}}}, "/keda/secret"),
        (
            {
                "replicas": None,
                "keda": {"enabled": True},
                "secrets": {"RELAY_POSTGRES_PASSWORD": {"name": "a", "key": "b"}},
            },
            "keda.secret is missing",
        ),
        ({"networkPolicy": {"enabled": True, "kafka": {"ports": [9093]}}}, "networkPolicy.kafka.ports has no 9092"),
        ({"networkPolicy": {"enabled": True}, "settings": ENDPOINT}, "networkPolicy.more has no 443"),
        ({"settings": {"RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}}, "settings.RELAY_KAFKA_SASL_MECHANISM is missing"),
        ({"settings": SASL}, "settings.RELAY_KAFKA_SASL_USERNAME is missing"),
        ({"settings": SASL | {"RELAY_KAFKA_SASL_USERNAME": "u"}}, "secrets.RELAY_KAFKA_SASL_PASSWORD is missing"),
        ({"settings": TOKENS | {"RELAY_KAFKA_OAUTH_PROVIDER": "token"}}, "secrets.RELAY_KAFKA_OAUTH_TOKEN is missing"),
        ({"settings": TOKENS}, "settings.RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT is missing"),
    ],
)
def test_what_kubernetes_or_the_relay_would_refuse_later_is_refused_by_its_name(
    changes: Values, told: str, tmp_path: Path
) -> None:
    done = template(tmp_path, merged(LITTLE, changes))
    assert done.returncode != 0
    assert told in done.stderr


def test_a_policy_that_names_all_ports_is_taken(tmp_path: Path) -> None:
    policy = {"enabled": True, "kafka": {"ports": [9092]}, "more": [{"ports": [443]}]}
    judged(template(tmp_path, merged(LITTLE, {"networkPolicy": policy, "settings": ENDPOINT})))


def test_the_job_logs_in_as_its_own_user_and_never_with_the_replicas_password(tmp_path: Path) -> None:
    changes = {
        "settings": {"RELAY_POSTGRES_PASSWORD_COMMAND": "token --user relay"},
        "migrate": {"secrets": {"RELAY_POSTGRES_DSN": {"name": "outbox-migrate", "key": "dsn"}}},
    }
    resources = judged(template(tmp_path, merged(LITTLE, changes)))
    (deployment,), (job,) = of_kind(resources, "Deployment"), of_kind(resources, "Job")
    assert variables(deployment, resources)["RELAY_POSTGRES_PASSWORD_COMMAND"] == "token --user relay"
    assert variables(job, resources) == {"RELAY_POSTGRES_DSN_FILE": "/run/outbox-relay/postgres-dsn/dsn"}

    of_the_relay = {"RELAY_POSTGRES_PASSWORD": {"name": "relay-user", "key": "password"}}
    changes = {"secrets": of_the_relay, "migrate": {"secrets": {"RELAY_POSTGRES_DSN": {"name": "m", "key": "dsn"}}}}
    resources = judged(template(tmp_path, merged(LITTLE, changes)))
    (job,) = of_kind(resources, "Job")
    assert variables(job, resources) == {"RELAY_POSTGRES_DSN_FILE": "/run/outbox-relay/postgres-dsn/dsn"}
    assert {volume["secret"]["secretName"] for volume in pod_of(job)["volumes"]} == {"m"}

    injected: Values = {
        "settings": LITTLE["settings"],
        "extraEnv": [{"name": "RELAY_POSTGRES_DSN_FILE", "value": "/vault/dsn"}, {"name": "TZ", "value": "UTC"}],
        "migrate": {"secrets": {"RELAY_POSTGRES_DSN": {"name": "m", "key": "dsn"}}},
    }
    resources = judged(template(tmp_path, injected))
    (job,) = of_kind(resources, "Job")
    assert [each["name"] for each in container_of(job)["env"]] == ["RELAY_POSTGRES_DSN_FILE", "TZ"]
    assert variables(job, resources)["RELAY_POSTGRES_DSN_FILE"] == "/run/outbox-relay/postgres-dsn/dsn"


def test_what_injects_secrets_or_identities_into_pods_finds_the_job_as_well(tmp_path: Path) -> None:
    resources = judged(template(tmp_path, EVERYTHING))
    for resource in (*of_kind(resources, "Deployment"), *of_kind(resources, "Job")):
        metadata = resource["spec"]["template"]["metadata"]
        assert metadata["annotations"]["example.com/team"] == "shop"
        assert metadata["labels"]["example.com/inject"] == "true"


@pytest.mark.parametrize(
    "text", ["a: b", "a #b", "- x", "$(HOME) $$ x", '"', "\n  x: y", "\u202e", "{{ .Release.Name }}"]
)
def test_text_reaches_the_relay_as_it_is_and_becomes_no_yaml(text: str, tmp_path: Path) -> None:
    changes = {
        "settings": {"RELAY_KAFKA_CLIENT_ID": text, "RELAY_POSTGRES_PASSWORD_COMMAND": text},
        "migrate": {"owner": text},
        "podAnnotations": {"example.com/text": text},
        "extraEnv": [{"name": "TEXT", "value": text}],
    }
    resources = judged(template(tmp_path, merged(EVERYTHING, changes)))
    (settings,), (job,) = of_kind(resources, "ConfigMap"), of_kind(resources, "Job")
    (deployment,) = of_kind(resources, "Deployment")
    assert settings["data"]["RELAY_KAFKA_CLIENT_ID"] == text
    # Kubernetes makes one dollar of two.
    assert variables(job, resources)["RELAY_POSTGRES_PASSWORD_COMMAND"].replace("$$", "$") == text
    assert container_of(job)["args"][-1].replace("$$", "$") == f"--owner={text}"
    assert "$(" not in container_of(job)["args"][-1].replace("$$", "")
    assert deployment["spec"]["template"]["metadata"]["annotations"]["example.com/text"] == text
    assert variables(deployment, resources)["TEXT"] == text


def test_large_numbers_stay_numbers(tmp_path: Path) -> None:
    """Helm reads 1000000 in a file as 1e+06, which is no integer to Kubernetes."""
    million = 1_000_000
    changes = {
        "migrate": {"deadlineSeconds": million},
        "keda": {"coolDownSeconds": million, "pendingPerReplica": million},
        "prometheusRule": {"lagSeconds": million},
        "podDisruptionBudget": {"maxUnavailable": million},
    }
    done = template(tmp_path, merged(EVERYTHING, changes))
    judged(done)
    assert "e+0" not in done.stdout
    assert f"(relay_lag_seconds) > {million}" in done.stdout.replace(
        '{namespace="shop", pod=~"outbox-outbox-relay-.*"}', ""
    )


@pytest.mark.parametrize(
    "part",
    ["migrate", "podDisruptionBudget", "networkPolicy", "podMonitor", "prometheusRule", "keda"],
)
def test_each_part_may_be_off_or_on_by_itself(part: str, tmp_path: Path) -> None:
    on: Values = {part: {"enabled": True}} | ({"replicas": None} if part == "keda" else {})
    judged(template(tmp_path, merged(LITTLE, on)))
    judged(template(tmp_path, merged(merged(EVERYTHING, {"replicas": None}), {part: {"enabled": False}})))


def test_no_secret_is_in_what_is_rendered(tmp_path: Path) -> None:
    """Only the names of Secrets are: the values have no place for anything else."""
    done = template(
        tmp_path, merged(EVERYTHING, {"secrets": {"RELAY_POSTGRES_DSN": "postgresql://relay:hunter2@db/shop"}})
    )
    assert done.returncode != 0
    assert "hunter2" not in done.stdout + done.stderr
    done = template(tmp_path, merged(EVERYTHING, {"settings": {"RELAY_KAFKA_SASL_PASSWORD": "hunter2"}}))
    assert done.returncode != 0
    assert "hunter2" not in done.stdout + done.stderr
