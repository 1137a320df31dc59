"""Reads from a Debezium connector's configuration what its event router does with a row.

The configuration is JSON, as Kafka Connect gives it out, or the properties of Debezium Server. Nothing else in it is
used, and no value of it is shown but those of the router and of the converters: it may hold passwords.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from relay.errors import InvalidRequestError
from relay.postgres.admin.event_router import EventRouter
from relay.text import visible

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ROUTER = "io.debezium.transforms.outbox.EventRouter"
JSON = "org.apache.kafka.connect.json.JsonConverter"
AS_IS = (
    "org.apache.kafka.connect.storage.StringConverter",
    "org.apache.kafka.connect.converters.ByteArrayConverter",
    "io.debezium.converters.BinaryDataConverter",
)
HEADERS_AS_TEXT = ("org.apache.kafka.connect.storage.SimpleHeaderConverter", AS_IS[0])
FORMATS = {"json": JSON, "simplestring": AS_IS[0], "bytearray": AS_IS[1], "binary": AS_IS[2]}
"""Debezium Server's words for them."""

COLUMNS = {
    "table.field.event.id": "event_id",
    "table.field.event.key": "key",
    "table.field.event.payload": "payload",
    "route.by.field": "route_by",
}
ANY_VALUE = r"(?<routedByValue>.*)"
IGNORED = ("type", "predicate", "negate", "table.op.invalid.behavior", "table.field.event.schema.version")
"""Options that make no difference to an inserted row's record."""
IGNORED_PREFIX = "tracing."


def read_connector(path: Path) -> EventRouter:
    """Return what the router of the configuration in a file does.

    Raises InvalidRequestError if the file is none, or if it asks for something that the relay does not do: nothing is
    left out in silence.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the connector's configuration cannot be read: {error}") from error
    return event_router(_parsed(text))


def event_router(config: Mapping[str, str]) -> EventRouter:
    """Return what the router of a configuration does; see `read_connector`."""
    options = _options_of_router(config)
    found: dict[str, Any] = {COLUMNS[name]: options.pop(name) for name in COLUMNS if name in options}
    notes: list[str] = []
    if "route.topic.replacement" in options:
        found["topic"] = options.pop("route.topic.replacement")
    if (regex := options.pop("route.topic.regex", ANY_VALUE)) != ANY_VALUE:
        raise InvalidRequestError(
            f"route.topic.regex is {regex}, which the relay does not evaluate; leave it out of the file, and write the "
            "topic's expression into the printed SQL by hand"
        )
    found["tombstone_on_empty_payload"] = _is_true(options.pop("route.tombstone.on.empty.payload", "false"))
    found["expand_json"] = _is_true(options.pop("table.expand.json.payload", "false"))
    found["headers"] = _headers(options.pop("table.fields.additional.placement", ""))
    if options.pop("table.field.event.timestamp", ""):
        notes.append("A record's time will be when its row was inserted: table.field.event.timestamp is not used.")
    for name in [name for name in options if name in IGNORED or name.startswith(IGNORED_PREFIX)]:
        del options[name]
    if options:
        raise InvalidRequestError(
            f"the relay does not know the event router's option {min(options)}; leave it out of the file if it "
            "makes no difference to topics, keys, payloads and headers"
        )
    _note_headers(config, notes)
    found["json_keys"] = _writes_json(config, "key", notes)
    # Without a converter that is named, expanded JSON can only have been written by that of JSON.
    found["json_payloads"] = _writes_json(config, "value", notes) and not found["expand_json"]
    return EventRouter(**found, notes=tuple(notes))


def _parsed(text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        try:
            given = json.loads(text)
        except RecursionError:
            raise InvalidRequestError("the connector's configuration is nested too deeply") from None
        except ValueError as error:
            raise InvalidRequestError(f"the connector's configuration is not JSON: {error}") from None
        given = given.get("config", given)
        if not isinstance(given, dict):
            raise InvalidRequestError("the connector's configuration is not a JSON object of options")
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    lines = [line.strip() for line in text.splitlines()]
    found = {}
    for line in lines:
        if not line or line[0] in "#!":
            continue
        option = re.fullmatch(r"([\w.\-]+)\s*[=:]\s*(.*?)", line)
        if option is None or line.endswith("\\"):
            raise InvalidRequestError(
                "the connector's configuration is neither JSON nor properties, one `name=value` on each line"
            )
        found[option[1].removeprefix("debezium.")] = option[2]
    return found


def _options_of_router(config: Mapping[str, str]) -> dict[str, str]:
    names = [name.strip() for name in config.get("transforms", "").split(",") if name.strip()]
    routers = [name for name in names if config.get(f"transforms.{name}.type") == ROUTER]
    if len(routers) != 1:
        raise InvalidRequestError(f"the connector's configuration has no transformation of the type {ROUTER}, or two")
    if others := [name for name in names if name not in routers]:
        raise InvalidRequestError(
            f"the connector changes records by another transformation as well, {others[0]}, which the relay does not; "
            "leave it out of the file if it makes no difference to topics, keys, payloads and headers"
        )
    prefix = f"transforms.{routers[0]}."
    options = {name.removeprefix(prefix): value for name, value in config.items() if name.startswith(prefix)}
    for name, value in options.items():
        if not visible(name + value):
            raise InvalidRequestError(f"the event router's option {name} has characters that nobody can see: {value}")
    return options


def _headers(placements: str) -> tuple[tuple[str, str], ...]:
    found = []
    for placement in filter(None, (each.strip() for each in placements.split(","))):
        column, _, rest = placement.partition(":")
        where, _, alias = rest.partition(":")
        if where != "header":
            raise InvalidRequestError(
                f"table.fields.additional.placement has {placement}; the relay puts columns into headers, and neither "
                "into the payload's envelope nor chooses the partition by one"
            )
        found.append((column, alias or column))
    return tuple(found)


def _note_headers(config: Mapping[str, str], notes: list[str]) -> None:
    """Headers are text, as Kafka Connect writes them by default; Debezium Server's default is JSON."""
    server = any(name.startswith("format.") for name in config)
    given = config.get("header.converter") or FORMATS.get(config.get("format.header", "json" if server else ""))
    if given not in (None, *HEADERS_AS_TEXT):
        notes.append(f"Headers will be written as they are, and not as {given} writes them.")


def _writes_json(config: Mapping[str, str], part: str, notes: list[str]) -> bool:
    """Whether keys or values are written as JSON; they are written as they are if no converter is named."""
    given = config.get(f"{part}.converter") or FORMATS.get(config.get(f"format.{part}", ""))
    schemas = config.get(f"{part}.converter.schemas.enable", config.get(f"format.{part}.schemas.enable", "true"))
    if given is None and f"format.{part}" not in config:
        notes.append(
            f"The configuration names no {part}.converter: {part}s will be written as they are, as by {AS_IS[0]}."
        )
        return False
    if given in AS_IS:
        return False
    if given != JSON:
        raise InvalidRequestError(
            f"{part}.converter is {given or config[f'format.{part}']}, whose format the relay does not write; "
            "it writes bytes and text as they are, or as JSON"
        )
    if _is_true(schemas):
        raise InvalidRequestError(
            f"{part}.converter puts each {part} into an envelope with a schema, which the relay does not; consumers "
            f"must learn to do without first: set {part}.converter.schemas.enable=false in Kafka Connect"
        )
    return True


def _is_true(text: str) -> bool:
    return text.strip().lower() == "true"
