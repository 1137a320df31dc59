"""Which topics' records are CloudEvents, and what such a record says of its event: the headers of binary mode.

Sources: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md, and kafka-protocol-binding.md beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

from relay.event import EventWithOrigin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from relay.event import PendingEvent

PREFIX = "ce_"
CONTENT_TYPE = "content-type"
"""The header of `datacontenttype`, which has no prefix."""

LONGEST_SUBJECT = 1_024
"""Maximum bytes of a key that is the subject as well: a longer one would make the record too large for its topic."""

FIXED_BYTES = 256
"""Bytes of the names of the attributes that every CloudEvent has, its id, its time and their framing, rounded up."""

PER_HEADER_BYTES = 8
"""Bytes by which an extension is longer than the JSON text of its header, rounded up: the prefix and the framing."""

_OWN = frozenset({"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"})
"""Attributes that do not come from a header of the same name. `dataschema` does: only the writer knows it."""

_EXTENSION = re.compile(r"[a-z0-9]+")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Characters that no attribute of CloudEvents may have."""


@dataclass(frozen=True, slots=True)
class CloudEvents:
    """The settings, by shell-style patterns of topics such as `orders.*`; of each mapping the first match counts."""

    sources: Mapping[str, str] = field(default_factory=dict)
    """Topics that match none of these have no CloudEvents."""
    types: Mapping[str, str] = field(default_factory=dict)
    content_types: Mapping[str, str] = field(default_factory=dict)
    extensions: Sequence[str] = ("*",)
    """Patterns of the names of headers that are extensions."""
    dead_letter_suffix: str = ".dead-letter"

    def of(self, topic: str) -> CloudEventsOfTopic | None:
        """How events of the topic become CloudEvents; None if they do not.

        A dead-letter topic that matches no pattern itself has what its events' own topic has.
        """
        for name in dict.fromkeys((topic, topic.removesuffix(self.dead_letter_suffix))):
            source = _first(self.sources, name)
            if source is not None:
                type_, content_type = _first(self.types, name) or name, _first(self.content_types, name)
                return CloudEventsOfTopic(source, type_, content_type, self.extensions)
        return None


class CloudEventsOfTopic:
    """Makes the headers of one topic's CloudEvents."""

    def __init__(self, source: str, type_: str, content_type: str | None, extensions: Sequence[str]) -> None:
        self._always = [("ce_specversion", b"1.0"), ("ce_source", source.encode())]
        self._content_type = None if content_type is None else (CONTENT_TYPE, content_type.encode())
        self._type = lru_cache(1_000)(
            lambda given: (given if given and not _FORBIDDEN.search(given) else type_).encode()
        )
        self._fixed = FIXED_BYTES + len(source.encode()) + len(type_.encode()) + len((content_type or "").encode())
        # Writers may make up as many names as they like.
        self._attribute = lru_cache(1_000)(lambda name: _attribute(name, extensions))

    def headers(self, event: PendingEvent, given: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """The headers that make the event a CloudEvent, beside those that it has been `given` already."""
        _, _, event_id, _, key, payload, _, type_, created_ms, _ = event
        if isinstance(event, EventWithOrigin) and event.written_ms is not None:
            created_ms = event.written_ms
        made = [
            *self._always,
            ("ce_id", str(event_id).encode()),
            ("ce_type", self._type(type_)),
            ("ce_time", b"%s.%03dZ" % (_second(created_ms // 1_000), created_ms % 1_000)),
        ]
        if key and _is_subject(key):
            made.append(("ce_subject", key))
        content_type = self._content_type if payload is not None else None
        for name, value in given:
            if (attribute := self._attribute(name)) is not None:
                if value and not _FORBIDDEN.search(value.decode()):
                    made.append((attribute, value))
            elif name.lower() == CONTENT_TYPE:
                content_type = None
        if content_type is not None:
            made.append(content_type)
        return made

    def added_bytes(self, event: PendingEvent) -> int:
        """Bytes by which a record grows at most because it is a CloudEvent."""
        _, _, _, _, key, _, headers, type_, _, _ = event
        added = self._fixed + len((type_ or "").encode())
        if key and len(key) <= LONGEST_SUBJECT:
            added += len(key)
        if headers is not None and headers != "{}":
            added += len(headers.encode()) + PER_HEADER_BYTES * headers.count(":")
        return added


def _first(by_pattern: Mapping[str, str], topic: str) -> str | None:
    return next((value for pattern, value in by_pattern.items() if fnmatchcase(topic, pattern)), None)


def _attribute(name: str, extensions: Sequence[str]) -> str | None:
    """The header's name as an attribute; None if it is not the name of an extension, or not wanted as one."""
    if name in _OWN or not _EXTENSION.fullmatch(name) or not any(fnmatchcase(name, each) for each in extensions):
        return None
    return PREFIX + name


def _is_subject(key: bytes) -> bool:
    """Whether the key can be the subject: not too long, and text without control characters."""
    if len(key) > LONGEST_SUBJECT:
        return False
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return False
    return (text.isascii() and text.isprintable()) or not _FORBIDDEN.search(text)


@lru_cache(64)
def _second(unix: int) -> bytes:
    """The second in RFC 3339, without its zone."""
    return datetime.fromtimestamp(unix, UTC).isoformat()[:19].encode()
