"""The rules of the scan (relay/decide/SCAN.md), each on a real server and each with what breaks without it.

Every test was seen to fail with its rule taken out of the code.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from relay.errors import PostgresLostError, SchemaError
from relay.postgres.sql import query
from relay.run.connections import connect_all
from relay.settings import Settings
from relay.stages.settle.outcomes import Delivered, Held, Outcomes
from relay.stages.tenure import SequenceWentBackError
from tests.support.events import ids
from tests.support.postgres.outbox import connected, migrated
from tests.support.postgres.receipts import DELIVERIES, add_receipts
from tests.support.relay.between import Between
from tests.support.relay.stages import HandRelay, hand_relay, lane_of, relay_connections, same_lane, writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg

    from relay.local import PostgresServer
    from relay.stages.scan.ports import LaneRequest, ScanResult

LANE = lane_of("k")
RECORD = {
    "failure": "INSERT INTO outbox.failure (lane, id, topic, state, attempts, error, policy)"
    " VALUES ($1, $2, 'orders', 'failed', 1, 'MessageSizeTooLarge', 'block')",
    "held": "INSERT INTO outbox.held (lane, id, topic) VALUES ($1, $2, 'orders')",
}
CACHE_20 = "ALTER SEQUENCE outbox.event_id CACHE 20"


async def position(connection: asyncpg.Connection, lane: int = LANE) -> int:
    found: int = await connection.fetchval("SELECT position FROM outbox.lane WHERE lane = $1", lane)
    return found


async def record(connection: asyncpg.Connection, table: str, events: Iterable[int]) -> None:
    """Write failures or held rows of events."""
    await connection.executemany(RECORD[table], [(LANE, id_) for id_ in events])


class TestWhileNothingEnds:
    """A look at the snapshot in place of a scan must not miss what any scan would have found."""

    async def still(self, relay: HandRelay) -> None:
        await relay.take_all()
        await relay.take()
        assert await relay.scan.nothing_new()

    async def test_an_event_whose_id_is_older_than_the_last_scan(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as straggler:
            await straggler.begin()
            event = await straggler.enqueue()
            await self.still(relay)
            await straggler.commit()
            assert not await relay.scan.nothing_new()
            assert ids(await relay.take()) == [event.id]

    async def test_an_event_of_a_savepoint(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, connected(outbox) as service:
            await self.still(relay)
            await service.execute(
                "BEGIN; SAVEPOINT one; SELECT outbox.enqueue('orders', 'k', 'x'::text); RELEASE one; COMMIT"
            )
            assert not await relay.scan.nothing_new()
            assert len(await relay.take()) == 1

    async def test_it_is_a_scan_that_follows_a_heartbeat(self, outbox: str) -> None:
        """Which ended a transaction of its own: what lies below its rung is looked at once more."""
        async with hand_relay(outbox) as relay:
            await self.still(relay)
            await relay.claim.beat()
            assert not await relay.scan.nothing_new()
            await relay.take()
            assert await relay.scan.nothing_new()


class Answers:
    """A connection whose scan was answered with this."""

    def __init__(self, result: ScanResult) -> None:
        self._result = result

    async def scan(self, lanes: Sequence[LaneRequest]) -> ScanResult:
        return self._result


class TestTheLadder:
    async def test_the_sequence_is_never_read_ahead_of_the_ids_that_were_taken(self, outbox: str) -> None:
        """Read like a table it is, for moments, up to 32 ids ahead: about once in a thousand reads of this test.

        A floor made of such a value lies above ids that are still to come.
        """
        async with connected(outbox) as reader, connected(outbox) as writing:
            await reader.execute(
                "CREATE FUNCTION times_gone_back() RETURNS int LANGUAGE plpgsql AS $$"
                " DECLARE before bigint := 0; now bigint; times int := 0;"
                " BEGIN"
                "   FOR i IN 1..300000 LOOP"
                f"    now := ({query('sequence_value').rstrip(';')});"
                "     IF now < before THEN times := times + 1; END IF;"
                "     before := now;"
                "   END LOOP;"
                "   RETURN times;"
                " END $$"
            )
            taking = asyncio.create_task(
                writing.execute("SELECT count(nextval('outbox.event_id')) FROM generate_series(1, 5000000)")
            )
            assert await reader.fetchval("SELECT times_gone_back()") == 0
            assert await reader.fetchval(query("sequence_value")) > 1_000, "nobody took ids meanwhile"
            taking.cancel()

    async def test_an_event_that_commits_late_is_taken_although_its_id_is_below_the_last_one(self, outbox: str) -> None:
        """With `id > last` it is lost."""
        late_key, key = "k", same_lane("k", 1)[0]
        async with hand_relay(outbox) as relay, writer(outbox) as late, writer(outbox) as soon:
            await late.begin()
            first = await late.enqueue(late_key)
            await soon.begin()
            second = await soon.enqueue(key)
            await soon.commit()
            assert ids(await relay.take_all()) == [second.id]
            await late.commit()
            assert ids(await relay.take_all()) == [first.id]

    async def test_xmax_is_not_the_moment_of_the_snapshot(self, outbox: str) -> None:
        """xmax is the latest *completed* xid + 1: a running transaction above it may have ids already.

        With "xids from xmax on have only ids above the sequence's value at the snapshot" the event is lost.
        """
        other = same_lane("k", 1)[0]
        async with hand_relay(outbox) as relay, writer(outbox) as old, writer(outbox) as soon:
            await old.begin()
            first = await old.enqueue()
            # Nothing has completed since: the old transaction's xid is not below xmax.
            await relay.take_all()
            snapshot = relay.lane(LANE).snapshot
            assert snapshot is not None
            assert snapshot.running == frozenset()
            await soon.begin()
            second = await soon.enqueue(other)
            await soon.commit()
            assert ids(await relay.take_all()) == [second.id]
            await old.commit()
            assert ids(await relay.take_all()) == [first.id]

    async def test_a_scan_tells_the_xid_of_the_next_transaction_though_an_older_one_is_running(
        self, outbox: str
    ) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as old, connected(outbox) as soon:
            await relay.take_all()
            await old.begin()
            await old.enqueue()
            found = await relay.scan_port.scan(relay.scan.requests())
            assert found.next_xid > found.snapshot.xmax, "the snapshot tells as much"
            assert await soon.fetchval("SELECT pg_current_xact_id()::text") == str(found.next_xid)

    async def test_a_scans_rung_says_nothing_of_the_last_transaction_before_it(self, outbox: str) -> None:
        """It may have its ids already. With a rung one xid lower the event is lost."""
        other = same_lane("k", 1)[0]
        async with hand_relay(outbox) as relay, writer(outbox) as last, writer(outbox) as soon:
            await soon.begin()
            await last.begin()
            first = await last.enqueue()
            second = await soon.enqueue(other)
            await soon.commit()
            assert ids(await relay.take_all()) == [second.id]
            assert await relay.take() == []
            await last.commit()
            assert ids(await relay.take_all()) == [first.id]

    async def test_nor_has_it_the_sequences_value_that_the_same_scan_read(self, outbox: str) -> None:
        """PostgreSQL may read the next xid first: a transaction that took it then has ids below that value."""
        other = same_lane("k", 1)[0]
        async with hand_relay(outbox) as relay, writer(outbox) as last, writer(outbox) as soon:
            await relay.take_all()
            await soon.begin()
            result = await relay.scan_port.scan(relay.scan.requests())
            await last.begin()
            first = await last.enqueue()
            relay.scan._port = Answers(result._replace(sequence_value=first.id))  # type: ignore[assignment]
            assert await relay.take() == []
            relay.scan._port = relay.scan_port
            second = await soon.enqueue(other)
            await soon.commit()
            assert ids(await relay.take_all()) == [second.id]
            await last.commit()
            assert ids(await relay.take_all()) == [first.id]

    async def test_a_scan_adds_a_rung_that_spares_the_next_one_what_was_there(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            for number in range(1, 4):
                await service.enqueue()
                await relay.take_all()
                # The scan found the sequence at that, and the next one the xids.
                await relay.take()
                assert relay.lane(LANE).sweep_start(relay.tenure.ladder).floor == number


class TestWhatIsKnown:
    """A scan does not look up what is settled."""

    @pytest.mark.parametrize("table", ["failure", "held"])
    async def test_what_had_failed_before_a_take_over_is_not_taken_once_a_late_receipt_stands_in_its_place(
        self, outbox: str, table: str
    ) -> None:
        """The process of the former owner resumed it, and settles that only now. A running transaction lies below."""
        other = same_lane("k", 1)[0]
        async with writer(outbox) as straggler, writer(outbox) as service:
            await straggler.begin()
            late = await straggler.enqueue()
            before = await service.enqueue(other)
            await record(service.connection, table, [before.id])
            async with hand_relay(outbox) as relay:
                assert await relay.take_all() == []
                await service.connection.execute(f"DELETE FROM outbox.{table}")
                await add_receipts(service.connection)
                await straggler.commit()
                assert ids(await relay.take_all()) == [late.id]

    async def test_a_straggler_below_what_was_cut_is_found_by_steps_and_nothing_is_taken_twice(
        self, outbox: str
    ) -> None:
        other = same_lane("k", 1)[0]
        async with hand_relay(outbox, sweep_step_ids=10) as relay, writer(outbox) as slow, writer(outbox) as service:
            await slow.begin()
            late = await slow.enqueue()
            written = [(await service.enqueue(other)).id for _ in range(40)]
            taken = await relay.take_all()
            assert ids(taken) == written
            # Some are settled and may be forgotten, the others never.
            await relay.settle(taken[::2])
            await relay.take_all()
            await slow.commit()
            assert await relay.take() == []
            assert relay.lane(LANE).sweep is not None
            assert ids(await relay.take_all()) == [late.id]


class TestRule1:
    async def test_a_receipt_that_commits_while_a_scan_is_under_way_is_not_in_its_snapshot(self, outbox: str) -> None:
        """If the id leaves `taken` with the receipt, the scan takes the event a second time."""
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            await service.enqueue()
            taken = await relay.take_all()
            port = Between(relay.scan_port, "scan")
            relay.scan._port = port  # type: ignore[assignment]
            port.after = lambda: relay.settle(taken)
            assert await relay.take() == []
            assert relay.lane(LANE).unsettled == 0
            assert await relay.take_all() == []
            assert relay.lane(LANE).taken == set()

    async def test_nor_in_that_of_a_step_of_a_sweep(self, outbox: str) -> None:
        async with connected(outbox) as service:
            await service.execute(
                "INSERT INTO outbox.event (topic, key) SELECT 'orders', 'k' FROM generate_series(1, 30)"
            )
            await add_receipts(service)
            await service.execute("DELETE FROM outbox.receipt WHERE max_id = 5")
        async with hand_relay(outbox, sweep_step_ids=10) as relay:
            (event,) = await relay.step()
            port = Between(relay.sweep_port, "sweep_step")
            relay.sweep._port = port  # type: ignore[assignment]
            lane = relay.lane(LANE)
            assert lane.sweep is not None
            lane.sweep.done_to = 0
            port.after = lambda: relay.settle([event])
            assert await relay.step() == []
            assert await relay.take_all() == []


class TestRule2:
    async def test_failed_and_held_events_do_not_fill_the_sweeps_limit(self, outbox: str) -> None:
        """Otherwise the sweep is cut off for ever, and the lane takes nothing fresh."""
        async with hand_relay(outbox, batch_events=16) as relay, writer(outbox) as service:
            await service.connection.execute(
                "INSERT INTO outbox.event (topic, key) SELECT 'orders', 'k' FROM generate_series(1, 40)"
            )
            taken = await relay.take_all()
            assert len(taken) == 40
            await record(service.connection, "failure", ids(taken[:20]))
            await record(service.connection, "held", ids(taken[20:]))
            # As the stages that record failures and held events will.
            relay.lane(LANE).settle(ids(taken))
            fresh = await service.enqueue()
            assert ids(await relay.take_all()) == [fresh.id]

    async def test_nor_that_of_a_step(self, outbox: str) -> None:
        async with writer(outbox) as service:
            await service.connection.execute(
                "INSERT INTO outbox.event (topic, key) SELECT 'orders', 'k' FROM generate_series(1, 40)"
            )
            await record(service.connection, "failure", range(2, 21))
            await record(service.connection, "held", range(21, 41))
            async with hand_relay(outbox, batch_events=5) as relay:
                assert ids(await relay.step()) == [1]


class TestRule3:
    async def test_a_sweep_that_hits_its_limit_lets_nothing_fresh_overtake_what_is_left(self, outbox: str) -> None:
        """A transaction that wrote more than one scan reads: its last events must come before fresh ones.

        With the fresh part taken all the same, the last event of the key overtakes those that were cut off; with
        the snapshot advanced, they are lost.
        """
        other = same_lane("k", 1)[0]
        async with (
            hand_relay(outbox, batch_events=160) as relay,
            writer(outbox) as straggler,
            writer(outbox) as soon,
        ):
            await straggler.begin()
            late = await straggler.enqueue_many(35)
            await soon.begin()
            first = await soon.enqueue(other)
            await soon.commit()
            await relay.settle(await relay.take_all())
            await relay.take_all()
            await straggler.commit()
            last = await soon.enqueue()
            assert len(await relay.take()) < 35
            await relay.take_all()
            assert ids(relay.taken) == [first.id, *late, last.id]


class TestRule4:
    async def test_a_straggler_that_commits_between_two_steps_is_neither_lost_nor_overtaken(self, outbox: str) -> None:
        """It wrote two events for one key, on both sides of a step's end.

        If steps advance the snapshot, the first is lost. If only the scan after the last step looks again, the
        second overtakes it.
        """
        other = same_lane("k", 1)[0]
        async with writer(outbox) as straggler, writer(outbox) as service:
            await service.enqueue(other)
            await straggler.begin()
            first = await straggler.enqueue()
            for _ in range(30):
                await service.enqueue(other)
            second = await straggler.enqueue()
            for _ in range(5):
                await service.enqueue(other)
            await add_receipts(service.connection)
            async with hand_relay(outbox, sweep_step_ids=10) as relay:
                lane = relay.lane(LANE)
                for _ in range(2):
                    assert await relay.step() == []
                assert lane.sweep is not None
                assert first.id < lane.sweep.done_to < second.id
                await straggler.commit()
                assert ids(await relay.take_all()) == [first.id, second.id]

    async def test_one_that_commits_while_something_is_left_of_a_step_comes_after_that(self, outbox: str) -> None:
        """Nothing of what the step found is looked for again, and the straggler's events keep their order."""
        other, more = same_lane("k", 2)[0], same_lane("k", 2)[1]
        async with (
            hand_relay(outbox, sweep_step_ids=10, batch_events=4) as relay,
            writer(outbox) as large,
            writer(outbox) as straggler,
            writer(outbox) as service,
        ):
            await straggler.begin()
            first = await straggler.enqueue(more)
            await large.begin()
            found = [(await large.enqueue(other)).id for _ in range(9)]
            second = await straggler.enqueue(more)
            for _ in range(15):
                await service.enqueue()
            await relay.settle(await relay.take_all())
            await large.commit()
            assert await relay.take() == []
            lane = relay.lane(LANE)
            taken = await relay.step()
            assert lane.sweep is not None
            assert lane.sweep.left
            await straggler.commit()
            while lane.sweep is not None and lane.sweep.left:
                taken += await relay.step()
            assert ids(taken) == found
            assert ids(await relay.take_all()) == [first.id, second.id]

    async def test_one_that_commits_after_the_last_step_is_found_by_the_scan_after_it(self, outbox: str) -> None:
        other = same_lane("k", 1)[0]
        async with writer(outbox) as straggler, writer(outbox) as service:
            await straggler.begin()
            late = await straggler.enqueue()
            for _ in range(30):
                await service.enqueue(other)
            await add_receipts(service.connection)
            async with hand_relay(outbox, sweep_step_ids=50) as relay:
                assert await relay.step() == []
                await straggler.commit()
                fresh = await service.enqueue(other)
                assert ids(await relay.take_all()) == [late.id, fresh.id]

    async def test_a_lane_in_a_long_sweep_waits_and_the_others_go_on(self, outbox: str) -> None:
        other = next(key for key in map(str, range(100)) if lane_of(key) != LANE)
        async with (
            hand_relay(outbox, sweep_step_ids=10) as relay,
            writer(outbox) as straggler,
            writer(outbox) as service,
        ):
            await relay.take_all()
            await straggler.begin()
            late = await straggler.enqueue()
            for _ in range(30):
                await service.enqueue()
            taken = await relay.take_all()
            await relay.settle(taken)
            await straggler.commit()
            elsewhere, here = await service.enqueue(other), await service.enqueue()
            assert ids(await relay.take()) == [elsewhere.id]
            assert relay.lane(LANE).sweep is not None
            assert ids(await relay.take()) == []
            assert ids(await relay.take_all()) == [late.id, here.id]

    async def test_a_step_that_hits_its_limit_is_gone_on_with(self, outbox: str) -> None:
        async with writer(outbox) as service:
            await service.connection.execute(
                "INSERT INTO outbox.event (topic, key) SELECT 'orders', 'k' FROM generate_series(1, 100)"
            )
            await add_receipts(service.connection)
            await service.connection.execute("DELETE FROM outbox.receipt WHERE max_id BETWEEN 20 AND 60")
            async with hand_relay(outbox, batch_events=7) as relay:
                assert ids(await relay.step()) == list(range(20, 27))
                assert ids(await relay.take_all()) == list(range(27, 61))


class TestRule5:
    async def test_what_is_above_the_position_is_swept_and_not_taken_for_fresh(self, outbox: str) -> None:
        """If a take-over begins with fresh events above the position, receipted ones are published again."""
        async with writer(outbox) as service:
            await service.connection.execute(
                "INSERT INTO outbox.event (topic, key) SELECT 'orders', 'k' FROM generate_series(1, 20)"
            )
            await add_receipts(service.connection)
            await service.connection.execute("DELETE FROM outbox.receipt WHERE max_id IN (3, 7)")
            await service.connection.execute(
                "INSERT INTO outbox.event (topic, key) SELECT 'orders', 'k' FROM generate_series(21, 23)"
            )
            async with hand_relay(outbox) as relay:
                assert await position(service.connection) == 0
                assert ids(await relay.take_all()) == [3, 7, 21, 22, 23]

    @pytest.mark.parametrize("table", ["failure", "held"])
    async def test_failures_and_held_events_count_like_receipts(self, outbox: str, table: str) -> None:
        async with writer(outbox) as service:
            for _ in range(5):
                await service.enqueue()
            await record(service.connection, table, [4])
            async with hand_relay(outbox) as relay:
                assert relay.lane(LANE).taken_to == 4
                assert ids(await relay.take_all()) == [1, 2, 3, 5]


class TestRule6:
    async def test_the_position_stays_below_what_an_open_transaction_may_commit(self, outbox: str) -> None:
        """If only transactions that have ended count, the next owner of the lane never looks for the event."""
        other = same_lane("k", 1)[0]
        async with writer(outbox) as straggler, writer(outbox) as service:
            async with hand_relay(outbox) as relay:
                await straggler.begin()
                late = await straggler.enqueue()
                for _ in range(3):
                    await service.enqueue(other)
                    await relay.settle(await relay.take_all())
                await relay.claim.beat()
                assert await position(service.connection) < late.id
                await service.connection.execute("DELETE FROM outbox.replica")
            async with hand_relay(outbox) as successor:
                await straggler.commit()
                assert ids(await successor.take_all()) == [late.id]

    async def test_it_stays_below_the_lowest_unsettled_event_and_follows_the_receipts(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            await service.connection.execute(
                "INSERT INTO outbox.event (topic, key) SELECT 'orders', 'k' FROM generate_series(1, 10)"
            )
            taken = await relay.take_all()
            await relay.settle([*taken[:4], *taken[6:]])
            await relay.take_all()
            await relay.claim.beat()
            assert await position(service.connection) == taken[4].id - 1
            await relay.settle(taken[4:6])
            await relay.claim.beat()
            await relay.take_all()
            await relay.claim.beat()
            assert await position(service.connection) == taken[-1].id

    async def test_it_moves_on_in_a_lane_without_events(self, outbox: str) -> None:
        other = next(key for key in map(str, range(100)) if lane_of(key) != LANE)
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            for _ in range(5):
                await service.enqueue(other)
            await relay.take_all()
            for _ in range(2):
                await relay.claim.beat()
                await relay.take_all()
            await relay.claim.beat()
            assert await position(service.connection) == 5

    async def test_it_does_not_pass_fresh_events_when_a_long_sweep_ends(self, outbox: str) -> None:
        """No step looks above `taken_to`. If the lane still counts as exhausted then, a crash loses them."""
        async with hand_relay(outbox, sweep_step_ids=10) as relay:
            async with writer(outbox) as straggler, writer(outbox) as service:
                await relay.take_all()
                await straggler.begin()
                await straggler.enqueue()
                for _ in range(30):
                    await service.enqueue()
                await relay.settle(await relay.take_all())
                await straggler.commit()
                fresh = await service.enqueue()
                assert await relay.take() == []
                await relay.claim.beat()
                while (lane := relay.lane(LANE)).sweep is not None:
                    await relay.settle(await relay.step())
                assert not lane.unsettled
                await relay.claim.beat()
                assert await position(service.connection) < fresh.id
                await service.connection.execute("DELETE FROM outbox.replica")
            async with hand_relay(outbox) as successor:
                assert ids(await successor.take_all()) == [fresh.id]


class TestRule7:
    async def test_events_that_are_held_back_let_the_position_pass(self, outbox: str) -> None:
        """Otherwise a key that is blocked for a week keeps the position, and so the segments, for a week."""
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            await service.enqueue_many(3)
            blocked, *others = await relay.take_all()
            await relay.settle(others)
            await relay.take_all()
            await relay.claim.beat()
            assert await position(service.connection) == blocked.id - 1
            await relay.settler.record([Held(relay.tenure, [blocked])])
            assert await relay.take_all() == []
            await relay.claim.beat()
            assert await position(service.connection) == others[-1].id
            assert await service.connection.fetchval("SELECT id FROM outbox.held") == blocked.id


class TestRule8:
    async def test_a_foreign_transaction_that_stays_open_holds_no_position_back_and_costs_no_sweep(
        self, outbox: str
    ) -> None:
        """Without the look at the locks the position stays where the transaction began, and its end costs a sweep
        of everything since, on every lane."""
        async with (
            hand_relay(outbox, sweep_step_ids=10) as relay,
            writer(outbox) as service,
            writer(outbox) as foreign,
            writer(outbox) as prepared,
        ):
            await foreign.begin()
            await prepared.begin()
            await prepared.connection.execute("PREPARE TRANSACTION 'foreign'")
            for _ in range(3):
                for _ in range(20):
                    await service.enqueue()
                await relay.settle(await relay.take_all())
                await relay.claim.beat()
                await relay.look_at_locks()
                await relay.take_all()
            await relay.claim.beat()
            assert await position(service.connection) == 60
            await foreign.commit()
            await service.connection.execute("COMMIT PREPARED 'foreign'")
            fresh = await service.enqueue()
            assert ids(await relay.take()) == [fresh.id]
            assert relay.lane(LANE).sweep is None

    @pytest.mark.parametrize("how", ["insert", "savepoint", "copy", "prepared"])
    async def test_one_that_wrote_an_event_is_told_from_it_however_it_did(self, outbox: str, how: str) -> None:
        """The table's lock does not tell: inserts into partitions by COPY and in subtransactions differ there.

        If such a transaction's floor is raised, its event is lost.
        """
        other = same_lane("k", 1)[0]
        async with hand_relay(outbox) as relay, writer(outbox) as service, writer(outbox) as slow:
            xid = await slow.begin()
            if how == "savepoint":
                await slow.connection.execute("SAVEPOINT a")
                await slow.enqueue()
                await slow.connection.execute("ROLLBACK TO a")
                assert await relay.sweep_port.quiet_transactions([xid]) == []
            if how == "copy":
                await slow.connection.copy_records_to_table(
                    "event", schema_name="outbox", columns=["topic", "key"], records=[("orders", b"k")]
                )
            else:
                await slow.enqueue()
            if how == "prepared":
                await slow.connection.execute("PREPARE TRANSACTION 'slow'")
            for _ in range(3):
                await service.enqueue(other)
                await relay.settle(await relay.take_all())
                await relay.look_at_locks()
                await relay.take_all()
            assert await relay.sweep_port.quiet_transactions([xid]) == []
            await slow.connection.execute("COMMIT PREPARED 'slow'" if how == "prepared" else "COMMIT")
            assert [event.key for event in await relay.take_all()] == [b"k"]

    async def test_one_that_writes_its_first_event_after_the_look_is_above_the_value_from_before_it(
        self, outbox: str
    ) -> None:
        """If the sequence is read after the look, the event is lost."""
        other = same_lane("k", 1)[0]
        async with hand_relay(outbox) as relay, writer(outbox) as service, writer(outbox) as slow:
            await slow.begin()
            await service.enqueue(other)
            await relay.settle(await relay.take_all())
            port = Between(relay.sweep_port, "quiet_transactions")
            relay.sweep._port = port  # type: ignore[assignment]

            async def write() -> None:
                await slow.enqueue()
                await service.enqueue(other)

            await relay.look_at_locks(twice=False)
            port.after = write
            await relay.look_at_locks()
            await relay.settle(await relay.take_all())
            await relay.claim.beat()
            await relay.take_all()
            await slow.commit()
            assert [event.key for event in await relay.take_all()] == [b"k"]

    async def test_one_that_has_ended_before_a_scan_confirms_it_is_not_raised(self, outbox: str) -> None:
        """At its end a transaction gives up the sequence's lock before its xid's: for a moment it looks quiet.

        That moment cannot be held on a real server (the model has it). Here the look is a lie, and the scan that
        must confirm it shows that the transaction has ended. It is one of other lanes; this one is read only later,
        relative to a snapshot in which the transaction was running.
        """
        other = same_lane("k", 1)[0]
        async with hand_relay(outbox) as relay, writer(outbox) as service, writer(outbox) as slow:
            xid = await slow.begin()
            await slow.enqueue()
            await service.enqueue(other)
            await relay.settle(await relay.take_all())
            await relay.take_all()
            await slow.commit()
            relay.reads.found_quiet([xid], await relay.control.sequence_value())
            relay.lane(LANE).releasing = True
            assert await relay.take() == []
            relay.lane(LANE).releasing = False
            assert [event.key for event in await relay.take_all()] == [b"k"]

    async def test_a_floor_that_was_raised_for_xmax_is_not_that_of_later_transactions(self, outbox: str) -> None:
        """The quiet transaction has the xid that is xmax of the lane's last snapshot; a later one took an id before
        the floor was raised above it. The lane is read again only then, and must not start above that id."""
        elsewhere = next(key for key in map(str, range(100)) if lane_of(key) != LANE)
        async with (
            hand_relay(outbox) as relay,
            writer(outbox) as service,
            writer(outbox) as first,
            writer(outbox) as quiet,
            writer(outbox) as late,
        ):
            await first.begin()
            xid = await quiet.begin()
            await late.begin()
            straggler = await late.enqueue(same_lane("k", 1)[0])
            taken = await first.enqueue()
            await first.commit()
            assert ids(await relay.take_all()) == [taken.id]
            snapshot = relay.lane(LANE).snapshot
            assert snapshot is not None
            assert snapshot.xmax == xid
            relay.lane(LANE).releasing = True
            for _ in range(3):
                await service.enqueue(elsewhere)
                await relay.settle(await relay.take_all())
                await relay.look_at_locks()
            await relay.take()
            assert relay.tenure.ladder._raised[xid] > straggler.id
            relay.lane(LANE).releasing = False
            await relay.settle([event for event in relay.taken if event.id == taken.id])
            await relay.claim.beat()
            assert await position(service.connection) < straggler.id
            await late.commit()
            assert ids(await relay.take_all()) == [straggler.id]

    async def test_a_transaction_that_really_is_old_is_found_by_the_stage_itself(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as service, writer(outbox) as foreign:
            xid = await foreign.begin()
            await service.enqueue()
            await relay.settle(await relay.take_all())
            sweeping = asyncio.create_task(relay.sweep.run())
            try:
                async with asyncio.timeout(10):
                    while not relay.tenure.ladder._raised.get(xid):
                        await relay.take()
                        await asyncio.sleep(0.01)
            finally:
                sweeping.cancel()
            assert relay.tenure.ladder.floor(xid) == 1


WAL_WRITER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"


class TestRule9:
    async def test_after_a_crash_that_took_commits_back_their_ids_mark_no_new_event(
        self, own_postgres: PostgresServer
    ) -> None:
        """With asynchronous commits the relay can read and publish what a crash takes back. The ids are used again.

        Settled without a look at `event_id`, the acknowledgements would mark events that nobody has published.
        """
        own_postgres.settings |= {"wal_writer_delay": "10s", "autovacuum": "off", "bgwriter_delay": "10s"}
        own_postgres.restart()
        outcomes = Outcomes()
        async with migrated(own_postgres.dsn), relay_connections(own_postgres.dsn) as connections:
            former = HandRelay(connections, outcomes=outcomes)
            await former.start()
            async with writer(own_postgres.dsn) as service:
                await service.connection.execute("SET synchronous_commit = off")
                # However long the rest takes, nothing of it reaches the disk.
                os.kill(await service.connection.fetchval(WAL_WRITER), signal.SIGSTOP)
                for _ in range(5):
                    await service.enqueue()
                phantoms = await former.take_all()
                assert ids(phantoms) == [1, 2, 3, 4, 5]
                # Acknowledged by Kafka; the receipts are not written when the server crashes.
                outcomes.add(Delivered(former.tenure, phantoms, 0, 100))
                await asyncio.to_thread(own_postgres.kill)
            with pytest.raises(PostgresLostError):
                await former.take()
        await asyncio.to_thread(own_postgres.start)

        async with relay_connections(own_postgres.dsn) as connections, writer(own_postgres.dsn) as service:
            for _ in range(7):
                await service.enqueue()
            rows = await service.connection.fetch("SELECT id, event_id FROM outbox.event ORDER BY id")
            assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6, 7], "no id was used again: nothing is tested"
            relay = HandRelay(connections, outcomes=outcomes)
            await relay.settler.record(await outcomes.take(100))
            assert await service.connection.fetchval(f"SELECT count(*) FROM {DELIVERIES}") == 0
            await relay.start(former.tenure.replica)
            assert [event.event_id for event in await relay.take_all()] == [row["event_id"] for row in rows]

    async def test_acknowledgements_from_before_a_lost_connection_are_settled_if_the_events_are_still_there(
        self, outbox: str
    ) -> None:
        outcomes = Outcomes()
        async with writer(outbox) as service:
            async with relay_connections(outbox) as connections:
                former = HandRelay(connections, outcomes=outcomes)
                await former.start()
                for _ in range(3):
                    await service.enqueue()
                outcomes.add(Delivered(former.tenure, (await former.take_all())[:2], 0, 100))
            async with relay_connections(outbox) as connections:
                relay = HandRelay(connections, outcomes=outcomes)
                await relay.settler.record(await outcomes.take(100))
                await relay.start(former.tenure.replica)
                assert ids(await relay.take_all()) == [3]

    async def test_a_sequence_that_goes_back_ends_the_tenure_before_anything_is_taken(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            for _ in range(5):
                await service.enqueue()
            await relay.settle(await relay.take_all())
            await service.connection.execute("DELETE FROM outbox.event; SELECT setval('outbox.event_id', 2)")
            await service.enqueue()
            with pytest.raises(SequenceWentBackError, match="from 5 to 3"):
                await relay.take()
            with pytest.raises(SequenceWentBackError):
                await relay.claim.beat()
            assert len(relay.taken) == 5


class TestRule10:
    """At every connect; the refusals themselves are tested with `relay migrate`."""

    async def test_a_sequence_that_caches_is_refused_before_anything_is_claimed(self, outbox: str) -> None:
        async with connected(outbox) as connection:
            await connection.execute(CACHE_20)
        with pytest.raises(SchemaError, match="CACHE 20"):
            await connect_all(_settings(outbox).postgres)

    async def test_a_server_in_recovery_is_waited_for(self, own_postgres: PostgresServer) -> None:
        async with migrated(own_postgres.dsn):
            pass
        own_postgres.stop()
        (own_postgres.folder / "data" / "standby.signal").touch()
        own_postgres.start()
        with pytest.raises(PostgresLostError, match="in recovery"):
            await connect_all(_settings(own_postgres.dsn).postgres)

    async def test_what_caching_would_do(self, outbox: str) -> None:
        """A session hands out ids it took long ago: a rung's value no longer bounds them, and the event is lost."""
        async with writer(outbox) as caching, writer(outbox) as service:
            await service.connection.execute(CACHE_20)
            await caching.enqueue()
            async with hand_relay(outbox) as relay:
                for _ in range(30):
                    await service.enqueue()
                await relay.settle(await relay.take_all())
                await relay.settle(await relay.take_all())
                await relay.take_all()
                low = await caching.enqueue()
                assert low.id == 2
                assert await relay.take_all() == []


def _settings(dsn: str) -> Settings:
    return Settings.load({"RELAY_POSTGRES_DSN": dsn, "RELAY_KAFKA_BOOTSTRAP_SERVERS": "localhost:1"})
