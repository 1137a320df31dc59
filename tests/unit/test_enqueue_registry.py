"""Serializers with a schema registry: a stub of one, and Confluent's wire formats read back."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import threading
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from relay.enqueue import EnqueueError, EventType
from relay.enqueue.arguments import event_of
from relay.enqueue.registry import (
    AvroSerializer,
    JsonSchemaSerializer,
    ProtobufSerializer,
    Registry,
    RegistryError,
    message_indexes,
)
from tests.support.enqueue.registry import running_raw, running_stub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.enqueue.registry import Stub


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A registry that runs."""
    with running_stub() as server:
        yield server


@dataclasses.dataclass
class Placed:
    """An order that was placed."""

    order_id: int
    total: Decimal
    at: datetime
    request: UUID
    notes: list[str]


PLACED = Placed(42, Decimal("9.90"), datetime(2026, 3, 29, 1, 30, tzinfo=UTC), UUID(int=7), ["grün"])
AVRO = {
    "type": "record",
    "name": "Placed",
    "fields": [
        {"name": "order_id", "type": "long"},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "request", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "notes", "type": {"type": "array", "items": "string"}},
    ],
}


def payload(serializer: Any, subject: object) -> bytes:
    """The payload of the event that an object of this class becomes."""
    made = EventType("orders", key=None, serialize=serializer).event_of(subject)
    assert isinstance(made.payload, bytes)
    return made.payload


def test_a_json_payload_begins_with_the_id_that_the_registry_gave(stub: Stub) -> None:
    serializer = JsonSchemaSerializer({"type": "object"})
    assert serializer.register(Registry(stub.url, user="relay", password="secret"), "orders-value") == 300
    assert stub.asked == [
        (
            "/subjects/orders-value/versions",
            {"schema": '{"type": "object"}', "schemaType": "JSON"},
            "Basic cmVsYXk6c2VjcmV0",
        )
    ]
    written = payload(serializer, PLACED)
    assert written[:5] == b"\0\0\0\x01\x2c"
    assert json.loads(written[5:])["order_id"] == 42


def test_the_id_can_be_a_header_in_place_of_a_prefix(stub: Stub) -> None:
    serializer = JsonSchemaSerializer("{}", header="schema-id")
    serializer.register(Registry(stub.url), "orders-value")
    made = EventType("orders", key="order_id", serialize=serializer).event_of(PLACED)
    assert made.headers == {"schema-id": "300"}
    assert json.loads(made.payload or b"")["order_id"] == 42


def test_avro_is_read_back_with_its_logical_types(stub: Stub) -> None:
    fastavro = pytest.importorskip("fastavro")
    serializer = AvroSerializer(AVRO)
    serializer.register(Registry(stub.url), "orders-value")
    assert "schemaType" not in stub.asked[0][1]
    written = payload(serializer, PLACED)
    assert written[:5] == b"\0\0\0\x01\x2c"
    read = fastavro.schemaless_reader(io.BytesIO(written[5:]), fastavro.parse_schema(AVRO), None)
    assert read == dataclasses.asdict(PLACED)


class State(Enum):
    """What an order may be."""

    PAID = "paid"


@dataclasses.dataclass
class Changed:
    """An order that was changed."""

    state: State


def test_an_enum_is_its_value_in_avro(stub: Stub) -> None:
    fastavro = pytest.importorskip("fastavro")
    kind = {"type": "enum", "name": "State", "symbols": ["placed", "paid"]}
    schema = {"type": "record", "name": "Changed", "fields": [{"name": "state", "type": kind}]}
    serializer = AvroSerializer(schema)
    serializer.register(Registry(stub.url), "orders-value")
    written = payload(serializer, Changed(State.PAID))
    read = fastavro.schemaless_reader(io.BytesIO(written[5:]), fastavro.parse_schema(schema), None)
    assert read == {"state": "paid"}


@pytest.mark.parametrize(
    "changes",
    [{"order_id": "x"}, {"order_id": 2**70}, {"notes": [1]}, {"at": datetime(2026, 1, 1)}],  # noqa: DTZ001 the point
)
def test_an_object_that_does_not_fit_its_avro_schema_is_refused(stub: Stub, changes: dict[str, Any]) -> None:
    pytest.importorskip("fastavro")
    serializer = AvroSerializer(AVRO)
    serializer.register(Registry(stub.url), "orders-value")
    with pytest.raises(EnqueueError, match="Placed"):
        payload(serializer, dataclasses.replace(PLACED, **changes))


@pytest.mark.parametrize("schema", ["{", {}, {"type": "recor"}, 5])
def test_what_is_no_avro_schema_is_refused_when_it_is_declared(schema: Any) -> None:
    with pytest.raises(EnqueueError, match="this is not an Avro schema: "):
        AvroSerializer(schema)


def test_protobuf_names_the_message_by_its_indexes(stub: Stub) -> None:
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    pool_module = pytest.importorskip("google.protobuf.descriptor_pool")
    factory = pytest.importorskip("google.protobuf.message_factory")
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    for name in ("First", "Second"):
        message = file.message_type.add(name=name)
        message.field.add(name="order_id", number=1, type=3, label=1)
        message.nested_type.add(name="A").field.add(name="order_id", number=1, type=3, label=1)
        message.nested_type.add(name="B")
    pool = pool_module.DescriptorPool()
    pool.Add(file)

    def kind(name: str) -> Any:
        return factory.GetMessageClass(pool.FindMessageTypeByName(f"shop.{name}"))

    assert message_indexes(kind("First").DESCRIPTOR) == b"\0"
    assert message_indexes(kind("Second").DESCRIPTOR) == b"\x02\x02"
    assert message_indexes(kind("Second.B").DESCRIPTOR) == b"\x04\x02\x02"
    serializer = ProtobufSerializer("...", convert=lambda placed: kind("Second")(order_id=placed.order_id))
    serializer.register(Registry(stub.url), "orders-value")
    written = payload(serializer, PLACED)
    assert written[:7] == b"\0\0\0\x01\x2c\x02\x02"
    assert kind("Second").FromString(written[7:]).order_id == 42
    assert payload(ProtobufWithId("..."), kind("First")(order_id=1)) == b"\0\0\0\0\x07\0\x08\x01"


class ProtobufWithId(ProtobufSerializer):
    """A serializer whose schema has the id 7."""

    def __init__(self, schema: str) -> None:
        super().__init__(schema)
        self._known(7)


def test_an_event_before_the_schema_has_an_id_is_refused_and_asks_nobody(stub: Stub) -> None:
    made = type("Made", (Placed,), {"__event__": EventType("orders", key=None, serialize=JsonSchemaSerializer("{}"))})
    with pytest.raises(EnqueueError, match=r"the schema of Made has no id yet; call register\(\) or look_up\(\)"):
        event_of(made(**dataclasses.asdict(PLACED)), {})
    assert stub.asked == []


def test_a_schema_that_is_not_registered_is_refused_when_it_is_looked_up(stub: Stub) -> None:
    serializer = JsonSchemaSerializer("{}")
    with pytest.raises(RegistryError, match=r"the schema registry refuses orders-value: 404 .*Schema not found"):
        serializer.look_up(Registry(stub.url), "orders-value")
    serializer.register(Registry(stub.url), "orders-value")
    assert serializer.look_up(Registry(stub.url), "orders-value") == 300


def test_a_registry_that_is_away_or_is_none_is_named() -> None:
    with pytest.raises(RegistryError, match=r"the schema registry at http://127.0.0.1:1 cannot be reached"):
        JsonSchemaSerializer("{}").register(Registry("http://127.0.0.1:1"), "orders-value")
    with pytest.raises(RegistryError, match="'file:///etc' is not the address of a registry"):
        Registry("file:///etc")


def ok(body: bytes) -> bytes:
    """An answer of HTTP."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\xff" * 100,
        b"HTTP/1.1 " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ok(b""),
        ok(b"\xff"),
        ok(b"[" * 100_000),
        ok(b"[]"),
        ok(b'{"id": null}'),
        ok(b'{"id": true}'),
        ok(b'{"id": 1.5}'),
        ok(b'{"id": "7"}'),
        ok(b'{"id": -1}'),
        ok(b'{"id": 4294967296}'),
        ok(b'{"id": 7, "a": "' + b"x" * 2_000_000 + b'"}'),
    ],
    ids=range(16),
)
def test_an_answer_that_is_no_registrys_is_refused(answer: bytes) -> None:
    with running_raw([answer]) as server, pytest.raises(RegistryError, match="schema registry"):
        JsonSchemaSerializer("{}").register(Registry(server.url), "orders-value")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_no_password_goes_elsewhere(stub: Stub, status: int) -> None:
    redirect = f"HTTP/1.1 {status} Away\r\nLocation: {stub.url}/x\r\nContent-Length: 0\r\n\r\n"
    with running_raw([redirect.encode()]) as server:
        registry = Registry(server.url, user="relay", password="secret")
        with pytest.raises(RegistryError, match=rf"leads elsewhere \({status}\); give the registry's own address"):
            JsonSchemaSerializer("{}").register(registry, "orders-value")
        assert len(server.asked) == 1
    assert stub.asked == []


def test_a_registry_that_never_ends_its_answer_is_given_up() -> None:
    """With each byte, a time-out of the socket would begin again."""
    over = threading.Event()

    def trickle() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        for number in itertools.count():
            over.wait(0.01)
            if over.is_set():
                return
            yield b"x%d: y\r\n" % number if number < 50 else b"x"

    with running_raw(trickle()) as server:
        with pytest.raises(RegistryError, match=r"cannot be reached: no answer within 0\.3 s"):
            JsonSchemaSerializer("{}").register(Registry(server.url, timeout=0.3), "orders-value")
        over.set()


def test_what_a_registry_says_is_shown_without_what_a_terminal_would_do() -> None:
    body = b"\x1b[2Jgone\0" + b"x" * 5000
    answer = b"HTTP/1.1 422 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with running_raw([answer]) as server, pytest.raises(RegistryError, match=r"422 \?\[2Jgone\?x{291}$"):
        JsonSchemaSerializer("{}").register(Registry(server.url), "orders-value")


def test_user_and_password_may_be_in_the_address_and_are_never_shown(stub: Stub) -> None:
    address = stub.url.replace("//", "//relay:s%40cret@") + "/"
    JsonSchemaSerializer("{}").register(Registry(address), "orders-value")
    assert stub.asked[-1][2] == "Basic cmVsYXk6c0BjcmV0"
    for wrong in ("http://relay:s%40cret@127.0.0.1:1", "http://relay:s%40cret@host:port"):
        with pytest.raises(RegistryError) as refused:
            JsonSchemaSerializer("{}").register(Registry(wrong), "orders-value")
        assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["", "registry:8081", "ftp://registry", "http://", "http://[", "http://a b", "http://h?x"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(RegistryError, match="is not the address of a registry; write http://host:8081"):
        Registry(url)


def test_an_object_that_contains_itself_is_refused(stub: Stub) -> None:
    pytest.importorskip("fastavro")
    serializer = AvroSerializer(AVRO)
    serializer.register(Registry(stub.url), "orders-value")
    notes: list[Any] = []
    notes.append(notes)
    with pytest.raises(EnqueueError, match="Placed contains itself"):
        payload(serializer, dataclasses.replace(PLACED, notes=notes))


def test_what_is_no_message_of_protobuf_is_refused() -> None:
    with pytest.raises(EnqueueError, match="Placed is not a message of Protobuf; give the serializer `convert`"):
        payload(ProtobufWithId("..."), PLACED)
