"""Owning lanes: the heartbeat, fair shares, handing over, and what an owner that is none any more can still do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from relay.decide.lane_scan import LanePosition
from relay.keys import LANES
from relay.postgres.admin.lanes import record_intent
from relay.postgres.admin.migrate import make_roles
from relay.postgres.flow.housekeeping import HousekeepingConnection
from relay.stages.tenure import LeaseLostError
from tests.support.events import ids
from tests.support.postgres.outbox import connected
from tests.support.postgres.receipts import DELIVERIES, add_receipt
from tests.support.relay.between import Between
from tests.support.relay.stages import HandRelay, hand_relay, lane_of, relay_connections, writer
from tests.support.waiting import until

if TYPE_CHECKING:
    import asyncpg

LANE = lane_of("k")
OWNERS = "SELECT owner, count(*) FROM outbox.lane GROUP BY owner"
EXPIRE = "UPDATE outbox.replica SET lease_expires_at = clock_timestamp() - interval '1 ms' WHERE id = $1"


async def owners(connection: asyncpg.Connection) -> dict[object, int]:
    return dict(await connection.fetch(OWNERS))


async def hand_back(relay: HandRelay) -> None:
    """A beat that finds another replica, and the look at what can be given back that follows it."""
    await relay.claim.beat()
    await relay.claim.hand_back()


class TestSharing:
    async def test_a_lone_replica_claims_every_lane(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, connected(outbox) as connection:
            assert sorted(relay.tenure.lanes) == list(range(LANES))
            assert await owners(connection) == {relay.tenure.replica: LANES}

    async def test_a_second_one_gets_half_of_them_within_two_beats(self, outbox: str) -> None:
        async with hand_relay(outbox) as first, hand_relay(outbox) as second, connected(outbox) as connection:
            assert second.tenure.lanes == {}
            await hand_back(first)
            await second.claim.beat()
            assert await owners(connection) == {first.tenure.replica: 8, second.tenure.replica: 8}
            assert set(first.tenure.lanes) | set(second.tenure.lanes) == set(range(LANES))

    async def test_the_ones_that_came_first_keep_one_more(self, outbox: str) -> None:
        async with hand_relay(outbox) as first, hand_relay(outbox) as second, hand_relay(outbox) as third:
            for relay in (first, second, third, second, third):
                await hand_back(relay)
            assert [len(relay.tenure.lanes) for relay in (first, second, third)] == [6, 5, 5]

    async def test_claims_at_the_same_time_give_each_lane_to_one(self, outbox: str) -> None:
        async with relay_connections(outbox) as ours, relay_connections(outbox) as theirs:
            relays = [HandRelay(ours), HandRelay(theirs)]
            for relay in relays:
                await relay.claim.register(None)
            seen = await relays[0].control.lanes()
            claimed = await asyncio.gather(*(relay.control.claim(relay.tenure.replica, seen) for relay in relays))
            lanes = [lane.lane for each in claimed for lane in each]
            assert sorted(lanes) == list(range(LANES))

    async def test_a_lane_that_somebody_claimed_since_it_was_seen_is_not_claimed(self, outbox: str) -> None:
        async with relay_connections(outbox) as connections, hand_relay(outbox) as first:
            late = HandRelay(connections)
            await late.claim.register(None)
            rows = await late.control.lanes()
            stale = [row._replace(epoch=row.epoch - 1) for row in rows]
            assert await late.control.claim(late.tenure.replica, stale) == []
            assert len(first.tenure.lanes) == LANES

    async def test_a_lane_that_was_parked_since_it_was_seen_is_not_claimed(self, outbox: str) -> None:
        """`relay lanes release --for` said that nobody claims it, as it found it without owner."""
        async with relay_connections(outbox) as connections, connected(outbox) as connection:
            await make_roles(connection)
            relay = HandRelay(connections)
            await relay.claim.register(None)
            await connections["control"].execute("SET ROLE outbox_relay")
            seen = await relay.control.lanes()
            await record_intent(connection, "outbox", [5], replica=None, seconds=600.0, reason="", requested_by="test")
            await record_intent(connection, "outbox", [6], replica=None, seconds=0.0, reason="", requested_by="test")
            claimed = await relay.control.claim(relay.tenure.replica, seen)
            assert sorted(lane.lane for lane in claimed) == [lane for lane in range(LANES) if lane != 5]
            await connection.execute("UPDATE outbox.lane_intent SET until = clock_timestamp()")
            claimed = await relay.control.claim(relay.tenure.replica, await relay.control.lanes())
            assert 5 in [lane.lane for lane in claimed]

    async def test_a_lane_that_is_locked_is_passed_over_and_not_waited_for(self, outbox: str) -> None:
        async with connected(outbox) as other:
            await other.execute("BEGIN")
            await other.execute("SELECT FROM outbox.lane WHERE lane = 5 FOR UPDATE")
            async with asyncio.timeout(30), hand_relay(outbox) as relay:
                assert sorted(relay.tenure.lanes) == [lane for lane in range(LANES) if lane != 5]
                await other.execute("COMMIT")
                await relay.claim.beat()
                assert 5 in relay.tenure.lanes


class TestHandingOver:
    async def test_a_lane_is_given_back_when_what_was_taken_is_settled_and_not_before(self, outbox: str) -> None:
        async with hand_relay(outbox) as first, hand_relay(outbox) as second, writer(outbox) as service:
            keys = [next(key for key in map(str, range(1000)) if lane_of(key) == lane) for lane in range(LANES)]
            for key in keys:
                await service.enqueue(key)
            taken = await first.take_all()
            await hand_back(first)
            await second.claim.beat()
            assert second.tenure.lanes == {}
            for key in keys:
                await service.enqueue(key)
            assert len(await first.take_all()) == LANES // 2, "events were taken from lanes that are to be given back"
            await first.settle(taken)
            await first.claim.hand_back()
            await second.claim.beat()
            assert sorted(second.tenure.lanes) == list(range(8, 16))
            assert sorted(event.lane for event in await second.take_all()) == list(range(8, 16))

    async def test_the_next_owner_goes_on_at_the_position(self, outbox: str) -> None:
        async with hand_relay(outbox) as first, writer(outbox) as service:
            for _ in range(5):
                await service.enqueue()
            await first.settle(await first.take_all())
            await first.take_all()
            await give_all_back(first)
            async with hand_relay(outbox) as second:
                assert (second.lane(LANE).position, second.lane(LANE).taken_to) == (5, 5)

    async def test_a_scan_that_is_under_way_takes_nothing_from_a_lane_that_is_being_given_back(
        self, outbox: str
    ) -> None:
        async with hand_relay(outbox) as first, writer(outbox) as service:
            await first.take_all()
            await service.enqueue()
            port = Between(first.scan_port, "scan")
            first.scan._port = port  # type: ignore[assignment]
            giving_back = GivingBack(first)
            port.after = giving_back.begin
            assert await first.take() == []
            await giving_back.end()
            async with hand_relay(outbox) as second:
                assert ids(await second.take_all()) == [1]

    async def test_nor_does_the_step_of_a_sweep(self, outbox: str) -> None:
        """It took them, and both owners published them."""
        async with writer(outbox) as service:
            for _ in range(3):
                await service.enqueue()
            await add_receipt(service.connection, 3)
            async with hand_relay(outbox) as first:
                port = Between(first.sweep_port, "sweep_step")
                first.sweep._port = port  # type: ignore[assignment]
                giving_back = GivingBack(first)
                port.after = giving_back.begin
                assert await first.step() == []
                await giving_back.end()
            async with hand_relay(outbox) as second:
                assert ids(await second.take_all()) == [1, 2]

    async def test_a_lane_that_is_claimed_again_starts_anew(self, outbox: str) -> None:
        """A scan that was sent before does not touch the new state."""
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            await relay.take_all()
            await service.enqueue()
            port = Between(relay.scan_port, "scan")
            relay.scan._port = port  # type: ignore[assignment]

            async def give_back_and_claim() -> None:
                await give_all_back(relay)
                await relay.claim.beat()

            port.after = give_back_and_claim
            assert await relay.take() == []
            assert ids(await relay.take_all()) == [1]

    async def test_a_position_is_not_released_further_than_a_sweep_has_come(self, outbox: str) -> None:
        async with writer(outbox) as service:
            for _ in range(30):
                await service.enqueue()
            for id_ in range(1, 31):
                if id_ != 25:
                    await add_receipt(service.connection, id_)
            async with hand_relay(outbox, sweep_step_ids=10) as first:
                assert await first.step() == []
                await give_all_back(first)
            async with hand_relay(outbox) as second:
                assert second.lane(LANE).position == 10
                assert ids(await second.take_all()) == [25]


class TestDraining:
    async def test_it_ends_when_everything_is_settled_and_leaves_nothing_owned(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            for _ in range(3):
                await service.enqueue()
            taken = await relay.take_all()
            running = asyncio.create_task(relay.claim.run())
            relay.tenure.begin_drain()
            await asyncio.sleep(0.2)
            assert not running.done()
            await service.enqueue()
            assert await relay.take() == []
            await relay.settle(taken)
            async with asyncio.timeout(30):
                await running
            assert await owners(service.connection) == {None: LANES}
            assert await service.connection.fetchval("SELECT count(*) FROM outbox.replica") == 0
        async with hand_relay(outbox) as successor:
            assert ids(await successor.take_all()) == [4], "what was delivered is published again"


class TestLeases:
    async def test_a_beat_extends_the_lease_by_the_databases_clock(self, outbox: str) -> None:
        async with hand_relay(outbox, lease=50.0) as relay, connected(outbox) as connection:
            await connection.execute(
                "UPDATE outbox.replica SET lease_expires_at = clock_timestamp() + interval '5 seconds'"
            )
            before = time.monotonic()
            await relay.claim.beat()
            left = "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM outbox.replica"
            assert 40 < await connection.fetchval(left) <= 50
            assert before + 50 <= relay.tenure.lease_ends <= time.monotonic() + 50

    async def test_a_renewal_whose_answer_comes_after_the_lease_ends_the_tenure_though_it_was_in_time(
        self, outbox: str
    ) -> None:
        """Publish may have seen the end, and dropped events: later ones of their keys went on without them."""
        async with hand_relay(outbox) as relay:
            port = Between(relay.control, "renew")
            relay.claim._port = port  # type: ignore[assignment]

            async def stand_still() -> None:
                relay.tenure.lease_ends = time.monotonic()

            port.after = stand_still
            with pytest.raises(LeaseLostError, match="before the answer"):
                await relay.claim.beat()
            assert not relay.tenure.holds_lease()

    async def test_lanes_of_a_replica_whose_lease_ran_out_are_claimed(self, outbox: str) -> None:
        async with hand_relay(outbox) as silent, connected(outbox) as connection:
            await connection.execute(EXPIRE, silent.tenure.replica)
            async with hand_relay(outbox) as other:
                assert len(other.tenure.lanes) == LANES
                with pytest.raises(LeaseLostError, match="had run out"):
                    await silent.claim.beat()

    async def test_a_replica_that_finds_its_lanes_with_another_stops(self, outbox: str) -> None:
        async with hand_relay(outbox) as silent, connected(outbox) as connection:
            await connection.execute(EXPIRE, silent.tenure.replica)
            async with hand_relay(outbox):
                # As if a renewal that was sent in time had been committed after the others had looked.
                await connection.execute(
                    "UPDATE outbox.replica SET lease_expires_at = clock_timestamp() + interval '1 min'"
                )
                with pytest.raises(LeaseLostError, match="have another owner"):
                    await silent.claim.beat()

    async def test_who_lost_a_lane_moves_no_position_and_releases_nothing(self, outbox: str) -> None:
        async with hand_relay(outbox) as silent, writer(outbox) as service:
            for _ in range(3):
                await service.enqueue()
            await service.connection.execute(EXPIRE, silent.tenure.replica)
            async with hand_relay(outbox) as other:
                claim = [LanePosition(LANE, silent.lane(LANE).epoch, 3)]
                await silent.control.advance_positions(silent.tenure.replica, claim)
                await silent.control.release(silent.tenure.replica, claim)
                row = await service.connection.fetchrow("SELECT owner, position FROM outbox.lane WHERE lane = $1", LANE)
                assert tuple(row) == (other.tenure.replica, 0)
                # Nor with the right replica and a former epoch.
                claim = [LanePosition(LANE, other.lane(LANE).epoch - 1, 3)]
                await other.control.advance_positions(other.tenure.replica, claim)
                await other.control.release(other.tenure.replica, claim)
                row = await service.connection.fetchrow("SELECT owner, position FROM outbox.lane WHERE lane = $1", LANE)
                assert tuple(row) == (other.tenure.replica, 0)

    async def test_its_receipts_count_all_the_same(self, outbox: str) -> None:
        """What Kafka has acknowledged is delivered, whoever owns the lane."""
        async with hand_relay(outbox) as silent, writer(outbox) as service:
            await service.enqueue()
            taken = await silent.take_all()
            await service.connection.execute(EXPIRE, silent.tenure.replica)
            async with hand_relay(outbox) as other:
                await silent.settle(taken)
                await other.claim.beat()
                assert await service.connection.fetchval(f"SELECT count(*) FROM {DELIVERIES}") == 1
            async with hand_relay(outbox) as third:
                await service.connection.execute(EXPIRE, other.tenure.replica)
                await third.claim.beat()
                assert await third.take_all() == []

    async def test_a_process_that_reconnects_takes_the_place_of_what_it_was(self, outbox: str) -> None:
        async with hand_relay(outbox) as former, relay_connections(outbox) as connections:
            relay = HandRelay(connections)
            await relay.start(former.tenure.replica)
            assert len(relay.tenure.lanes) == LANES
            assert await connections["control"].fetchval("SELECT count(*) FROM outbox.replica") == 1

    async def test_replicas_that_have_been_gone_for_long_are_forgotten(self, outbox: str) -> None:
        async with connected(outbox) as connection:
            await connection.execute(
                "INSERT INTO outbox.replica (id, name, version, lease_expires_at)"
                " SELECT gen_random_uuid(), 'gone', '0', clock_timestamp() - age"
                " FROM unnest(ARRAY[interval '2 hours', interval '1 minute']) AS age"
            )
            await HousekeepingConnection(connection, "outbox").forget_replicas()
            assert await connection.fetchval("SELECT count(*) FROM outbox.replica") == 1


class TestTheFirstRung:
    async def test_it_stands_below_the_snapshot_of_the_take_over(self, outbox: str) -> None:
        """Without one, the first scan of every lane would start at the position: a day back, after a day's outage."""
        async with writer(outbox) as service:
            for _ in range(20):
                await service.enqueue()
            async with hand_relay(outbox) as relay:
                await relay.step()
                assert relay.lane(LANE).sweep_start(relay.tenure.ladder).floor == 20

    async def test_a_replica_that_waited_for_its_lanes_has_a_recent_one_too(self, outbox: str) -> None:
        async with hand_relay(outbox) as first, hand_relay(outbox) as second, writer(outbox) as service:
            for _ in range(20):
                await service.enqueue()
            await first.settle(await first.take_all())
            await give_all_back(first)
            await second.claim.beat()
            while second.is_sweeping():
                await second.step()
            floors = {state.sweep_start(second.tenure.ladder).floor for state in second.tenure.lanes.values()}
            assert floors == {20}


async def give_all_back(relay: HandRelay) -> None:
    """Nothing is unsettled: every lane is released at once."""
    relay.claim._give_back = frozenset(relay.tenure.lanes)
    await relay.claim.hand_back()


class GivingBack:
    """The release of every lane, held after its statement: the database knows, the relay does not yet."""

    def __init__(self, relay: HandRelay) -> None:
        self._relay = relay
        self._released = asyncio.Event()
        self._go_on = asyncio.Event()
        port = Between(relay.control, "release")
        port.after = self._hold
        relay.claim._port = port  # type: ignore[assignment]

    async def begin(self) -> None:
        self._task = asyncio.create_task(give_all_back(self._relay))
        await self._released.wait()

    async def end(self) -> None:
        self._go_on.set()
        await self._task

    async def _hold(self) -> None:
        self._released.set()
        await self._go_on.wait()


@pytest.mark.parametrize("call", ["advance_positions", "release"])
async def test_positions_are_written_lane_by_lane_and_never_wait_crosswise_for_settling(outbox: str, call: str) -> None:
    """Settling locks the lanes it writes for, in their order, on a connection of its own."""
    async with hand_relay(outbox) as relay, connected(outbox) as settling:
        for state in relay.tenure.lanes.values():
            state.position = 7
        # As they are when the later ones were claimed first.
        states = sorted(relay.tenure.lanes.values(), key=lambda state: -state.lane)
        positions = relay.claim._positions(states)
        lock = "SELECT FROM outbox.lane WHERE lane = $1 FOR SHARE"
        async with settling.transaction():
            await settling.execute(lock, 3)
            writing = asyncio.create_task(getattr(relay.control, call)(relay.tenure.replica, positions))
            await until_it_waits(settling)
            await settling.execute(lock, 5)
        await writing
        assert await settling.fetchval("SELECT min(position) FROM outbox.lane") == 7


async def until_it_waits(connection: asyncpg.Connection) -> None:
    """Return when a session waits for this one."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    await until("somebody waits for a lane", lambda: connection.fetchval(waiting))
