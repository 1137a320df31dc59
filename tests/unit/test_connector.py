"""What is read from a Debezium connector's configuration, and what is refused because the relay does not do it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from relay.admin.connector import JSON, ROUTER, event_router, read_connector
from relay.errors import InvalidRequestError
from relay.postgres.admin.event_router import EventRouter

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "org.apache.kafka.connect.storage.StringConverter"
CONFIG = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "database.password": "geheim",
    "transforms": "outbox",
    "transforms.outbox.type": ROUTER,
    "key.converter": TEXT,
    "value.converter": TEXT,
}


def option(name: str, value: str) -> dict[str, str]:
    """The configuration with an option of the router."""
    return {**CONFIG, f"transforms.outbox.{name}": value}


def test_a_configuration_without_options_has_debeziums_defaults() -> None:
    assert event_router(CONFIG) == EventRouter()


def test_every_option_of_the_router_that_makes_a_difference_is_read() -> None:
    options = {
        "table.field.event.id": "event_id",
        "table.field.event.key": "key",
        "table.field.event.payload": "body",
        "route.by.field": "kind",
        "route.topic.replacement": "shop.${routedByValue}",
        "route.topic.regex": "(?<routedByValue>.*)",
        "route.tombstone.on.empty.payload": "true",
        "table.fields.additional.placement": "type:header:eventType, tenant:header",
        "table.expand.json.payload": "true",
        "table.op.invalid.behavior": "fatal",
        "tracing.operation.name": "x",
    }
    config = {**CONFIG, **{f"transforms.outbox.{name}": value for name, value in options.items()}}
    assert event_router(config) == EventRouter(
        event_id="event_id",
        key="key",
        payload="body",
        route_by="kind",
        topic="shop.${routedByValue}",
        headers=(("type", "eventType"), ("tenant", "tenant")),
        tombstone_on_empty_payload=True,
        expand_json=True,
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "has no transformation of the type"),
        ({**CONFIG, "transforms": "outbox, other", "transforms.other.type": ROUTER}, "or two"),
        ({**CONFIG, "transforms": "outbox,unwrap"}, "by another transformation as well, unwrap"),
        (option("route.topic.regex", "(.*)-events"), r"route.topic.regex is \(\.\*\)-events"),
        (option("table.fields.additional.placement", "type:envelope"), "has type:envelope"),
        (option("table.fields.additional.placement", "shard:partition"), "has shard:partition"),
        (option("table.fields.additional.placement", "type"), "has type"),
        (option("route.of.tomorrow", "x"), "does not know the event router's option route.of.tomorrow"),
        ({**CONFIG, "value.converter": "io.confluent.connect.avro.AvroConverter"}, "whose format the relay does not"),
        ({**CONFIG, "key.converter": JSON}, "set key.converter.schemas.enable=false"),
        (option("table.fields.additional.placement", "a:header:b\0"), "placement has characters that nobody can see"),
        (option("route.by.field", "\ud800"), "route.by.field has characters that nobody can see"),
        (option("a\u202e", "b"), "has characters that nobody can see"),
    ],
)
def test_nothing_is_left_out_in_silence(config: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as refused:
        event_router(config)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("part", ["key", "value"])
def test_json_without_schemas_is_written(part: str) -> None:
    found = event_router({**CONFIG, f"{part}.converter": JSON, f"{part}.converter.schemas.enable": "false"})
    assert found == EventRouter(json_keys=part == "key", json_payloads=part == "value")


def test_expanded_json_is_written_as_it_is() -> None:
    config = option("table.expand.json.payload", "true")
    found = event_router({**config, "value.converter": JSON, "value.converter.schemas.enable": "false"})
    assert found == EventRouter(expand_json=True)


def test_what_is_taken_for_granted_or_will_be_different_is_noted() -> None:
    config = {name: value for name, value in CONFIG.items() if "converter" not in name}
    config |= {"header.converter": JSON, "transforms.outbox.table.field.event.timestamp": "at"}
    notes = event_router(config).notes
    assert [note.split(":")[0] for note in notes] == [
        "A record's time will be when its row was inserted",
        "Headers will be written as they are, and not as org.apache.kafka.connect.json.JsonConverter writes them.",
        "The configuration names no key.converter",
        "The configuration names no value.converter",
    ]


def written(folder: Path, text: str) -> Path:
    """A file with a configuration."""
    file = folder / "connector"
    file.write_text(text)
    return file


@pytest.mark.parametrize("config", [CONFIG, {"name": "shop", "config": CONFIG}])
def test_json_is_read_as_kafka_connect_gives_it_out(config: dict[str, object], tmp_path: Path) -> None:
    assert read_connector(written(tmp_path, json.dumps(config))) == EventRouter()


def test_properties_of_debezium_server_are_read_in_its_words(tmp_path: Path) -> None:
    text = f"""
# Debezium Server
debezium.transforms=outbox
debezium.transforms.outbox.type = {ROUTER}
debezium.transforms.outbox.route.by.field: kind
debezium.format.key=simplestring
debezium.format.value=json
debezium.format.value.schemas.enable=false
debezium.format.header=simplestring
"""
    assert read_connector(written(tmp_path, text)) == EventRouter(route_by="kind", json_payloads=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ('{"config": 1}', "is not a JSON object"),
        ('{"config": ' + "[" * 100_000, "is nested too deeply"),
        ("<xml/>", "neither JSON nor properties"),
        ("a=b\\\nc", "neither JSON nor properties"),
        (
            "debezium.transforms=o\ndebezium.transforms.o.type=" + ROUTER + "\ndebezium.format.key=avro",
            "key.converter is avro",
        ),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        read_connector(written(tmp_path, text))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    for file in (tmp_path / "binary", tmp_path / "missing"):
        with pytest.raises(InvalidRequestError, match="cannot be read"):
            read_connector(file)
