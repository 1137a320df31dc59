"""What Debezium's event router makes of a row, as expressions for the columns of an event."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from relay.errors import RefusedError
from relay.headers import PREFIX
from relay.names import LONGEST_TOPIC, TOPIC_CHARACTERS

INTEGERS = ("int2", "int4", "int8")
JSON = ("json", "jsonb")
TEXTS = ("text", "enum")
KEY_TYPES = (*TEXTS, "uuid", *INTEGERS, "bytea")
HEADER_TYPES = (*TEXTS, "uuid", *INTEGERS, "bool", *JSON)
PAYLOAD_TYPES = ("text", *JSON, "bytea")

VALUE = "${routedByValue}"
"""Stands in a topic's name for the value of the column that the router routes by."""


@dataclass(frozen=True, kw_only=True)
class EventRouter:
    """What Debezium's event router makes of a row, and the converters of its record. The defaults are Debezium's."""

    event_id: str = "id"
    key: str = "aggregateid"
    payload: str = "payload"
    route_by: str = "aggregatetype"
    topic: str = f"outbox.event.{VALUE}"
    headers: tuple[tuple[str, str], ...] = ()
    """Columns, each with the name of its header."""
    tombstone_on_empty_payload: bool = False
    json_keys: bool = False
    """Keys are written as JSON: text in quotes."""
    json_payloads: bool = False
    """So are payloads. JSON in them becomes text in quotes, unless it is expanded."""
    expand_json: bool = False
    notes: tuple[str, ...] = ()
    """What a person should know: what was taken for granted, and what will be different."""


class Table(NamedTuple):
    """An application's outbox table, as the catalog has it."""

    oid: int
    schema: str
    name: str
    quoted: str
    kind: str
    persistence: str
    parent: str | None
    has_children: bool
    owner: str
    role: str
    may_trigger: bool
    adopted: bool
    """It has the trigger already."""
    columns: dict[str, str]


def values_of(table: Table, router: EventRouter) -> dict[str, str]:
    """The expressions for an event's columns, of the columns of a new row. Raises RefusedError if one does not fit."""
    column = partial(_column, table)
    id_type, id_ = column(router.event_id, KEY_TYPES[:-1], "table.field.event.id")
    headers = [("id", f"{id_}::text")]
    for name, alias in router.headers:
        if alias.startswith(PREFIX):
            raise RefusedError(f"headers whose name begins with {PREFIX} are the relay's own; give {name} another name")
        _, value = column(name, HEADER_TYPES, "table.fields.additional.placement")
        headers.append((alias, f"{value}::text"))
    listed = ", ".join(f"{_text(alias)}, {value}" for alias, value in headers)
    return {
        "event_id": id_ if id_type == "uuid" else "gen_random_uuid()",
        "topic": _topic(router.topic, f"{column(router.route_by, TEXTS, 'route.by.field')[1]}::text"),
        "key": _key(router, *column(router.key, KEY_TYPES, "table.field.event.key")),
        "payload": _payload(router, *column(router.payload, PAYLOAD_TYPES, "table.field.event.payload")),
        # A header cannot be null, and one that is left out says as much.
        "headers": f"jsonb_strip_nulls(jsonb_build_object({listed}))",
        "type": f"{_row('type')}::text" if table.columns.get("type") in TEXTS else "NULL",
    }


def _column(table: Table, name: str, types: tuple[str, ...], option: str) -> tuple[str, str]:
    """The type of a column, and the expression for its value."""
    found = table.columns.get(name)
    if found is None:
        raise RefusedError(
            f"{table.quoted} has no column {name} ({option}); its columns are {', '.join(table.columns)}; give the "
            "connector's configuration with --connector if it names others"
        )
    if found not in types:
        raise RefusedError(f"the column {name} of {table.quoted} has the type {found}; {option} takes {_or(types)}")
    return found, _row(name)


def _key(router: EventRouter, kind: str, value: str) -> str:
    if router.json_keys:
        return _json(kind, value)
    return value if kind == "bytea" else f"convert_to({value}::text, 'UTF8')"


def _payload(router: EventRouter, kind: str, value: str) -> str:
    if router.json_payloads and not router.expand_json:
        found = _json("text" if kind in JSON else kind, value)
    elif kind == "bytea":
        return value
    else:
        found = f"convert_to({value}::text, 'UTF8')"
    if router.tombstone_on_empty_payload:
        some = f"{value} IS NOT NULL" if kind == "bytea" else f"{value}::text ~ '[^[:space:]]'"
        found = f"CASE WHEN {some} THEN {found} END"
    return found


def _json(kind: str, value: str) -> str:
    """What the converter for JSON writes: bytes in Base64, and a word for null."""
    if kind == "bytea":
        value = f"translate(encode({value}, 'base64'), E'\\n', '')"
    text = f"{value}::text" if kind in INTEGERS else f"to_json({value}::text)::text"
    return f"convert_to(coalesce({text}, 'null'), 'UTF8')"


def _topic(template: str, value: str) -> str:
    parts = re.split(r"(\$\{routedByValue\}|\$[01](?![0-9]))", template)
    for literal in parts[::2]:
        if re.search(f"[^{TOPIC_CHARACTERS}]", literal):
            raise RefusedError(
                f"route.topic.replacement is {template}; it takes letters, digits and . _ - and {VALUE}; write the "
                "topic's expression into the printed SQL by hand if it needs more"
            )
    if len("".join(parts[::2])) > LONGEST_TOPIC:
        raise RefusedError(f"route.topic.replacement is longer than the {LONGEST_TOPIC} characters of a topic's name")
    return " || ".join(value if number % 2 else _text(part) for number, part in enumerate(parts) if part)


def _row(column: str) -> str:
    return f"NEW.{identifier(column)}"


def identifier(name: str) -> str:
    return f'"{name.replace(chr(34), chr(34) * 2)}"'


def _text(value: str) -> str:
    quoted = value.replace("'", "''")
    # Whatever standard_conforming_strings is: the function's text is read when it runs.
    return f" E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in value else f"'{quoted}'"


def _or(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
