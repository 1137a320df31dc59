"""Every table that a command prints: its headings, on a wide and on a narrow terminal and in a pipe."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from click.testing import CliRunner

from relay.cli import main
from tests.support.postgres.failures import add_failed, add_held
from tests.support.postgres.outbox import migrated
from tests.support.postgres.receipts import add_receipts
from tests.unit.test_cli_tables import headings

if TYPE_CHECKING:
    import asyncpg

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
POD = "outbox-relay-production-eu-central-1-settlements-7d9c8b6f5b-x2x"

TABLES = {
    ("status",): [
        ["replica", "version", "running", "lease", "lanes"],
        ["lane", "owner", "epoch", "owned for", "position", "pending", "oldest"],
        ["segment", "from id", "to id", "MiB"],
    ],
    ("prune", "--dry-run"): [["segment", "from id", "to id", "MiB", "what would be done"]],
    ("lanes",): [
        ["replica", "id", "version", "running", "lease", "lanes"],
        ["lane", "owner", "epoch", "owned for", "position"],
    ],
    ("topics",): [
        ["topic", "pending", "oldest", "held", "failed", "written per s", "delivered per s", "state"],
    ],
    ("failed", "list"): [
        ["id", "topic", "key", "state", "error", "attempts", "age", "holds"],
        ["topic", "error", "state", "events", "oldest", "newest"],
    ],
    ("failed", "list", "--count"): [["topic", "error", "state", "events", "oldest", "newest"]],
    ("failed", "show", "1"): [["header", "value"], ["attempt", "at", "what happened"]],
    ("failed", "replay", "--all", "--dry-run"): [["topic", "error", "state", "events", "oldest", "newest"]],
    ("failed", "actions"): [["id", "when", "who", "what", "why", "events", "progress"]],
    ("scheduled", "list"): [["event id", "topic", "key", "timer", "due", "bytes"]],
    ("replay", "list"): [["id", "when", "who", "what", "why", "state", "progress"]],
    ("replay", "show", "2"): [["events", "example id", "Kafka refused them because"]],
}
"""By command, the headings of what it prints."""

WAYS: dict[str, dict[str, str | None]] = {
    "wide": {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "300"},
    "80 columns": {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"},
    "pipe": {"COLUMNS": "80"},
}


async def fill(connection: asyncpg.Connection) -> None:
    """Make an outbox in which each table has rows, with long names."""
    await add_failed(connection, b"customer-17", "payments.settlements", headers={"tenant": "acme"}, seconds_ago=7500)
    await add_held(connection, b"customer-17", "payments.settlements")
    await add_failed(connection, b"o" * 60, "mail", state="retrying", error="UnknownServerError")
    await connection.execute(
        "INSERT INTO outbox.replica (id, name, version, started_at, lease_expires_at, duplicates)"
        " VALUES ($1, $2, '0.1.0', now() - interval '12 d 23 h', now() + interval '1 h', 12345)",
        *(uuid4(), POD),
    )
    await connection.execute(
        "UPDATE outbox.lane SET owner = r.id, claimed_at = now() - interval '12 d 23 h' FROM outbox.replica AS r"
    )
    await connection.execute(
        "INSERT INTO outbox.scheduled (topic, key, payload, timer, deliver_at)"
        " VALUES ('payments.settlements', 'customer-17', 'x', 'reminder-of-customer-17', now() + interval '3 h')"
    )
    for kind in ("replay", "replay-delivered"):
        await connection.execute(
            "INSERT INTO outbox.action (kind, filter, reason, requested_by, counts)"
            """ VALUES ($1, '{"topic": "payments.settlements"}', 'the limit was raised', 'somebody',"""
            """ '{"events": 3, "published": 1, "failed": 1}')""",
            kind,
        )
    await connection.execute(
        "INSERT INTO outbox.replay_receipt (action, lane, id, error) SELECT 2, lane, id, 'Large: too large'"
        " FROM outbox.event WHERE id = 1"
    )
    await add_receipts(connection)
    await connection.execute("DELETE FROM outbox.receipt")


@pytest.fixture
def outbox(database: str) -> str:
    """Return the DSN of a filled outbox."""

    async def made() -> None:
        async with migrated(database) as connection:
            await fill(connection)

    asyncio.run(made())
    return database


def run(dsn: str, command: tuple[str, ...], way: str) -> list[str]:
    """Return the lines that a command prints."""
    shown = CliRunner().invoke(main, command, env={"RELAY_POSTGRES_DSN": dsn, "FORCE_COLOR": None, **WAYS[way]})
    assert shown.exit_code == 0, shown.output
    return [line.rstrip() for line in COLOURS.sub("", shown.output).splitlines()]


def test_every_table_is_looked_at() -> None:
    looked_at = {heading for tables in TABLES.values() for table in tables for heading in table}
    assert {heading.lstrip(">*") for heading in headings()} - {""} == looked_at


@pytest.mark.parametrize("way", ["wide", "pipe"])
def test_headings_stand_above_their_columns(outbox: str, way: str) -> None:
    for command, tables in TABLES.items():
        found = [re.split(r" {2,}", line.strip()) for line in run(outbox, command, way)]
        for table in tables:
            assert table in found, (command, found)


def test_on_80_columns_each_heading_stands_above_its_column_or_before_its_value(outbox: str) -> None:
    for command, tables in TABLES.items():
        lines = run(outbox, command, "80 columns")
        assert all(len(line) <= 80 for line in lines), command
        # Nothing stands before a heading but spaces, and nothing after it but spaces and its value.
        words = re.split(r" {2,}|\n", "\n".join(lines))
        for heading in (heading for table in tables for heading in table):
            assert any(word == heading or word.startswith(f"{heading} ") for word in words), (command, heading, words)


def test_through_a_pipe_each_row_is_one_line_whatever_its_length(outbox: str) -> None:
    status = run(outbox, ("status",), "pipe")
    assert sum(line.startswith(POD) for line in status) == 1
    assert sum(bool(re.match(rf" *\d+  {POD} ", line)) for line in status) == 16


def test_a_long_name_with_long_times_can_be_read_on_80_columns(outbox: str) -> None:
    for command in ("status", "lanes"):
        lines = run(outbox, (command,), "80 columns")
        begin = lines.index(f"replica {POD}")
        block = "   ".join(line.strip() for line in lines[begin : begin + 3])
        assert "running 12 d 23 h" in block
        assert "lanes 0-15   12,345 duplicates" in block
        assert sum(bool(re.match(r" *\d+  outbox-re\S*\.\.\.\S*7d9c8b6f5b-x2x ", line)) for line in lines) == 16
