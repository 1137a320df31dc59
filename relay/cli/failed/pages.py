"""How the commands write for people: tables, times and the console they are written to."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import click
from rich.text import Text

from relay.cli.failed.words import key_text
from relay.cli.show.console import console
from relay.cli.show.tables import PlainTable, table
from relay.cli.words import duration
from relay.postgres.admin.connection import admin_connection
from relay.postgres.admin.failures import Failures
from relay.postgres.checks import check_schema
from relay.settings import load_postgres
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from relay.postgres.admin.failure_rows import Group

EVENT_ID = click.IntRange(1, 2**63 - 1)
EVENT_ID.name = "event id"


__all__ = ["console", "table"]


@asynccontextmanager
async def opened() -> AsyncIterator[Failures]:
    """The failures of the outbox that the settings name; only those of PostgreSQL are read."""
    settings = load_postgres()
    async with admin_connection(settings.dsn.get_secret_value(), settings.connect_timeout) as connection:
        await check_schema(connection, settings.schema_name)
        yield Failures(connection, settings.schema_name)


def text(value: object, style: str = "") -> Text:
    """A cell. Never markup, never a control sequence, whatever is in it."""
    return Text(plain(value), style=style)


def key_cell(key: bytes | None) -> Text:
    """A key, or that there is none."""
    return Text("(no key)", style="dim") if key is None else text(key_text(key))


def ago(seconds: float | None) -> str:
    """How long ago."""
    return "-" if seconds is None else f"{duration(seconds)} ago"


def for_json(value: object) -> str:
    """What JSON has no form for."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def moment(time: datetime | None) -> str:
    """A point in time, in this machine's zone and with it."""
    return "-" if time is None else time.astimezone().isoformat(" ", "seconds")


def moment_of(value: object) -> str:
    """The same for a point in time that is a text, as JSON has it; another text as it is."""
    try:
        return moment(datetime.fromisoformat(str(value)))
    except ValueError:
        return str(value)


def events(number: int) -> str:
    """A number of events."""
    return f"{number:,} event{'' if number == 1 else 's'}"


def groups_table(groups: Sequence[Group], most: int | None = None) -> PlainTable:
    """Failures per topic, error and state."""
    made = table("*topic", "*error", "state", ">events", ">oldest", ">newest")
    for group in groups[:most]:
        made.add_row(
            text(group.topic),
            text(group.error),
            text(group.state),
            f"{group.events:,}",
            duration(group.first_seconds),
            duration(group.last_seconds),
        )
    return made
