"""The migration to a receipt per record batch, of an outbox in which something of everything is under way."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from relay.cli import main
from relay.errors import HeldUpError, SchemaError
from relay.postgres import checks
from relay.postgres.admin.migrate import make_roles, migrate
from relay.postgres.checks import check_schema
from relay.postgres.flow.republish import RepublishConnection
from relay.postgres.sql import migrations, query
from tests.support.events import ids
from tests.support.postgres.outbox import add_event, add_failure, connected
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.replays import insert_action
from tests.support.postgres.segments import prune
from tests.support.relay.stages import HandRelay, lane_of, relay_connections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

(RECEIPTS,) = (migration.version for migration in migrations() if migration.name == "receipts")
LANE = lane_of("k")
HELD, FAILED, DISCARDED = 11, 12, 13
DELIVERED = [*range(1, 11), 16, 18, 19]
PENDING = [14, 15, 17, 20]


def known_up_to(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """The program knows the migrations up to this one only."""
    monkeypatch.setattr(checks, "migrations", lambda schema="outbox": migrations(schema)[:version])


@pytest.fixture
async def before(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncpg.Connection]:
    """An outbox of the version before with delivered, pending, held, failed and discarded events, and a replay."""
    async with connected(database) as connection:
        with monkeypatch.context() as older:
            known_up_to(older, RECEIPTS - 1)
            await migrate(connection)
        await make_former_roles(connection)
        for _ in range(20):
            await add_event(connection)
        await connection.execute(
            "INSERT INTO outbox.delivery (lane, id, kafka_partition, kafka_offset)"
            " SELECT $1::int, id, 3, 100 + id FROM unnest($2::bigint[]) AS id",
            LANE,
            DELIVERED,
        )
        held, failed, discarded = [
            await connection.fetchrow("SELECT lane, id FROM outbox.event WHERE id = $1", id_)
            for id_ in (HELD, FAILED, DISCARDED)
        ]
        await connection.execute("INSERT INTO outbox.held VALUES ($1, $2, 'orders', 'k')", *held)
        await add_failure(connection, failed)
        await add_failure(connection, discarded, "discarded")
        await connection.execute("UPDATE outbox.lane SET position = 5 WHERE lane = $1", LANE)
        positions = {str(lane): 8 if lane == LANE else 20 for lane in range(16)}
        now = datetime.now(UTC)
        filter_ = {"topic": "orders", "since": str(now - timedelta(days=1)), "until": str(now + timedelta(hours=1))}
        await insert_action(connection, filter_, {"last_id": 20, "lanes": positions})
        await connection.execute(
            "INSERT INTO outbox.replay_receipt (action, lane, id, kafka_partition, kafka_offset)"
            " SELECT 1, $1::int, id, 3, 200 + id FROM unnest('{1,2,3,4,5,6,7,8,10}'::bigint[]) AS id",
            LANE,
        )
        yield connection


async def make_former_roles(connection: asyncpg.Connection) -> None:
    """As the program of that version did: the role may write receipts of single events."""
    for role in ("outbox_relay", "outbox_admin"):
        if not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(f"CREATE ROLE {role} NOLOGIN")
        await connection.execute(f"GRANT USAGE ON SCHEMA outbox TO {role}")
    await connection.execute("GRANT INSERT ON outbox.delivery TO outbox_relay")


async def add_former_receipts(connection: asyncpg.Connection, of: list[int]) -> None:
    await connection.execute(
        "INSERT INTO outbox.former_delivery (lane, id, kafka_partition, kafka_offset)"
        " SELECT $1::int, id, 0, 0 FROM unnest($2::bigint[]) AS id",
        LANE,
        of,
    )


async def test_nothing_is_lost_and_nothing_repeated(before: asyncpg.Connection, database: str) -> None:
    assert RECEIPTS in [migration.version for migration in await migrate(before)]
    rows = await before.fetch("SELECT id, kafka_partition, kafka_offset FROM outbox.delivered ORDER BY id")
    assert [tuple(row) for row in rows] == [(id_, 3, 100 + id_) for id_ in DELIVERED]
    assert [row["id"] for row in await before.fetch("SELECT id FROM outbox.pending ORDER BY id")] == PENDING
    async with relay_connections(database) as connections:
        relay = HandRelay(connections)
        await relay.start()
        taken = await relay.take_all()
        assert ids(taken) == PENDING
        await relay.settle(taken)
        assert await relay.take_all() == []
        await relay.claim.beat()
        assert await before.fetchval("SELECT position FROM outbox.lane WHERE lane = $1", LANE) == 20
    assert [row["id"] for row in await before.fetch(f"SELECT id FROM {DELIVERIES} ORDER BY id")] == sorted(
        DELIVERED + PENDING
    )
    assert await before.fetchval("SELECT count(*) FROM outbox.held") == 1
    assert await before.fetchval("SELECT count(*) FROM outbox.failure") == 2


async def test_a_replay_of_delivered_events_goes_on_where_it_was(before: asyncpg.Connection, database: str) -> None:
    await migrate(before)
    async with relay_connections(database) as connections:
        port = RepublishConnection(connections["control"], "outbox")
        (request,) = await port.open_replays()
        rows = await port.events_to_replay(request, LANE, request.positions[LANE], request.last_id, 100, 1 << 20)
    assert ids(rows) == [9, 16, 18, 19]


async def test_former_receipts_go_with_their_segment(before: asyncpg.Connection) -> None:
    await migrate(before)
    await before.execute("SELECT outbox.add_segment(5000001, 5001001)")
    await before.execute("UPDATE outbox.lane SET position = 5000001")
    await before.execute("UPDATE outbox.action SET finished_at = now()")
    await before.execute("DELETE FROM outbox.held; DELETE FROM outbox.failure WHERE state = 'failed'")
    await add_former_receipts(before, [HELD, FAILED])
    with pytest.raises(SchemaError, match="its event 14 has no receipt"):
        await prune(before, 0)
    await add_former_receipts(before, PENDING)
    assert await prune(before, 0) == ["event_1"]
    assert await before.fetchval("SELECT to_regclass('outbox.delivery_1')") is None
    assert await before.fetchval(f"SELECT count(*) FROM {DELIVERIES}") == 0


async def test_it_is_refused_while_a_replica_runs_that_could_not_record_what_it_has_published(
    before: asyncpg.Connection, database: str
) -> None:
    await before.execute(
        "INSERT INTO outbox.replica (id, name, version, lease_expires_at)"
        " VALUES (gen_random_uuid(), 'shop-1', '0.1', now() + interval '1 hour'),"
        " (gen_random_uuid(), 'dead-2', '0.1', now() - interval '1 s')"
    )
    with pytest.raises(HeldUpError, match=r"cannot go on beside this migration: shop-1; stop them .*relay migrate"):
        await migrate(before)
    told = await asyncio.to_thread(CliRunner().invoke, main, ["migrate"], env={"RELAY_POSTGRES_DSN": database})
    assert told.exit_code == 1
    assert told.stderr.startswith(
        "relay: replicas of an older program are running and cannot go on beside this migration"
    )
    assert "shop-1" in told.stderr
    assert await before.fetchval("SELECT max(version) FROM outbox.migration") == RECEIPTS - 1
    assert await before.fetchval("SELECT count(*) FROM outbox.delivery") == len(DELIVERED)
    await before.execute("UPDATE outbox.replica SET lease_expires_at = now()")
    assert await migrate(before)


async def test_a_program_from_before_says_that_it_is_too_old_and_changes_nothing(
    before: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(before)
    known_up_to(monkeypatch, RECEIPTS - 1)
    for check in (check_schema, migrate):
        with pytest.raises(
            SchemaError, match=rf"needs a program that knows version {RECEIPTS}.*; install a newer outbox-relay"
        ):
            await check(before)


async def test_the_roles_write_receipts_of_batches_and_no_former_ones(before: asyncpg.Connection) -> None:
    await migrate(before)
    may = "SELECT has_table_privilege('outbox_relay', $1, 'INSERT')"
    assert await before.fetchval(may, "outbox.receipt") is True
    assert await before.fetchval(may, "outbox.former_delivery") is False
    for role in ("outbox_relay", "outbox_admin"):
        assert await before.fetchval("SELECT has_table_privilege($1, 'outbox.receipt', 'SELECT')", role) is True
    await make_roles(before)
    assert await before.fetchval(may, "outbox.former_delivery") is False


async def test_writers_do_not_wait_for_it(
    before: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No table of events is rewritten or looked through: only names change."""
    # Later ones may wait for writers.
    known_up_to(monkeypatch, RECEIPTS)
    async with connected(database) as writer, writer.transaction():
        await writer.execute("INSERT INTO outbox.event (topic) VALUES ('orders')")
        assert await asyncio.wait_for(migrate(before), 30)
        await writer.execute("INSERT INTO outbox.event (topic) VALUES ('orders')")
    assert await before.fetchval("SELECT count(*) FROM outbox.event") == 22


async def test_the_highest_former_receipt_counts_for_the_sequence(before: asyncpg.Connection) -> None:
    await migrate(before)
    rows = await before.fetch(query("highest_settled"), list(range(16)))
    assert {row["lane"]: row["id"] for row in rows}[LANE] == 19
