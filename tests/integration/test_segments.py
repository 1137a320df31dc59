"""Segments: made ahead of the writers, dropped when nothing needs them, never in anybody's way."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import asyncpg
import pytest

from relay.errors import HeldUpError, SchemaError
from relay.postgres import locks
from relay.postgres.admin.migrate import make_roles, migrate
from relay.postgres.connect import open_connection
from relay.postgres.flow import segments
from relay.postgres.flow.segments import LAST_ID, ensure_segments
from relay.postgres.sql import query
from tests.support.postgres.outbox import add_event, add_failure, connected, migrated
from tests.support.postgres.receipts import DELIVERIES, add_receipts
from tests.support.postgres.segments import prune

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def connection(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with an outbox."""
    async with migrated(database) as connection:
        yield connection


async def set_newest_id(connection: asyncpg.Connection, newest: int) -> None:
    """Let the next id be the one after `newest`."""
    await connection.execute("SELECT setval('outbox.event_id', $1)", newest)


async def set_positions(connection: asyncpg.Connection, position: int) -> None:
    """As if everything up to `position` were settled."""
    await connection.execute("UPDATE outbox.lane SET position = $1", position)


async def bounds(connection: asyncpg.Connection) -> list[tuple[int, int]]:
    """The segments' ranges of ids, in order."""
    rows = await connection.fetch("SELECT lower_id, upper_id FROM outbox.segment ORDER BY lower_id")
    return [tuple(row) for row in rows]


async def places(connection: asyncpg.Connection, table: str) -> set[str]:
    """The partitions that hold rows."""
    rows = await connection.fetch(f"SELECT DISTINCT tableoid::regclass::text FROM outbox.{table}")
    return {row[0] for row in rows}


async def until_waiting_for_a_lock(connection: asyncpg.Connection, pid: int) -> None:
    """Return when the session `pid` waits for a lock."""
    while not await connection.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):
        await connection.execute("SELECT pg_sleep(0.005)")


async def test_whole_segments_are_kept_ahead_of_the_newest_id(connection: asyncpg.Connection) -> None:
    assert await ensure_segments(connection, 1000, 2) == []
    await set_newest_id(connection, 5_000_000)
    assert await ensure_segments(connection, 1000, 2) == ["event_5000001", "event_5001001"]
    assert await ensure_segments(connection, 1000, 2) == []
    await set_newest_id(connection, 5_000_001)
    assert await ensure_segments(connection, 1000, 2) == ["event_5002001"]
    assert (await bounds(connection))[-1] == (5_002_001, 5_003_001)


async def test_another_segment_size_counts_from_the_next_segment_on(connection: asyncpg.Connection) -> None:
    await ensure_segments(connection, 5_000_000, 2)
    await ensure_segments(connection, 9_000_000, 2)
    assert await bounds(connection) == [(1, 5_000_001), (5_000_001, 10_000_001), (10_000_001, 19_000_001)]


async def test_writers_without_a_segment_go_on_and_their_rows_are_moved_later(connection: asyncpg.Connection) -> None:
    await set_newest_id(connection, 6_000_000)
    stranded = [await add_event(connection, key=str(n)) for n in range(50)]
    await add_receipts(connection)
    assert await places(connection, "event") == {"outbox.event_default"}
    # The writers are still there: the next segment begins a little above, and nothing is moved under their feet.
    assert await ensure_segments(connection, 20_000, 1) == ["event_6010051"]
    assert await places(connection, "event") == {"outbox.event_default"}
    await set_newest_id(connection, 6_010_051)
    assert "event_5000001" in await ensure_segments(connection, 20_000, 1)
    assert await places(connection, "event") == {"outbox.event_5000001"}
    assert await places(connection, "receipt") == {"outbox.receipt_5000001"}
    kept = await connection.fetch("SELECT lane, id FROM outbox.delivered ORDER BY id")
    assert kept == stranded


async def test_many_stranded_rows_are_moved_in_portions(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "STRANDED_EVENTS", 20)
    await set_newest_id(connection, 6_000_000)
    for n in range(50):
        await add_event(connection, key=str(n))
    await ensure_segments(connection, 1000, 1)
    await set_newest_id(connection, 6_001_051)
    assert await ensure_segments(connection, 1000, 1) == [
        "event_6002051",
        "event_5000001",
        "event_6000021",
        "event_6000041",
    ]
    assert await connection.fetchval("SELECT count(*) FROM outbox.event") == 50
    assert await connection.fetchval("SELECT count(*) FROM outbox.event_default") == 0


async def test_an_open_writer_in_the_default_partition_puts_it_off_and_nobody_waits(
    connection: asyncpg.Connection, database: str
) -> None:
    await set_newest_id(connection, 6_000_000)
    async with connected(database) as writer:
        transaction = writer.transaction()
        await transaction.start()
        await add_event(writer)
        with pytest.raises(HeldUpError, match=f"pid {writer.get_server_pid()} "):
            await ensure_segments(connection, 1000, 1)
        await asyncio.wait_for(add_event(connection), 2)
        await transaction.commit()
    assert await ensure_segments(connection, 1000, 1) == ["event_6001003"]


async def test_two_replicas_at_once_make_each_segment_once(connection: asyncpg.Connection, database: str) -> None:
    await set_newest_id(connection, 5_000_000)
    async with connected(database) as other:
        for _ in range(20):
            made = await asyncio.gather(
                ensure_segments(connection, 1000, 3), ensure_segments(other, 1000, 3), return_exceptions=True
            )
            assert all(isinstance(each, list) for each in made), made
            if await ensure_segments(connection, 1000, 3) == []:
                break
    assert [each[0] for each in await bounds(connection)] == [1, 5_000_001, 5_001_001, 5_002_001]


class TestPrune:
    """A segment goes when everything in it is settled and old enough, and not before."""

    @pytest.fixture
    async def event(self, connection: asyncpg.Connection) -> asyncpg.Record:
        """One delivered event in the first segment; all positions are beyond that segment."""
        event = await add_event(connection)
        await add_receipts(connection)
        await set_newest_id(connection, 5_000_000)
        await ensure_segments(connection, 1000, 2)
        await set_positions(connection, 5_000_001)
        return event

    async def test_settled_and_old_segments_are_dropped(
        self, connection: asyncpg.Connection, event: asyncpg.Record
    ) -> None:
        assert await prune(connection, 3600) == []
        assert await prune(connection, 0) == ["event_1"]
        assert await bounds(connection) == [(5_000_001, 5_001_001), (5_001_001, 5_002_001)]
        assert await connection.fetchval(f"SELECT count(*) FROM {DELIVERIES}") == 0
        assert await prune(connection, 0) == []

    async def test_a_position_in_or_at_the_end_of_it_keeps_it(
        self, connection: asyncpg.Connection, event: asyncpg.Record
    ) -> None:
        await connection.execute("UPDATE outbox.lane SET position = 5000000 WHERE lane = 3")
        assert await prune(connection, 0) == []

    @pytest.mark.parametrize("state", ["failed", "replaying"])
    async def test_a_failure_in_it_keeps_it(
        self, connection: asyncpg.Connection, event: asyncpg.Record, state: str
    ) -> None:
        await add_failure(connection, event, state)
        assert await prune(connection, 0) == []

    async def test_a_held_event_in_it_keeps_it(self, connection: asyncpg.Connection, event: asyncpg.Record) -> None:
        await connection.execute("INSERT INTO outbox.held VALUES ($1, $2, 'orders')", *event)
        assert await prune(connection, 0) == []

    async def test_discarded_failures_go_with_it(self, connection: asyncpg.Connection, event: asyncpg.Record) -> None:
        await add_failure(connection, event, "discarded")
        assert await prune(connection, 0) == ["event_1"]
        assert await connection.fetchval("SELECT count(*) FROM outbox.failure") == 0

    async def test_an_event_that_was_passed_over_keeps_it(
        self, connection: asyncpg.Connection, event: asyncpg.Record
    ) -> None:
        """Whatever the positions say: whoever may write them, or a fault, must not make an event vanish."""
        await connection.execute("ALTER SEQUENCE outbox.event_id RESTART WITH 2")
        passed_over = await add_event(connection, "another")
        with pytest.raises(
            SchemaError, match=f"event_1 is kept: its event {passed_over['id']} has no receipt and was not discarded"
        ):
            await prune(connection, 0)
        await add_failure(connection, passed_over, "discarded")
        assert await prune(connection, 0) == ["event_1"]

    async def test_what_is_written_into_it_while_it_is_looked_through_keeps_it(
        self, connection: asyncpg.Connection, event: asyncpg.Record, database: str
    ) -> None:
        async with connected(database) as writer, writer.transaction():
            await writer.execute("INSERT INTO outbox.event (id, topic) VALUES (2, 'orders')")
            with pytest.raises(HeldUpError, match=f"pid {writer.get_server_pid()} "):
                await prune(connection, 0)
        with pytest.raises(SchemaError, match="its event 2 has no receipt"):
            await prune(connection, 0)

    async def test_what_is_committed_while_it_waits_for_its_locks_counts(
        self, connection: asyncpg.Connection, event: asyncpg.Record, database: str
    ) -> None:
        await connection.execute("ALTER FUNCTION outbox.drop_segment SET lock_timeout = '30s'")
        async with connected(database) as other, connected(database) as observer:
            transaction = other.transaction()
            await transaction.start()
            await other.execute("LOCK TABLE ONLY outbox.event IN ACCESS SHARE MODE")
            await other.execute("INSERT INTO outbox.held VALUES ($1, $2, 'orders')", *event)
            dropping = asyncio.create_task(connection.fetchval("SELECT outbox.drop_segment(1)"))
            await asyncio.wait_for(until_waiting_for_a_lock(observer, connection.get_server_pid()), 10)
            await transaction.commit()
            assert await dropping is False

    async def test_an_open_reader_puts_it_off_and_writers_do_not_wait(
        self, connection: asyncpg.Connection, event: asyncpg.Record, database: str
    ) -> None:
        async with connected(database) as reader, connected(database) as writer:
            transaction = reader.transaction(isolation="repeatable_read")
            await transaction.start()
            await reader.fetchval("SELECT count(*) FROM outbox.event")
            pruning = asyncio.create_task(prune(connection, 0))
            longest = 0.0
            while not pruning.done():
                began = time.monotonic()
                await add_event(writer)
                longest = max(longest, time.monotonic() - began)
            with pytest.raises(HeldUpError, match=f"pid {reader.get_server_pid()} "):
                await pruning
            assert longest < 5
            # Once the reader is a second old nobody even tries.
            await asyncio.sleep(1.1)
            assert await connection.fetchval("SELECT outbox.drop_segment(1)") is False
            await transaction.rollback()
        assert await prune(connection, 0) == ["event_1"]

    async def test_a_segment_that_is_gone_is_no_error(self, connection: asyncpg.Connection) -> None:
        assert await connection.fetchval("SELECT outbox.drop_segment(77)") is False


async def test_making_and_dropping_segments_is_refused_in_a_snapshot_from_before_their_locks(
    connection: asyncpg.Connection,
) -> None:
    for call in ("outbox.drop_segment(1)", "outbox.add_segment(5000001, 5000011)"):
        with pytest.raises(asyncpg.ActiveSQLTransactionError, match="READ COMMITTED"):
            async with connection.transaction(isolation="repeatable_read"):
                await connection.execute(f"SELECT {call}")


class TestWhoStandsInTheWay:
    """Is named, and no lock is asked for behind which writers would queue up."""

    @pytest.fixture(autouse=True)
    async def _due(self, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        """One segment is to be dropped, others to be made; and nobody counts as young."""
        await add_event(connection)
        await add_receipts(connection)
        await set_newest_id(connection, 5_000_000)
        await set_positions(connection, 5_000_001)
        monkeypatch.setattr(locks, "LASTING", 0.0)
        # If a lock were asked for after all, it would be for long enough to be seen.
        for function in ("add_segment", "drop_segment"):
            await connection.execute(f"ALTER FUNCTION outbox.{function} SET lock_timeout = '20s'")

    async def check_named(self, connection: asyncpg.Connection, who: str) -> None:
        for work in (ensure_segments(connection, 1000, 2), prune(connection, 0)):
            with pytest.raises(HeldUpError) as refused:
                await asyncio.wait_for(work, 10)
            assert who in str(refused.value)

    async def test_a_reader_is_named_with_role_application_and_age(
        self, connection: asyncpg.Connection, database: str
    ) -> None:
        async with connected(database) as reader, reader.transaction():
            await reader.execute("SET application_name = 'nightly report'")
            await reader.fetchval("SELECT count(*) FROM outbox.event")
            pid = reader.get_server_pid()
            await self.check_named(
                connection, f"the session with pid {pid} (role postgres, application 'nightly report', 0 s old)"
            )
        assert len(await ensure_segments(connection, 1000, 2)) == 2
        assert await prune(connection, 0) == ["event_1"]

    async def test_a_prepared_transaction_is_named_by_its_id(
        self, connection: asyncpg.Connection, database: str
    ) -> None:
        gid = f"transfer {secrets.token_hex(4)}"
        async with connected(database) as service:
            await service.execute("BEGIN")
            await service.fetchval("SELECT count(*) FROM outbox.event")
            await service.execute("INSERT INTO outbox.event (topic) VALUES ('orders')")
            await service.execute(f"PREPARE TRANSACTION '{gid}'")
        try:
            await self.check_named(connection, f"the prepared transaction '{gid}' (role postgres, 0 s old)")
            assert await connection.fetchval("SELECT outbox.drop_segment(1)") is False
        finally:
            await connection.execute(f"ROLLBACK PREPARED '{gid}'")
        assert await ensure_segments(connection, 1000, 2)

    async def test_one_whose_age_is_not_ours_to_know_is_looked_at_twice(
        self, connection: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locks, "LASTING", 0.1)
        await make_roles(connection)
        async with connected(database) as reader, connected(database) as relay, reader.transaction():
            await reader.fetchval("SELECT count(*) FROM outbox.event")
            await relay.execute("SET ROLE outbox_relay")
            with pytest.raises(HeldUpError, match=f"pid {reader.get_server_pid()} "):
                await ensure_segments(relay, 1000, 2)

    async def test_another_replica_that_is_at_it_is_no_trouble(
        self, connection: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locks, "PAUSE", 0.0)
        await connection.execute("ALTER FUNCTION outbox.add_segment SET lock_timeout = '1ms'")
        async with connected(database) as replica, replica.transaction():
            await replica.execute("SET application_name = 'outbox-relay housekeeping'")
            await replica.execute("LOCK TABLE outbox.migration IN SHARE UPDATE EXCLUSIVE MODE")
            assert await ensure_segments(connection, 1000, 2) == []

    async def test_an_update_that_somebody_prepares_and_may_not_run_is_no_trouble(
        self, connection: asyncpg.Connection, database: str
    ) -> None:
        name = f"stranger_{secrets.token_hex(6)}"
        await connection.execute(f"CREATE ROLE {name} NOLOGIN; GRANT USAGE ON SCHEMA outbox TO {name}")
        try:
            async with connected(database) as stranger, stranger.transaction():
                await stranger.execute(f"SET LOCAL ROLE {name}")
                await stranger.execute("PREPARE update AS UPDATE outbox.migration SET name = name")
                assert await ensure_segments(connection, 1000, 2)
        finally:
            await connection.execute(f"REVOKE USAGE ON SCHEMA outbox FROM {name}; DROP ROLE {name}")


async def test_segments_end_where_the_ids_do(connection: asyncpg.Connection) -> None:
    await set_newest_id(connection, LAST_ID - 1500)
    await ensure_segments(connection, 1000, 2)
    assert (await bounds(connection))[1:] == [(LAST_ID - 499, LAST_ID)]
    assert await ensure_segments(connection, 1000, 2) == []
    await set_newest_id(connection, LAST_ID - 1)
    await add_event(connection)
    assert await ensure_segments(connection, 1000, 2) == []


@pytest.mark.filterwarnings("ignore")
async def test_a_publication_for_all_tables_is_in_nobodys_way(database: str) -> None:
    """A stored generated column in the primary key: PostgreSQL 18 then refuses DELETE, also of no row."""
    async with connected(database) as connection:
        await connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        await migrate(connection)
        assert await bounds(connection) == [(1, 5_000_001)]
        await set_newest_id(connection, 5_000_000)
        stranded = [await add_event(connection) for _ in range(20)]
        assert await places(connection, "event") == {"outbox.event_default"}
        assert await ensure_segments(connection, 20_000, 1) == ["event_5010021"]
        await set_newest_id(connection, 5_010_021)
        await ensure_segments(connection, 20_000, 1)
        assert await places(connection, "event") == {"outbox.event_5000001"}
        kept = await connection.fetch("SELECT lane, id FROM outbox.event ORDER BY id")
        assert kept == stranded
        await add_receipts(connection)
        event = stranded[0]
        await add_failure(connection, event)
        await connection.execute("INSERT INTO outbox.held VALUES ($1, $2, 'orders')", *event)
        for table in ("failure", "held", "lane", "replica", "action", "replay_receipt", "lane_intent"):
            column = "id" if table not in ("lane", "lane_intent", "replay_receipt") else "lane"
            identity = "" if table == "action" else f"UPDATE outbox.{table} SET {column} = {column};"
            await connection.execute(f"{identity} UPDATE outbox.action SET reason = ''; DELETE FROM outbox.{table}")
        await connection.execute(
            "INSERT INTO outbox.lane (lane, position) SELECT n, 5030101 FROM generate_series(0, 15) n"
        )
        assert "event_5000001" in await prune(connection, 0)


HELD = 100_000
"""Rows above the segment that is to be dropped: some 400 pages of an index, where a few for each lane are enough."""

PAGES_READ = (
    "SELECT sum(pg_stat_get_xact_blocks_fetched(oid)) FROM pg_class"
    " WHERE oid = $1::regclass OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1::regclass)"
)
"""Of a table and its indexes, by this transaction so far."""


@pytest.mark.parametrize("table", ["held", "failure"])
async def test_what_is_held_or_failed_elsewhere_is_not_read_to_drop_a_segment(
    connection: asyncpg.Connection, database: str, table: str
) -> None:
    """Before version 18 PostgreSQL walks through a whole index on (lane, id) for a range of ids without the lane, and
    here it does so under locks for which every writer waits."""
    more = "" if table == "held" else ", state, attempts, error, policy"
    values = "" if table == "held" else ", 'failed', 1, 'e', 'block'"
    await connection.execute(
        f"INSERT INTO outbox.{table} (lane, id, topic{more})"
        f" SELECT i % 16, 5000001 + i, 'orders'{values} FROM generate_series(1, {HELD}) AS i"
    )
    await set_newest_id(connection, 5_000_000)
    await ensure_segments(connection, 1_000_000, 1)
    await set_positions(connection, 5_000_001)
    relay = await open_connection(database, 5, "outbox-relay housekeeping")
    for name, arguments in (("due_segments", (0.0,)), ("retire_segment", (1, 0.0, 0.0))):
        async with relay.transaction():
            assert await relay.fetchval(query(name), *arguments) in ("event_1", 0)
            pages = await relay.fetchval(PAGES_READ, f"outbox.{table}")
            assert pages < 200, f"{name} reads {pages} pages of {table}"
    await relay.close()
