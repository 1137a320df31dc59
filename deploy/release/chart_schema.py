"""Writes the schema of the chart's values: `.venv/bin/python deploy/release/chart_schema.py`.

The chart takes the relay's settings by the names that the relay itself knows, so a wrong name, type or value is refused
when the chart is rendered, and not by a container that does not start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relay.settings import Settings
from relay.settings.load import Variable, variables

FILE = Path(__file__).parents[1] / "helm/outbox-relay/values.schema.json"

GIVEN_BY_THE_CHART = {
    "RELAY_HTTP_PORT": "8080",
    "RELAY_REPLICA_NAME": "the pod's name",
}
"""Settings whose value the chart knows, and that nobody sets."""

Schema = dict[str, Any]

TIGHTER: dict[str, Schema] = {
    # Within the pod there is nothing else: all addresses of IPv4, or of IPv6.
    "RELAY_HTTP_HOST": {"enum": ["0.0.0.0", "::"]},  # noqa: S104
    # It becomes part of a query.
    "RELAY_POSTGRES_SCHEMA": {"pattern": "^[a-z_][a-z0-9_]{0,62}$"},
}
"""What the chart says of a setting beyond its type."""

TEXT: Schema = {"type": "string"}
GIVEN: Schema = {"type": "string", "minLength": 1}
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": f"^{_SUBDOMAIN}$"}
NAME_OR_NONE: Schema = {"type": "string", "maxLength": 253, "pattern": f"^({_SUBDOMAIN})?$"}
KEY: Schema = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$"}
REPOSITORY: Schema = {"type": "string", "pattern": r"^([][A-Za-z0-9._:-]+/)*[a-z0-9]([a-z0-9._-]*[a-z0-9])?$"}
VARIABLE: Schema = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"}
TAG: Schema = {"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"}
SOME_PODS: Schema = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^([1-9][0-9]?|100)%$"}]
}
CLEAN: Schema = {"type": "string", "pattern": r"^[^\x00-\x08\x0b-\x1f\x7f]*$"}
"""Without control characters: Helm leaves out, without a word, a whole value that has one."""
TEXTS: Schema = {"type": "object", "additionalProperties": CLEAN}
QUANTITY: Schema = {"type": ["string", "number"], "pattern": "^[0-9]+(\\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi)?$"}
LIST: Schema = {"type": "array", "items": {"type": "object"}}
PORTS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}, "minItems": 1}


def closed(properties: dict[str, Schema], required: tuple[str, ...] = (), description: str = "") -> Schema:
    """An object that has these properties and no others."""
    found: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        found["required"] = list(required)
    return found | ({"description": description} if description else {})


def schema() -> Schema:
    """Return the schema of the chart's values."""
    known = variables(Settings)
    secret_key = closed({"name": NAME, "key": KEY}, ("name", "key"))
    secrets = closed({name: secret_key for name, each in known.items() if each.secret})
    files = {
        name: closed({"secret": NAME, "configMap": NAME, "key": KEY}, ("key",))
        for name in known
        if is_file(known[name])
    }
    resources = closed(
        {kind: closed({"cpu": QUANTITY, "memory": QUANTITY}) for kind in ("requests", "limits")},
    )
    peers = {
        "type": "array",
        "items": closed({"to": LIST, "ports": PORTS}, ("ports",)),
    }
    properties = {
        "nameOverride": {"type": "string", "maxLength": 50, "pattern": f"^({_LABEL})?$"},
        # A Service's name begins with a letter.
        "fullnameOverride": {"type": "string", "maxLength": 50, "pattern": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$"},
        "image": closed(
            {
                "repository": REPOSITORY,
                "tag": TAG,
                "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
                "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
                "pullSecrets": {"type": "array", "items": closed({"name": NAME}, ("name",))},
            },
            ("repository", "pullPolicy"),
        ),
        "replicas": {"type": ["integer", "null"], "minimum": 0, "maximum": 16},
        "settings": closed({**dict(settings()), **commands()}, ("RELAY_KAFKA_BOOTSTRAP_SERVERS",)),
        "secrets": secrets,
        "files": closed(files),
        "migrate": closed(
            {
                "enabled": {"type": "boolean"},
                "roles": {"type": "boolean"},
                "owner": TEXT,
                "deadlineSeconds": {"type": "integer", "minimum": 10},
                "secrets": secrets,
                "serviceAccountName": NAME_OR_NONE,
                "resources": resources,
            },
            ("deadlineSeconds", "secrets"),
        ),
        "resources": resources,
        "priorityClassName": NAME_OR_NONE,
        # None at all would keep every node from being drained.
        "podDisruptionBudget": closed(
            {"enabled": {"type": "boolean"}, "maxUnavailable": SOME_PODS}, ("maxUnavailable",)
        ),
        "topologySpreadConstraints": {"type": ["array", "null"], "items": {"type": "object"}},
        "nodeSelector": TEXTS,
        "tolerations": LIST,
        "affinity": {"type": "object"},
        "serviceAccount": closed({"create": {"type": "boolean"}, "name": NAME_OR_NONE, "annotations": TEXTS}),
        "podAnnotations": TEXTS,
        "podLabels": TEXTS,
        "extraEnv": {
            "type": "array",
            "items": closed({"name": VARIABLE, "value": CLEAN, "valueFrom": {"type": "object"}}, ("name",))
            | {"not": {"required": ["value", "valueFrom"]}},
        },
        "extraVolumes": LIST,
        "extraVolumeMounts": LIST,
        "networkPolicy": closed(
            {
                "enabled": {"type": "boolean"},
                "metricsFrom": LIST,
                "postgres": closed({"to": LIST, "ports": PORTS}, ("ports",), "where PostgreSQL is"),
                "kafka": closed({"to": LIST, "ports": PORTS}, ("ports",), "where the brokers are"),
                "more": peers,
            },
            ("postgres", "kafka", "more"),
        ),
        "podMonitor": closed(
            {
                "enabled": {"type": "boolean"},
                "labels": TEXTS,
                "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
                "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
            },
            ("interval", "scrapeTimeout"),
        ),
        "prometheusRule": closed(
            {
                "enabled": {"type": "boolean"},
                "labels": TEXTS,
                "lagSeconds": {"type": "integer", "minimum": 1},
                "runbookUrl": {"type": "string", "minLength": 1},
            },
            ("lagSeconds", "runbookUrl"),
        ),
        "keda": closed(
            {
                "enabled": {"type": "boolean"},
                "minReplicas": {"type": "integer", "minimum": 1, "maximum": 16},
                "maxReplicas": {"type": "integer", "minimum": 1, "maximum": 16},
                "pendingPerReplica": {"type": "integer", "minimum": 1},
                "secret": {"anyOf": [secret_key, {"type": "object", "maxProperties": 0}]},
                "coolDownSeconds": {"type": "integer", "minimum": 0},
            },
            ("minReplicas", "maxReplicas", "pendingPerReplica", "coolDownSeconds"),
        ),
        "global": {"type": "object"},
    }
    return {"$schema": "https://json-schema.org/draft-07/schema#", "title": "Values of outbox-relay"} | closed(
        # Helm takes away what is null: the templates would fail without a name.
        properties,
        tuple(name for name, each in properties.items() if each.get("additionalProperties") is False),
    )


def settings() -> list[tuple[str, Schema]]:
    """Return a schema for each setting that is neither a secret nor a file, nor the chart's to know."""
    groups = Settings.model_json_schema(by_alias=True)
    found = []
    for name, variable in variables(Settings).items():
        if variable.secret or is_file(variable) or name in GIVEN_BY_THE_CHART:
            continue
        group = groups["$defs"][groups["properties"][variable.group]["$ref"].rpartition("/")[2]]
        declared = group["properties"][variable.field.alias or variable.attribute]
        found.append((name, value_of(declared, variable)))
    return found


def value_of(declared: Schema, variable: Variable) -> Schema:
    """Return pydantic's schema without what only pydantic knows; settings that may be unset are left out, not null."""
    choices = [each for each in declared.get("anyOf", [declared]) if each.get("type") != "null"]
    kept = {key: value for key, value in choices[0].items() if key not in ("default", "title", "examples", "format")}
    kept.pop("shown_default", None)
    if variable.required:
        kept["minLength"] = 1
    return kept | TIGHTER.get(variable.name, {}) | {"description": variable.field.description}


def commands() -> dict[str, Schema]:
    """Return a schema for the commands that print secrets: a command is not one."""
    secrets = (name for name, each in variables(Settings).items() if each.secret)
    return {f"{name}_COMMAND": GIVEN for name in secrets}


def is_file(variable: Variable) -> bool:
    """Whether the setting names a file that has to be mounted."""
    return "Path" in str(variable.field.annotation)


def text() -> str:
    """Return the schema as it is in the chart."""
    return json.dumps(schema(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
