"""The event as a service hands it in, checked when it is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from uuid import UUID, uuid4

from relay.errors import EnqueueError
from relay.headers import MAX_BYTES, MAX_HEADERS, PREFIX
from relay.names import LONGEST_TOPIC, is_topic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime, timedelta

_known_topics: set[str] = set()
"""Topics that were found to be right: a service has few of them. Bounded, because some services make names up."""
_MAX_KNOWN_TOPICS = 1000

CLOUD_EVENTS_PREFIX = "ce_"
RESERVED = (PREFIX, CLOUD_EVENTS_PREFIX)
"""What no header of a writer begins with."""


@dataclass(frozen=True, slots=True)
class Event:
    """One fact to publish. Raises EnqueueError, which names the argument, if it cannot be one.

    `key` and `payload` given as `str` become UTF-8 bytes. A key of None means no order among events; a payload of
    None is a tombstone. `event_id` is made up when not given; consumers see it as the header outbox-event-id.

    With `deliver_at`, a time with a time zone, or `delay`, a timedelta or seconds by the database's clock, the event is
    scheduled: it enters the outbox when it is due. `timer` names it for `cancel` and `reschedule`.
    """

    topic: str
    _: KW_ONLY
    key: bytes | str | None
    payload: bytes | str | None
    headers: Mapping[str, str] | None = field(default=None, hash=False)
    type: str | None = None
    event_id: UUID = field(default_factory=uuid4)
    deliver_at: datetime | None = None
    delay: timedelta | float | None = None
    timer: str | None = None

    def __post_init__(self) -> None:
        """Check every field, and take copies of what the caller could still change."""
        if self.topic.__class__ is not str or self.topic not in _known_topics:
            _check_topic(self.topic)
        _set_key(self, _as_bytes("key", self.key))
        _set_payload(self, _as_bytes("payload", self.payload))
        _set_headers(self, _checked_headers(self.headers) if self.headers is not None else {})
        if self.type is not None:
            _check_text("type", self.type)
        if self.event_id.__class__ is not UUID and not isinstance(self.event_id, UUID):
            raise EnqueueError(f"event_id must be a uuid.UUID, not {_kind(self.event_id)}")
        if self.deliver_at is not None or self.delay is not None or self.timer is not None:
            self._check_schedule()

    @property
    def is_scheduled(self) -> bool:
        """Whether the event enters the outbox later."""
        return self.deliver_at is not None or self.delay is not None

    def _check_schedule(self) -> None:
        # Not before: whoever schedules nothing need not wait for the import of datetime.
        from relay.enqueue.scheduling import check_schedule, checked_delay, checked_deliver_at

        check_schedule(deliver_at=self.deliver_at, delay=self.delay, timer=self.timer)
        if self.deliver_at is not None:
            _set_deliver_at(self, checked_deliver_at(self.deliver_at))
        else:
            _set_delay(self, checked_delay(self.delay))


# What object.__setattr__ comes to on a frozen class with slots, at half the cost.
_set_key = vars(Event)["key"].__set__
_set_payload = vars(Event)["payload"].__set__
_set_headers = vars(Event)["headers"].__set__
_set_deliver_at = vars(Event)["deliver_at"].__set__
_set_delay = vars(Event)["delay"].__set__


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _json(headers: Mapping[str, str]) -> str:
    return _encode(headers)


def row(
    event: Event, trace: Mapping[str, str] | None = None
) -> tuple[UUID, str, bytes | None, bytes | None, str, str | None]:
    """The columns event_id, topic, key, payload, headers (JSON text) and type.

    The headers of `trace` are added, except where they would make the headers larger than the outbox takes.
    """
    headers = event.headers
    if trace and not (headers and trace.keys() & headers.keys()):
        text = _json({**headers, **trace} if headers else trace)
        large = len(text) > MAX_BYTES // 4 and len(text.encode()) > MAX_BYTES
        if large or len(headers or ()) + len(trace) > MAX_HEADERS:
            text = _json(headers or {})
    else:
        text = _json(headers) if headers else "{}"
    # An Event that exists has been checked: key and payload are bytes by now.
    return event.event_id, event.topic, event.key, event.payload, text, event.type  # type: ignore[return-value]


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
    if len(_known_topics) < _MAX_KNOWN_TOPICS:
        _known_topics.add(topic)


def _as_bytes(name: str, value: object) -> bytes | None:
    if isinstance(value, str):
        # Nearly all text takes this way; the other says what is wrong.
        return value.encode() if value.isascii() else _encoded(name, value)
    if value is None or isinstance(value, bytes):
        return value
    raise EnqueueError(f"{name} must be bytes, str or None, not {_kind(value)}{_hint(name, value)}")


def _hint(name: str, value: object) -> str:
    """How to come from a value to one that the outbox takes."""
    if isinstance(value, bytearray | memoryview):
        return f" (write bytes({name}))"
    if name == "key":
        return " (write str(key))" if isinstance(value, int | UUID) else ""
    return " (for JSON, json.dumps it first)" if isinstance(value, Mapping | list) else " (serialize it first)"


def _checked_headers(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise EnqueueError(f"headers must be a mapping of str to str, not {_kind(headers)}")
    copy: dict[str, str] = {}
    most = 0
    for name, value in headers.items():
        if name.__class__ is not str or not name.isascii() or "\0" in name:
            _check_text("a header's name", name)
        if value.__class__ is not str or not value.isascii() or "\0" in value:
            _check_text(f"header {name[:60]!r}", value)
        if name.startswith(RESERVED):
            raise EnqueueError(_reserved(name))
        copy[name] = value
        # A character takes six bytes as JSON at most: what is small is not written out to be counted.
        most += 6 * (len(name) + len(value)) + 8
    if len(copy) > MAX_HEADERS:
        raise EnqueueError(
            f"there are {len(copy):,} headers, more than the {MAX_HEADERS} that the outbox takes; "
            "put the others into the payload"
        )
    if most > MAX_BYTES and (size := len(_json(copy).encode())) > MAX_BYTES:
        raise EnqueueError(
            f"the headers have {size:,} bytes as JSON, more than the {MAX_BYTES:,} that the outbox takes; "
            "put large values into the payload"
        )
    return copy


def _reserved(name: str) -> str:
    if name.startswith(PREFIX):
        return f"header {name[:60]!r}: names that begin with {PREFIX} are the relay's own; use another"
    return (
        f"header {name[:60]!r}: names that begin with {CLOUD_EVENTS_PREFIX} are attributes of CloudEvents, which the "
        "relay writes; use another"
    )


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
