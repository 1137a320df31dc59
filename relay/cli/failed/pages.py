"""How the commands write for people: tables, times and the console they are written to."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay.cli.failed.words import key_text
from relay.cli.words import duration, safe
from relay.postgres.admin import admin_connection
from relay.postgres.checks import check_schema
from relay.postgres.failures import Failures
from relay.settings import load_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from relay.postgres.failure_rows import Group

EVENT_ID = click.IntRange(1, 2**63 - 1)
EVENT_ID.name = "event id"

_UNBOUNDED = 10_000


@asynccontextmanager
async def opened() -> AsyncIterator[Failures]:
    """The failures of the outbox that the settings name; only those of PostgreSQL are read."""
    settings = load_postgres()
    async with admin_connection(settings.dsn.get_secret_value(), settings.connect_timeout) as connection:
        await check_schema(connection, settings.schema_name)
        yield Failures(connection, settings.schema_name)


def console(stderr: bool = False) -> Console:
    """A console that cuts nothing: what goes into a pipe or a file is not bound to a terminal's width."""
    made = Console(highlight=False, stderr=stderr)
    return made if made.is_terminal else Console(highlight=False, stderr=stderr, width=_UNBOUNDED)


def table(*columns: str) -> Table:
    """A plain table. A name that begins with > is of numbers, one with * of texts that may take several lines."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(
            column.lstrip(">*"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=not column.startswith("*"),
            overflow="fold",
        )
    return made


def text(value: object, style: str = "") -> Text:
    """A cell. Never markup, never a control sequence, whatever is in it."""
    return Text(safe(str(value)), style=style)


def key_cell(key: bytes | None) -> Text:
    """A key, or that there is none."""
    return Text("(no key)", style="dim") if key is None else Text(key_text(key))


def ago(seconds: float | None) -> str:
    """How long ago."""
    return "-" if seconds is None else f"{duration(seconds)} ago"


def plain(value: object) -> str:
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


def groups_table(groups: Sequence[Group], most: int | None = None) -> Table:
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
