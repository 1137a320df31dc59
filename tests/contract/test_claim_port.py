"""What claiming may rely on: leases, lanes that go to one replica, and writes that only the owner makes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from relay.decide.lane_scan import LanePosition
from relay.keys import LANES, lane_of_key
from relay.stages.claim.ports import Report
from tests.contract.outboxes import LEASE, enqueue
from tests.contract.recording import acknowledge

if TYPE_CHECKING:
    from relay.stages.claim.ports import ClaimedLane
    from tests.contract.outboxes import Outbox

LANE = lane_of_key(b"k")
NOTHING = Report([], 0, 0, {})


async def registered(outbox: Outbox, former: UUID | None = None, waiting: str | None = None) -> UUID:
    """The id of a replica that has just been registered."""
    replica = uuid4()
    await outbox.claiming.register(replica, "test", "0", LEASE, former, waiting)
    return replica


async def claim_all(outbox: Outbox, replica: UUID) -> dict[int, ClaimedLane]:
    """Claim what can be claimed; what was, by lane."""
    claimed = await outbox.claiming.claim(replica, await outbox.claiming.lanes())
    return {each.lane: each for each in claimed}


async def owners(outbox: Outbox) -> set[UUID | None]:
    return {row.owner for row in await outbox.claiming.lanes()}


class TestLeases:
    async def test_a_registered_replica_is_alive_and_the_first_comes_first(self, outbox: Outbox) -> None:
        replicas = [await registered(outbox) for _ in range(2)]
        live = await outbox.claiming.live_replicas()
        assert [each.id for each in live] == replicas
        assert all(LEASE - 30 < each.lease_seconds <= LEASE for each in live)
        assert not any(each.draining for each in live)

    async def test_registering_takes_a_transaction_id_and_so_does_each_renewal(self, outbox: Outbox) -> None:
        replica = uuid4()
        first = await outbox.claiming.register(replica, "test", "0", LEASE, None, None)
        renewal = await outbox.claiming.renew(replica, LEASE, NOTHING)
        assert renewal is not None
        assert renewal.xid > first
        assert not renewal.open_replays

    async def test_a_renewal_says_whether_a_replay_is_open(self, outbox: Outbox) -> None:
        replica = await registered(outbox)
        await outbox.ask_for_replay("orders", 1)
        renewal = await outbox.claiming.renew(replica, LEASE, NOTHING)
        assert renewal is not None
        assert renewal.open_replays

    async def test_a_lease_that_has_run_out_is_not_renewed(self, outbox: Outbox) -> None:
        replica = await registered(outbox)
        await outbox.expire(replica)
        assert await outbox.claiming.renew(replica, LEASE, NOTHING) is None
        assert await outbox.claiming.live_replicas() == []

    async def test_a_replica_that_is_not_registered_renews_nothing(self, outbox: Outbox) -> None:
        assert await outbox.claiming.renew(uuid4(), LEASE, NOTHING) is None

    async def test_the_lanes_of_a_replaced_and_of_an_unregistered_replica_are_free(self, outbox: Outbox) -> None:
        former = await registered(outbox)
        await claim_all(outbox, former)
        assert not any(row.free for row in await outbox.claiming.lanes())
        replica = await registered(outbox, former)
        assert [each.id for each in await outbox.claiming.live_replicas()] == [replica]
        assert all(row.free for row in await outbox.claiming.lanes())
        await claim_all(outbox, replica)
        await outbox.claiming.unregister(replica)
        assert all(row.free for row in await outbox.claiming.lanes())
        await outbox.claiming.unregister(replica)

    async def test_a_replica_that_cannot_publish_yet_is_waiting_until_it_takes_part_or_drains(
        self, outbox: Outbox
    ) -> None:
        async def shown() -> list[tuple[bool, bool]]:
            return [(each.waiting, each.draining) for each in await outbox.claiming.live_replicas()]

        replicas = [await registered(outbox, waiting="Kafka is not reached") for _ in range(2)]
        assert await shown() == [(True, False), (True, False)]
        await outbox.claiming.take_part(replicas[0])
        await outbox.claiming.drain(replicas[1])
        assert await shown() == [(False, False), (False, True)]
        await outbox.claiming.take_part(replicas[1])
        assert await shown() == [(False, False), (False, True)]

    async def test_a_lane_can_be_reserved_for_a_replica_that_cannot_publish_yet(self, outbox: Outbox) -> None:
        replica = await registered(outbox, waiting="Kafka is not reached")
        await outbox.ask(LANE, replica, 60.0)
        assert (await outbox.claiming.lanes())[LANE].reserved_for == replica

    async def test_a_draining_replica_is_alive_and_says_so(self, outbox: Outbox) -> None:
        replica = await registered(outbox)
        await outbox.claiming.drain(replica)
        assert [(each.id, each.draining) for each in await outbox.claiming.live_replicas()] == [(replica, True)]


class TestLanes:
    async def test_all_lanes_of_a_new_outbox_are_free_and_unclaimed(self, outbox: Outbox) -> None:
        rows = await outbox.claiming.lanes()
        assert [row.lane for row in rows] == list(range(LANES))
        assert all((row.owner, row.free, row.asked, row.parked) == (None, True, False, False) for row in rows)

    async def test_each_claim_raises_the_epoch_by_one(self, outbox: Outbox) -> None:
        replica = await registered(outbox)
        before = {row.lane: row.epoch for row in await outbox.claiming.lanes()}
        claimed = await claim_all(outbox, replica)
        assert {lane: each.epoch for lane, each in claimed.items()} == {lane: before[lane] + 1 for lane in before}
        assert await owners(outbox) == {replica}

    async def test_a_lane_that_was_claimed_since_it_was_seen_goes_to_nobody_else(self, outbox: Outbox) -> None:
        first, second = await registered(outbox), await registered(outbox)
        seen = await outbox.claiming.lanes()
        assert len(await outbox.claiming.claim(first, seen[:3])) == 3
        claimed = await outbox.claiming.claim(second, seen)
        assert sorted(each.lane for each in claimed) == list(range(3, LANES))

    async def test_a_replica_without_a_lease_claims_nothing(self, outbox: Outbox) -> None:
        replica = await registered(outbox)
        await outbox.expire(replica)
        assert await claim_all(outbox, replica) == {}

    async def test_the_lanes_of_a_lease_that_ran_out_can_be_claimed(self, outbox: Outbox) -> None:
        dead, alive = await registered(outbox), await registered(outbox)
        await claim_all(outbox, dead)
        await outbox.expire(dead)
        assert all(row.free for row in await outbox.claiming.lanes())
        assert len(await claim_all(outbox, alive)) == LANES

    async def test_a_parked_lane_is_shown_and_not_claimed(self, outbox: Outbox) -> None:
        replica = await registered(outbox)
        seen = await outbox.claiming.lanes()
        await outbox.ask(LANE, None, 60.0)
        row = (await outbox.claiming.lanes())[LANE]
        assert (row.parked, row.asked) == (True, True)
        assert row.intent_seconds == pytest.approx(60.0, abs=30.0)
        claimed = await outbox.claiming.claim(replica, seen)
        assert sorted(each.lane for each in claimed) == [lane for lane in range(LANES) if lane != LANE]

    async def test_a_lane_is_reserved_for_a_live_replica_only(self, outbox: Outbox) -> None:
        replica = await registered(outbox)
        await outbox.ask(LANE, replica, 60.0)
        row = (await outbox.claiming.lanes())[LANE]
        assert (row.reserved_for, row.parked) == (replica, False)
        await outbox.claiming.drain(replica)
        assert (await outbox.claiming.lanes())[LANE].reserved_for is None

    async def test_a_topic_is_paused_until_its_time_or_the_next_request(self, outbox: Outbox) -> None:
        assert await outbox.claiming.paused_topics() == []
        for topic, seconds in (("orders", 100.0), ("mail", 50.0), ("orders", 200.0)):
            await outbox.pause(topic, seconds)
        paused = await outbox.claiming.paused_topics()
        assert [each.topic for each in paused] == ["mail", "orders"]
        assert [20 < each.seconds <= longest for each, longest in zip(paused, (50, 200), strict=True)] == [True, True]
        assert paused[1].until - paused[0].until == pytest.approx(150, abs=30)
        await outbox.pause("orders", 0.0)
        assert [each.topic for each in await outbox.claiming.paused_topics()] == ["mail"]

    async def test_a_released_lane_is_free_and_keeps_its_position(self, outbox: Outbox) -> None:
        place = await enqueue(outbox)
        await acknowledge(outbox, place)
        replica = await registered(outbox)
        lane = (await claim_all(outbox, replica))[LANE]
        await outbox.claiming.release(replica, [LanePosition(LANE, lane.epoch, place.id)])
        row = (await outbox.claiming.lanes())[LANE]
        assert (row.owner, row.free, row.epoch) == (None, True, lane.epoch)
        assert (await claim_all(outbox, replica))[LANE].position == place.id

    async def test_only_the_owner_at_the_epoch_gives_a_lane_back_or_raises_its_position(self, outbox: Outbox) -> None:
        place = await enqueue(outbox)
        await acknowledge(outbox, place)
        replica, other = await registered(outbox), await registered(outbox)
        lane = (await claim_all(outbox, replica))[LANE]
        for who, epoch in ((other, lane.epoch), (replica, lane.epoch - 1), (replica, lane.epoch + 1)):
            await outbox.claiming.advance_positions(who, [LanePosition(LANE, epoch, place.id)])
            await outbox.claiming.release(who, [LanePosition(LANE, epoch, place.id)])
        assert (await outbox.claiming.lanes())[LANE].owner == replica
        await outbox.expire(replica)
        assert (await claim_all(outbox, other))[LANE].position == 0

    async def test_a_position_is_raised_and_never_lowered(self, outbox: Outbox) -> None:
        places = [await enqueue(outbox) for _ in range(2)]
        await acknowledge(outbox, *places)
        replica, other = await registered(outbox), await registered(outbox)
        lane = (await claim_all(outbox, replica))[LANE]
        for place in (places[1], places[0]):
            await outbox.claiming.advance_positions(replica, [LanePosition(LANE, lane.epoch, place.id)])
        await outbox.expire(replica)
        assert (await claim_all(outbox, other))[LANE].position == places[1].id

    async def test_a_claim_brings_the_highest_settled_id_and_a_snapshot_taken_after_it(self, outbox: Outbox) -> None:
        places = [await enqueue(outbox) for _ in range(3)]
        await acknowledge(outbox, places[1])
        writing = await outbox.begin()
        lane = (await claim_all(outbox, await registered(outbox)))[LANE]
        assert lane.highest_settled == places[1].id
        assert not lane.snapshot.ended(writing.xid)
        await writing.commit()

    async def test_waking_others_is_always_allowed(self, outbox: Outbox) -> None:
        await outbox.claiming.wake_others()

    async def test_the_sequence_value_is_the_last_id_that_was_taken(self, outbox: Outbox) -> None:
        assert await outbox.claiming.sequence_value() == 0
        writing = await outbox.begin()
        place = await writing.enqueue()
        assert await outbox.claiming.sequence_value() == place.id
