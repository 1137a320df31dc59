"""Serializers for a schema registry: Avro, JSON Schema and Protobuf in Confluent's wire formats.

placed = AvroSerializer(SCHEMA)
placed.register(Registry("http://registry:8081"), "orders-value")    # once, when the service starts

class OrderPlaced:
    ...
    __event__ = EventType("orders", key="order_id", serialize=placed)

The registry is asked by `register` and `look_up` alone, never by `enqueue`: no transaction waits for it. The id of the
schema is a prefix of the payload, five bytes long, or a header in its place.

Source: https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

import io
import json
import struct
from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, cast

from relay.enqueue.json import fields_of, is_model, refuse_naive, to_json
from relay.enqueue.registry_client import Registry, RegistryError
from relay.enqueue.typed import Serialized
from relay.errors import EnqueueError

__all__ = [
    "AvroSerializer",
    "JsonSchemaSerializer",
    "ProtobufSerializer",
    "RegisteredSerializer",
    "Registry",
    "RegistryError",
    "Serialized",
    "message_indexes",
]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAGIC = b"\0"


class RegisteredSerializer(ABC):
    """A serializer whose schema has an id in a registry; call `register` or `look_up` before the first event.

    `header` is the name of a header for the id, which then is not a prefix of the payload.
    """

    kind: ClassVar[str]

    def __init__(self, schema: str, *, header: str | None = None) -> None:
        self.schema = schema
        self.id: int | None = None
        self._header = header
        self._prefix = b""

    def register(self, registry: Registry, subject: str) -> int:
        """Register the schema under the subject, `orders-value` say, and return its id. Not in a transaction."""
        return self._known(registry.register(subject, self.kind, self.schema))

    def look_up(self, registry: Registry, subject: str) -> int:
        """Find the id of the schema, which somebody else registers. Not in a transaction."""
        return self._known(registry.look_up(subject, self.kind, self.schema))

    def _known(self, number: int) -> int:
        self.id = number
        self._prefix = _MAGIC + number.to_bytes(4, "big")
        return number

    def __call__(self, subject: Any) -> bytes | Serialized:
        """The payload of an object. Raises EnqueueError if the schema has no id yet."""
        if self.id is None:
            raise EnqueueError(
                f"the schema of {subject.__class__.__name__} has no id yet; call register() or look_up() of its "
                "serializer when the service starts"
            )
        if self._header is not None:
            return Serialized(self.body(subject), {self._header: str(self.id)})
        return self._prefix + self.body(subject)

    @abstractmethod
    def body(self, subject: Any) -> bytes:
        """What follows the id."""


class JsonSchemaSerializer(RegisteredSerializer):
    """JSON by the rules of relay.enqueue.json, with the id of a JSON Schema. It does not check objects against it."""

    kind = "JSON"

    def __init__(self, schema: str | Mapping[str, Any], *, header: str | None = None) -> None:
        super().__init__(schema if isinstance(schema, str) else json.dumps(schema), header=header)

    def body(self, subject: Any) -> bytes:
        """The object as JSON."""
        return to_json(subject)


class AvroSerializer(RegisteredSerializer):
    """Avro by fastavro, which `pip install outbox-relay[avro]` brings.

    Datetimes, dates, UUIDs and Decimals go to Avro's logical types.
    """

    kind = "AVRO"

    def __init__(self, schema: str | Mapping[str, Any], *, header: str | None = None) -> None:
        import fastavro

        super().__init__(schema if isinstance(schema, str) else json.dumps(schema), header=header)
        self._write: Callable[..., None] = fastavro.schemaless_writer
        try:
            self._parsed = fastavro.parse_schema(json.loads(self.schema))
        except Exception as error:
            raise EnqueueError(f"this is not an Avro schema: {error.__class__.__name__}: {error}") from error

    def body(self, subject: Any) -> bytes:
        """The object as Avro."""
        name = subject.__class__.__name__
        written = io.BytesIO()
        try:
            refuse_naive(subject, name)
            self._write(written, self._parsed, _record(subject), strict=True)
        except EnqueueError:
            raise
        except RecursionError:
            raise EnqueueError(f"{name} contains itself, or is nested too deeply for Avro") from None
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error) as error:
            raise EnqueueError(f"{name} does not fit its Avro schema: {error}") from error
        return written.getvalue()


class ProtobufSerializer(RegisteredSerializer):
    """Protobuf: `schema` is the text of the .proto file, and `convert` makes a message of an object.

    Without `convert` the objects are messages themselves.
    """

    kind = "PROTOBUF"

    def __init__(self, schema: str, *, convert: Callable[[Any], Any] | None = None, header: str | None = None) -> None:
        super().__init__(schema, header=header)
        self._convert = convert

    def body(self, subject: Any) -> bytes:
        """The indexes that lead to the message in its file, and the message."""
        message = subject if self._convert is None else self._convert(subject)
        name = message.__class__.__name__
        if not hasattr(message, "SerializeToString"):
            raise EnqueueError(f"{name} is not a message of Protobuf; give the serializer `convert`, which makes one")
        if not message.IsInitialized():
            raise EnqueueError(f"{name} has no value for {', '.join(message.FindInitializationErrors())}")
        return message_indexes(message.DESCRIPTOR) + cast("bytes", message.SerializeToString())


def message_indexes(descriptor: Any) -> bytes:
    """Where in its file a message is declared: the indexes from the outermost to it, as zigzag varints."""
    indexes: list[int] = []
    while descriptor is not None:
        outer = descriptor.containing_type
        siblings = descriptor.file.message_types_by_name.values() if outer is None else outer.nested_types
        indexes.insert(0, [each.full_name for each in siblings].index(descriptor.full_name))
        descriptor = outer
    if indexes == [0]:
        return b"\0"  # By far the most frequent: it has a form of its own.
    return b"".join(_varint(2 * number) for number in (len(indexes), *indexes))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _record(value: Any) -> Any:
    """Objects as dictionaries and enums as their values, to any depth; other values as they are."""
    if isinstance(value, Enum):
        return _record(value.value)
    if isinstance(value, list | tuple):
        return [_record(each) for each in value]
    if isinstance(value, dict):
        return {name: _record(each) for name, each in value.items()}
    if is_model(value):
        return _record(value.model_dump(by_alias=True))
    fields = fields_of(value)
    return value if fields is None else {name: _record(each) for name, each in fields}
