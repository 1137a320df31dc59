"""Typed events: a class says once how its objects become events.

@dataclass(frozen=True)
class OrderPlaced:
    order_id: int
    total: Decimal
    __event__ = EventType("orders", key="order_id", type="order.placed")

await enqueue(connection, OrderPlaced(order_id=42, total=Decimal("9.90")))

The class may be a dataclass, a Pydantic model, a msgspec struct or an attrs class. Its fields become JSON by the rules
of relay.enqueue.json, unless another serializer is given.
"""

from __future__ import annotations

from uuid import UUID

from relay.enqueue.event import Event
from relay.errors import EnqueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Serialized:
    """What a serializer may return in place of bytes: the payload, and headers that say how to read it."""

    __slots__ = ("headers", "payload")

    def __init__(self, payload: bytes, headers: Mapping[str, str]) -> None:
        self.payload = payload
        self.headers = headers


class EventType:
    """How the objects of a class become events.

    `key` is the name of a field, or a function of the object; None means no order among the events. The key's value
    is a str, int, UUID or bytes. `serialize` makes the payload of an object: bytes, or a `Serialized`; JSON if not
    given. `headers` go with each event. Raises EnqueueError for what no event can have.
    """

    def __init__(
        self,
        topic: str,
        *,
        key: str | Callable[[Any], object] | None,
        type: str | None = None,  # noqa: A002 the word of CloudEvents and of the schema
        headers: Mapping[str, str] | None = None,
        serialize: Callable[[Any], bytes | Serialized] | None = None,
    ) -> None:
        Event(topic, key=None, payload=None, type=type, headers=headers)  # Refuses what no event can have.
        if not (key is None or isinstance(key, str) or callable(key)):
            raise EnqueueError(f"key must be the name of a field, a function or None, not {key.__class__.__name__}")
        if not (serialize is None or callable(serialize)):
            raise EnqueueError(f"serialize must be a function of the object, not {serialize.__class__.__name__}")
        self.topic = topic
        self.type = type
        self.headers = dict(headers or {})
        self._key = key
        self._serialize = serialize

    def event_of(self, subject: object) -> Event:
        """The event of an object. Raises EnqueueError."""
        serialize = self._serialize
        if serialize is None:
            from relay.enqueue.json import to_json

            self._serialize = serialize = to_json
        made = serialize(subject)
        if isinstance(made, Serialized):
            payload, headers = made.payload, {**self.headers, **made.headers}
        else:
            payload, headers = made, self.headers
        if not isinstance(payload, bytes):
            raise EnqueueError(
                f"the serializer of {_name(subject)} returned {payload.__class__.__name__}; it must return bytes"
            )
        return Event(self.topic, key=self._key_of(subject), payload=payload, headers=headers, type=self.type)

    def _key_of(self, subject: object) -> bytes | str | None:
        if self._key is None:
            return None
        if isinstance(self._key, str):
            try:
                value = getattr(subject, self._key)
            except AttributeError:
                raise EnqueueError(
                    f"{_name(subject)} has no field {self._key!r}, which its __event__ says is the key"
                ) from None
        else:
            value = self._key(subject)
        if isinstance(value, str | bytes):
            return value
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return _number(value, subject)
        if value is None:
            raise EnqueueError(f"the key of {_name(subject)} is None; give the object a key, or declare key=None")
        raise EnqueueError(
            f"the key of {_name(subject)} is of type {value.__class__.__name__}; it must be a str, int, UUID or bytes"
        )


def _number(value: int, subject: object) -> str:
    try:
        return int.__repr__(value)  # An enum of numbers says its name.
    except ValueError:  # Python writes out no number of thousands of digits.
        raise EnqueueError(f"the key of {_name(subject)} is a number of thousands of digits; give a str") from None


def _name(subject: object) -> str:
    return subject.__class__.__name__
