"""What other sessions of the database do while events flow: long transactions, locks, ended connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.postgres.outbox import connected
from tests.support.postgres.writers import Writers, fill
from tests.support.relay.process import check_repeats
from tests.support.relay.replicas import Replicas
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place

EVENTS = 20_000

COUNT_UPDATES = """
CREATE SEQUENCE {table}_updates MINVALUE 0 START 0;
SELECT nextval('{table}_updates');
CREATE FUNCTION count_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM nextval('public.{table}_updates'); RETURN NULL; END
$$;
CREATE TRIGGER count_updates AFTER UPDATE ON outbox.{table}
FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION count_{table}();
"""

COUNTED = {
    "replica": "OLD.lease_expires_at < NEW.lease_expires_at",
    # Claims and releases are not what this is about, and on a slow machine a lease may be lost.
    "lane": "OLD.epoch = NEW.epoch AND OLD.owner IS NOT DISTINCT FROM NEW.owner",
}


async def test_events_flow_past_a_snapshot_and_a_foreign_write_that_are_held_open(here: Place) -> None:
    await here.connection.execute("CREATE TABLE report (line text)")
    async with connected(here.dsn) as reader, connected(here.dsn) as writer, here.relay() as relay:
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert await reader.fetchval("SELECT count(*) FROM outbox.event") == 0
        await writer.execute("BEGIN; INSERT INTO report VALUES ('a')")
        await fill(here.connection, here.topic, EVENTS)
        async with Writers(here.dsn, here.topic) as writers:
            await writers.commit(200)
        await here.settled()
        assert await reader.fetchval("SELECT count(*) FROM outbox.event") == 0
        await writer.execute("COMMIT")
        await reader.execute("COMMIT")
        async with Writers(here.dsn, here.topic, writers=1) as writers:
            await writers.commit(10)
        await here.settled()
        await relay.stop()

    # The accounts counted on from where the first writers had left them.
    assert await here.check_everything() == []


async def test_a_transaction_that_enqueued_first_and_commits_last_is_delivered(here: Place) -> None:
    async with connected(here.dsn) as late, here.relay() as relay:
        await late.execute("BEGIN")
        await fill(late, here.topic, 10, keys=1)
        async with Writers(here.dsn, here.topic) as writers:
            await writers.commit(500)
        await here.receipts_reach(500)
        await late.execute("COMMIT")
        await here.receipts_reach(510)
        await here.settled()
        await relay.stop()

    assert await here.check_everything() == []


@pytest.mark.slow
async def test_an_administrator_who_ends_its_sessions_costs_no_event(here: Place) -> None:
    async with Writers(here.dsn, here.topic) as writers, here.relay() as relay:
        for times, purpose in enumerate(("scan", "settle", "control"), start=1):
            await relay.logged("lanes.claimed", times)
            await writers.commit(50)
            # Those that have nothing to do notice when they have, at the latest with the next session.
            ended = [f"outbox-relay {each}" for each in ("sweep", "housekeeping", purpose)]
            assert await here.connection.fetchval(
                "SELECT count(DISTINCT application_name) = 3 AND count(pg_terminate_backend(pid)) >= 3"
                " FROM pg_stat_activity WHERE datname = current_database() AND application_name = ANY($1)",
                ended,
            )
            await relay.logged("postgres.lost", times)
        await relay.logged("lanes.claimed", 4)
        await writers.commit(50)
        await writers.end()
        await here.settled()
        await relay.stop()
        assert not relay.texts()

    check_repeats(relay, await here.check_everything())


async def test_a_statement_that_is_cancelled_while_it_waits_for_a_lock_is_tried_again(here: Place) -> None:
    async with connected(here.dsn) as locker, here.relay() as relay:
        await relay.logged("lanes.claimed")
        await locker.execute("BEGIN; LOCK TABLE outbox.event, outbox.receipt")
        assert await until("the scan waits for the lock", lambda: cancel_waiting(here))
        await relay.logged("postgres.lost")
        await locker.execute("COMMIT")
        await fill(here.connection, here.topic, 100)
        await here.settled()
        await relay.stop()
        assert not relay.texts()

    assert await here.check_everything() == []


@pytest.mark.slow
async def test_beside_a_held_snapshot_lanes_are_written_by_heartbeats_only_and_not_at_all_when_idle(
    here: Place,
) -> None:
    """While a snapshot stays open, every update leaves a dead row behind that nothing can clean up."""
    beats = 3
    async with connected(here.dsn) as reader, Replicas(here, replica_lease=9, kafka_request_timeout=3) as replicas:
        for name in ("one", "two"):
            await replicas.start(name)
        await replicas.own(one=8, two=8)
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert await reader.fetchval("SELECT count(*) FROM outbox.event") == 0
        for table, condition in COUNTED.items():
            await here.connection.execute(COUNT_UPDATES.format(table=table, condition=condition))

        async with Writers(here.dsn, here.topic) as writers:
            await updates_reach(here, "replica", 2 * beats)
        await here.settled()
        await until("the positions come to the end", lambda: positions_at_the_end(here))
        in_lanes = await updates(here, "lane")
        heartbeats = await updates(here, "replica")
        assert writers.committed > 100
        # 8 each, or all 16 after a hand-over.
        assert 0 < in_lanes <= 16 * heartbeats

        rows = await lane_rows(here)
        await updates_reach(here, "replica", heartbeats + 2 * beats)
        assert await updates(here, "lane") == in_lanes
        later = await lane_rows(here)
        assert [owned for owned in rows if later.get(owned, rows[owned]) != rows[owned]] == []
        await replicas.stop_all()

    assert len(await here.check_everything()) == replicas.duplicates_counted()


async def lane_rows(here: Place) -> dict[tuple[object, ...], object]:
    """Where each lane's row stands in its table, by lane, owner and epoch; while a snapshot is held, every update puts
    it somewhere else and leaves the old one there."""
    rows = await here.connection.fetch("SELECT lane, owner, epoch, ctid FROM outbox.lane")
    return {tuple(row[:3]): row["ctid"] for row in rows}


async def updates(here: Place, table: str) -> int:
    """How often a row of a table was updated, since that is counted."""
    count: int = await here.connection.fetchval(f"SELECT last_value FROM {table}_updates")
    return count


async def updates_reach(here: Place, table: str, count: int) -> None:
    """Wait for so many updates."""

    async def reached() -> bool:
        return await updates(here, table) >= count

    await until(f"{count} updates of {table}", reached, timeout=60)


async def positions_at_the_end(here: Place) -> bool:
    """Whether the positions of all lanes have reached the newest event: there is nothing to raise them to."""
    return bool(
        await here.connection.fetchval(
            "SELECT min(l.position) = s.last_value FROM outbox.lane AS l, outbox.event_id AS s GROUP BY s.last_value"
        )
    )


async def cancel_waiting(here: Place) -> bool:
    """Cancel the relay's statement that waits for a lock, as its statement_timeout would; whether there was one."""
    return bool(
        await here.connection.fetchval(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'outbox-relay scan' AND wait_event_type = 'Lock'"
        )
    )
