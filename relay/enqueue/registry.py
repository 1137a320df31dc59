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

import base64
import io
import json
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import quote

from relay.enqueue.json import fields_of, refuse_naive, to_json
from relay.enqueue.typed import Serialized
from relay.errors import EnqueueError, RelayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_MAGIC = b"\0"


class RegistryError(RelayError):
    """The schema registry cannot be reached, or refuses what it was asked."""


class Registry:
    """A schema registry with Confluent's interface. `timeout` is in seconds, for each request."""

    def __init__(
        self, url: str, *, user: str | None = None, password: str | None = None, timeout: float = 10.0
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise RegistryError(f"{url!r} is not the address of a registry; write http://host:8081 or https://host")
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._headers = {"Content-Type": _MEDIA_TYPE, "Accept": _MEDIA_TYPE}
        if user is not None:
            credentials = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"

    def register(self, subject: str, kind: str, schema: str) -> int:
        """Register a schema (of kind AVRO, JSON or PROTOBUF) and return its id; the id it has, if it is there."""
        return self._ask(f"/subjects/{quote(subject, safe='')}/versions", subject, kind, schema)

    def look_up(self, subject: str, kind: str, schema: str) -> int:
        """Return the id of a schema that is registered. Raises RegistryError if it is not."""
        return self._ask(f"/subjects/{quote(subject, safe='')}", subject, kind, schema)

    def _ask(self, path: str, subject: str, kind: str, schema: str) -> int:
        asked = {"schema": schema} if kind == "AVRO" else {"schema": schema, "schemaType": kind}
        request = urllib.request.Request(  # noqa: S310 the address was checked
            self._url + path, json.dumps(asked).encode(), self._headers, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:  # noqa: S310 the same
                return int(json.load(answer)["id"])
        except urllib.error.HTTPError as error:
            with error:
                text = " ".join(error.read(2000).decode(errors="replace").split())
            raise RegistryError(f"the schema registry refuses {subject}: {error.code} {text[:300]}") from error
        except OSError as error:
            raise RegistryError(
                f"the schema registry at {self._url} cannot be reached: {getattr(error, 'reason', error)}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{self._url} does not answer as a schema registry does; check the address") from error


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
        self._parsed = fastavro.parse_schema(json.loads(self.schema))

    def body(self, subject: Any) -> bytes:
        """The object as Avro."""
        name = subject.__class__.__name__
        refuse_naive(subject, name)
        written = io.BytesIO()
        try:
            self._write(written, self._parsed, _record(subject), strict=True)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
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
    """Objects as dictionaries, to any depth; other values as they are."""
    if isinstance(value, list | tuple):
        return [_record(each) for each in value]
    if isinstance(value, dict):
        return {name: _record(each) for name, each in value.items()}
    fields = fields_of(value)
    return value if fields is None else {name: _record(each) for name, each in fields}
