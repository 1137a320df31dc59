"""The options that say which failures are meant, and what becomes of them: a filter, and its words for the audit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relay.cli.failed.pages import moment_of
from relay.cli.failed.words import key_text
from relay.cli.spans import parse_span
from relay.decide.republishing import key_bytes
from relay.postgres.admin.failures import Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Command = TypeVar("Command", bound=Callable[..., Any])

_TOPIC = re.compile(r"[a-zA-Z0-9._*-]{1,249}")
_LONGEST = 36_500 * 86_400
"""Seconds; a time further back is no date."""


def parse_time(text: str) -> datetime | timedelta:
    """`2h` as a span before now, or ISO 8601, without a zone in this machine's. Raises ValueError."""
    if (seconds := parse_span(text)) is not None:
        return timedelta(seconds=min(seconds, _LONGEST))
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time; write how long ago (90s, 30m, 2h, 3d, 1w) or a date "
            "(2026-05-17, 2026-05-17T03:10, 2026-05-17T03:10:00+02:00)"
        ) from None


def parse_topic(text: str) -> str:
    """A topic, or a pattern with `*`. Raises ValueError for what no topic can match: that is a typing error."""
    if not _TOPIC.fullmatch(text):
        raise ValueError(f"{text!r} is no topic; those have letters, digits, . _ - only, and * stands for anything")
    return text


def parse_key(text: str) -> bytes:
    """A key as the list shows it. Raises ValueError."""
    try:
        return key_bytes(text)
    except ValueError:
        raise ValueError(f"{text!r} is no key; after hex: come pairs of hexadecimal digits") from None


def _read(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    def read(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return read


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options said. Times ago are counted from the server's time, once it is known."""

    topic: str | None
    key: bytes | None
    error: str | None
    since: datetime | timedelta | None
    until: datetime | timedelta | None
    states: tuple[str, ...]
    ids: tuple[int, ...] = ()

    @property
    def any_option(self) -> bool:
        """Whether one of the options was given."""
        return any(each is not None for each in (self.topic, self.key, self.error, self.since, self.until)) or bool(
            self.states
        )

    def filter(self, now: datetime) -> Filter:
        """The filter, `now` being the server's time. Raises UsageError for an empty span of time."""
        since, until = _absolute(self.since, now), _absolute(self.until, now)
        if since is not None and until is not None and since >= until:
            raise click.UsageError(
                f"--since ({since.isoformat(timespec='seconds')}) is not before "
                f"--until ({until.isoformat(timespec='seconds')})"
            )
        return Filter(
            ids=tuple(dict.fromkeys(self.ids)) or None,
            topic=self.topic,
            key=self.key,
            error=self.error,
            since=since,
            until=until,
            states=self.states or None,
        )


def filter_options(states: Sequence[str], states_help: str) -> Callable[[Command], Command]:
    """Add the options to a command, which makes a `Wanted` of them: `Wanted(**options)`."""
    options = [
        click.option(
            "--topic", callback=_read(parse_topic), metavar="PATTERN", help="Of this topic; * stands for anything."
        ),
        click.option(
            "--key", callback=_read(parse_key), metavar="KEY", help="Of this key, written as the list shows it."
        ),
        click.option("--error", metavar="PATTERN", help="With this error; * stands for anything."),
        click.option(
            "--since", callback=_read(parse_time), metavar="TIME", help="Failed at or after: 2h (ago), or a date."
        ),
        click.option(
            "--until", callback=_read(parse_time), metavar="TIME", help="Failed at or before: 2h (ago), or a date."
        ),
        click.option("--state", "states", type=click.Choice(states), multiple=True, help=states_help),
    ]

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def recorded(matching: Filter) -> dict[str, object]:
    """The filter as the audit has it, and `words` shows it; {"all": true} if it is of everything."""
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


def words(filter_: dict[str, Any], most_ids: int = 10) -> str:
    """A recorded filter in one line."""
    parts = []
    for name, value in filter_.items():
        if name == "all":
            parts.append("all")
        elif isinstance(value, list):
            shown = ", ".join(map(str, value[:most_ids]))
            parts.append(f"{name} {shown}" + (f" and {len(value) - most_ids:,} more" if len(value) > most_ids else ""))
        elif name in ("since", "until"):
            parts.append(f"{name} {moment_of(value)}")
        else:
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def _absolute(time: datetime | timedelta | None, now: datetime) -> datetime | None:
    return now - time if isinstance(time, timedelta) else time
