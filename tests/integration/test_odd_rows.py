"""Rows that are refused today and may be there from before, and keys of any length: each is read and recorded."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import asyncpg
import pytest

from relay.decide.failing import Fail
from relay.outcome import FailureKind, PublishError
from relay.postgres.admin.failures import Failures
from relay.postgres.admin.status import read_status
from relay.postgres.flow.hold import ResumeConnection
from relay.postgres.flow.scan import ScanConnection
from relay.stages.settle.outcomes import Failed, Held
from tests.support.postgres.outbox import connected, migrated
from tests.support.postgres.receipts import add_receipts
from tests.support.postgres.segments import prune
from tests.support.relay.stages import hand_relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


LATEST_MS = 253_402_300_799_999
LONG = secrets.token_bytes(500_000)
"""A key that cannot be compressed. An entry of an index holds 2,704 bytes."""


@pytest.fixture
async def connection(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with an outbox."""
    async with migrated(database) as connection:
        yield connection


@pytest.mark.parametrize(
    ("created_at", "milliseconds"),
    [("infinity", LATEST_MS), ("-infinity", 0), ("200000-01-01", LATEST_MS), ("2026-01-01", 1_767_225_600_000)],
)
async def test_an_event_with_a_time_that_is_no_date_is_read_by_every_statement(
    connection: asyncpg.Connection, database: str, created_at: str, milliseconds: int
) -> None:
    await connection.execute("ALTER TABLE outbox.event DROP CONSTRAINT event_created_at")
    await connection.execute(
        "INSERT INTO outbox.event (topic, key, payload, created_at)"
        f" SELECT 'orders', 'k', 'x', '{created_at}' FROM generate_series(1, 3)"
    )
    status = await read_status(connection)
    assert status.oldest_seconds is not None
    assert abs(status.oldest_seconds) < 1e12
    async with hand_relay(database) as relay:
        events = await relay.take_all()
        assert [event[8] for event in events] == [milliseconds] * 3
        refused = PublishError(FailureKind.EVENT, "too large")
        lane = events[0][0]
        relay.tenure.closed_in(lane).close_key("orders", b"k")
        await relay.settler.record([Failed(relay.tenure, [events[0]], Fail(1, "skip"), refused)])
        await relay.settler.record([Held(relay.tenure, events[1:2])])
        await connection.execute("UPDATE outbox.failure SET state = 'replaying'")
        port = ResumeConnection(relay.connections["control"], "outbox")
        ((due, _),) = await port.due_failures([lane], 10, 1_000_000, [], [])
        assert due[8] == milliseconds
        await connection.execute("DELETE FROM outbox.failure")
        (held,) = await port.held_events(lane, 0, 10, 1_000_000, [])
        assert held[8] == milliseconds
        # As in a long sweep.
        step = await ScanConnection(relay.connections["control"], "outbox").sweep_step(lane, 0, 10, 10, 1_000_000)
        assert {event[8] for event in step.events} == {milliseconds}
    async with connected(database) as people:
        shown = await Failures(people, "outbox").event(events[2][1], 100)
        assert shown is not None


async def test_an_event_from_the_future_does_not_keep_its_segment(connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE outbox.event DROP CONSTRAINT event_created_at")
    await connection.execute("INSERT INTO outbox.event (topic, created_at) VALUES ('orders', 'infinity')")
    await add_receipts(connection)
    await connection.execute("UPDATE outbox.lane SET position = 5000001")
    assert await prune(connection, 0) == ["event_1"]


async def test_an_event_with_a_key_of_any_length_can_fail_and_hold_back_others(
    connection: asyncpg.Connection, database: str
) -> None:
    for key in (LONG, LONG, b"short"):
        await connection.execute("INSERT INTO outbox.event (topic, key) VALUES ($1, $2)", "t" * 249, key)
    async with hand_relay(database) as relay:
        events = sorted(await relay.take_all(), key=lambda event: event[1])
        refused = PublishError(FailureKind.EVENT, "too large")
        await relay.settler.record([Failed(relay.tenure, [events[0]], Fail(1, "block"), refused)])
        await relay.settler.record([Held(relay.tenure, events[1:])])
        port = ResumeConnection(relay.connections["control"], "outbox")
        assert [row[2] for row in await port.blocking(list(range(16)))] == [LONG]
        free = [event[1] for lane in range(16) for event in await port.held_events(lane, 0, 10, 10_000_000, [])]
        assert free == [events[2][1]], "the second event of the long key waits, another key does not"
    async with connected(database) as people:
        assert await people.fetchval("SELECT count(*) FROM outbox.failure") == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("type", r"convert_from('\x636166e9'::bytea, 'SQL_ASCII')"),
        ("headers", r"jsonb_build_object('a', convert_from('\x636166e9'::bytea, 'SQL_ASCII'))"),
        ("headers", r"jsonb_build_object(convert_from('\x636166e9'::bytea, 'SQL_ASCII'), 'a')"),
    ],
)
async def test_text_that_nobody_could_read_is_refused_in_a_database_that_takes_any_byte(
    sql_ascii: str, column: str, value: str
) -> None:
    async with migrated(sql_ascii) as connection:
        with pytest.raises(asyncpg.CharacterNotInRepertoireError):
            await connection.execute(f"INSERT INTO outbox.event (topic, {column}) VALUES ('orders', {value})")
        await connection.execute(
            "INSERT INTO outbox.event (topic, headers, type) VALUES ('orders', $1, $2)", '{"é": "ü"}', "été"
        )
        async with hand_relay(sql_ascii) as relay:
            (event,) = await relay.take_all()
            assert (event[6], event[7]) == ('{"é": "ü"}', "été")
