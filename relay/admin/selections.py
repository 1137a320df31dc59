"""Which failures a person means: as options say it, as PostgreSQL is asked, and in words for the audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relay.admin.times import absolute, moment_of, option_of
from relay.errors import InvalidRequestError
from relay.keys import key_bytes, key_text
from relay.names import LONGEST_TOPIC, is_topic_pattern
from relay.postgres.admin.failures import FailureFilter
from relay.text import visible

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta


def parse_topic(text: str) -> str:
    """Read a topic, or a pattern with `*`. Raises ValueError for a text that matches no topic: a typing error."""
    if not is_topic_pattern(text):
        raise ValueError(
            f"{text!r} is not a topic; topics have letters, digits and . _ - only, and * stands for any characters"
        )
    return text


def parse_key(text: str) -> bytes:
    """Read a key as lists show it. Raises ValueError."""
    try:
        return key_bytes(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a key; write pairs of hexadecimal digits after hex:") from None


def parse_group(text: str) -> str:
    """Read the name of a consumer group. Raises ValueError for one that cannot be a header to be read."""
    if not text.strip() or not visible(text) or len(text) > LONGEST_TOPIC:
        raise ValueError(f"{text!r} is not a consumer group; write its name, up to {LONGEST_TOPIC} visible characters")
    return text


@dataclass(frozen=True, slots=True)
class Selection:
    """The failures that somebody means. Times ago are counted from the server's time, once it is known."""

    topic: str | None = None
    key: bytes | None = None
    error: str | None = None
    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None
    states: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()

    @property
    def narrowed(self) -> bool:
        """Whether anything but ids narrows it down."""
        return any(each is not None for each in (self.topic, self.key, self.error, self.since, self.until)) or bool(
            self.states
        )

    def filter(self, now: datetime) -> FailureFilter:
        """Return the filter, `now` being the server's time. Raises InvalidRequestError for an empty span of time."""
        since = None if self.since is None else absolute(self.since, now)
        until = None if self.until is None else absolute(self.until, now)
        if since is not None and until is not None and since >= until:
            raise InvalidRequestError(f"--since ({option_of(since)}) is not before --until ({option_of(until)})")
        return FailureFilter(
            ids=tuple(dict.fromkeys(self.ids)) or None,
            topic=self.topic,
            key=self.key,
            error=self.error,
            since=since,
            until=until,
            states=self.states or None,
        )


def recorded(matching: FailureFilter) -> dict[str, object]:
    """Return the filter as the audit has it, and `in_words` writes it; {"all": true} if everything matches."""
    since, until = (None if each is None else each.isoformat() for each in (matching.since, matching.until))
    given = {
        "ids": None if matching.ids is None else list(matching.ids),
        "topic": matching.topic,
        "key": None if matching.key is None else key_text(matching.key),
        "error": matching.error,
        "since": since,
        "until": until,
        "states": None if matching.states is None else list(matching.states),
    }
    return {name: value for name, value in given.items() if value is not None} or {"all": True}


def in_words(recorded_filter: Mapping[str, Any], max_ids: int = 10) -> str:
    """Write a recorded filter in one line, with the first `max_ids` ids."""
    parts = []
    for name, value in recorded_filter.items():
        if name == "all":
            parts.append("all")
        elif isinstance(value, list):
            shown = ", ".join(map(str, value[:max_ids]))
            parts.append(f"{name} {shown}" + (f" and {len(value) - max_ids:,} more" if len(value) > max_ids else ""))
        elif name in ("since", "until"):
            parts.append(f"{name} {moment_of(value)}")
        else:
            parts.append(f"{name} {value}")
    return ", ".join(parts)
