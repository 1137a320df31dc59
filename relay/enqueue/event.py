"""The event as a service hands it in, checked when it is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from uuid import UUID, uuid4

from relay.errors import EnqueueError
from relay.headers import MAX_BYTES, MAX_HEADERS, PREFIX
from relay.names import LONGEST_TOPIC, is_topic


@dataclass(frozen=True, slots=True)
class Event:
    """One fact to publish. Raises EnqueueError, which names the argument, if it cannot be one.

    `key` and `payload` given as `str` become UTF-8 bytes. A key of None means no order among events; a payload of
    None is a tombstone. `event_id` is made up when not given; consumers see it as the header outbox-event-id.
    """

    topic: str
    _: KW_ONLY
    key: bytes | str | None
    payload: bytes | str | None
    headers: Mapping[str, str] | None = field(default=None, hash=False)
    type: str | None = None
    event_id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        """Check every field, and take copies of what the caller could still change."""
        _check_topic(self.topic)
        object.__setattr__(self, "key", _as_bytes("key", self.key))
        object.__setattr__(self, "payload", _as_bytes("payload", self.payload))
        object.__setattr__(self, "headers", _checked_headers(self.headers))
        if self.type is not None:
            _check_text("type", self.type)
        if not isinstance(self.event_id, UUID):
            raise EnqueueError(f"event_id must be a uuid.UUID, not {_kind(self.event_id)}")


def _json(headers: Mapping[str, str]) -> str:
    return json.dumps(dict(headers), ensure_ascii=False)


def row(event: Event) -> tuple[UUID, str, bytes | None, bytes | None, str, str | None]:
    """The columns event_id, topic, key, payload, headers (JSON text) and type."""
    # An Event that exists has been checked: key and payload are bytes by now.
    headers = _json(event.headers) if event.headers else "{}"
    return event.event_id, event.topic, event.key, event.payload, headers, event.type  # type: ignore[return-value]


COLUMNS = ("event_id", "topic", "key", "payload", "headers", "type")


def size(event: Event) -> int:
    """Bytes as the schema's limit counts them: key, payload, headers as JSON text, type."""
    _, _, key, payload, headers, kind = row(event)
    return len(key or b"") + len(payload or b"") + len(headers.encode()) + len((kind or "").encode())


def _check_topic(topic: object) -> None:
    if not isinstance(topic, str):
        raise EnqueueError(f"topic must be a str, not {_kind(topic)}")
    if not topic:
        raise EnqueueError("topic is empty; name the Kafka topic the event goes to")
    if not is_topic(topic):
        raise EnqueueError(
            f"topic {topic[:60]!r} is not a topic name; use 1 to {LONGEST_TOPIC} of the characters a-z A-Z 0-9 . _ -"
        )


def _as_bytes(name: str, value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return _encoded(name, value)
    hint = " (for JSON, json.dumps it first)" if isinstance(value, Mapping | list) else ""
    raise EnqueueError(f"{name} must be bytes, str or None, not {_kind(value)}{hint}")


def _checked_headers(headers: object) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise EnqueueError(f"headers must be a mapping of str to str, not {_kind(headers)}")
    copy: dict[str, str] = {}
    for name, value in headers.items():
        _check_text("a header's name", name)
        if name.startswith(PREFIX):
            raise EnqueueError(f"header {name[:60]!r}: names that begin with {PREFIX} are the relay's own; use another")
        copy[name] = _check_text(f"header {name[:60]!r}", value)
    if len(copy) > MAX_HEADERS:
        raise EnqueueError(
            f"there are {len(copy):,} headers, more than the {MAX_HEADERS} that the outbox takes; "
            "put the others into the payload"
        )
    # A character takes six bytes as JSON at most: what is small is not written out to be counted.
    most = sum(6 * (len(name) + len(value)) + 8 for name, value in copy.items())
    if most > MAX_BYTES and (size := len(_json(copy).encode())) > MAX_BYTES:
        raise EnqueueError(
            f"the headers have {size:,} bytes as JSON, more than the {MAX_BYTES:,} that the outbox takes; "
            "put large values into the payload"
        )
    return copy


def _check_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise EnqueueError(f"{name} must be a str, not {_kind(value)}")
    if "\0" in value:
        raise EnqueueError(f"{name} contains a NUL character, which PostgreSQL cannot store as text; remove it")
    _encoded(name, value)
    return value


def _encoded(name: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise EnqueueError(f"{name} contains a lone surrogate and cannot be encoded as UTF-8; remove it") from None


def _kind(value: object) -> str:
    return type(value).__name__
