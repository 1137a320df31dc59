"""Cells of tables, and a table that two commands share."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from relay.admin.times import duration
from relay.cli.show.tables import PlainTable, table
from relay.keys import key_text
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.postgres.admin.rows import FailureGroup


def text(value: object, style: str = "") -> Text:
    """Return a cell. Never markup, never a control sequence, whatever is in it."""
    return Text(plain(value), style=style)


def key_cell(key: bytes | None) -> Text:
    """Return a key, or that there is none."""
    return Text("(no key)", style="dim") if key is None else text(key_text(key))


def for_json(value: object) -> str:
    """Write what JSON has no form for."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def groups_table(groups: Sequence[FailureGroup], most: int | None = None) -> PlainTable:
    """Return the table of failures per topic, error and state, with at most `most` rows."""
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
