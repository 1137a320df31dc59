"""What reading may rely on: which events a statement returns, in which order, and what its snapshot says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.lane_scan import Reach
from relay.decide.sweep_start import SweepStart
from relay.keys import lane_of_key
from relay.stages.scan.ports import LaneRequest
from tests.contract.outboxes import enqueue
from tests.contract.recording import acknowledge, fail, hold, own_all
from tests.support.events import ids
from tests.support.relay.stages import same_lane

if TYPE_CHECKING:
    from relay.event import PendingEvent
    from tests.contract.outboxes import Outbox, Place

LANE = lane_of_key(b"k")
WIDE = Reach(1_000, 1 << 20)
LONG = 1_000_000


def request(
    taken_to: int = 0, floor: int = 0, *, sweep: Reach = WIDE, fresh: Reach = WIDE, lane: int = LANE, **running: int
) -> LaneRequest:
    """Ask for a lane. `running` is a running transaction of the bound: its xid and its floor."""
    pairs = ((running["xid"], running["below"]),) if running else ()
    return LaneRequest(lane, taken_to, SweepStart(floor, pairs), sweep, fresh)


async def scan(outbox: Outbox, *requests: LaneRequest, longest_sweep: int = LONG) -> list[int]:
    return ids((await outbox.reading.scan(requests, longest_sweep)).events)


async def several(outbox: Outbox, number: int) -> list[Place]:
    """Committed events of one key."""
    return [await enqueue(outbox) for _ in range(number)]


class TestScan:
    async def test_committed_events_are_read_with_all_that_was_written(self, outbox: Outbox) -> None:
        place = await enqueue(outbox, b"k", "orders", b"payload")
        (event,) = (await outbox.reading.scan([request()], LONG)).events
        assert (event.lane, event.id) == place
        assert (event.topic, event.key, event.payload, event.type) == ("orders", b"k", b"payload", None)
        assert event.headers is None
        assert event.size >= len(b"k") + len(b"payload")

    async def test_a_transaction_that_has_not_committed_is_not_read_and_is_running(self, outbox: Outbox) -> None:
        writing = await outbox.begin()
        place = await writing.enqueue()
        result = await outbox.reading.scan([request()], LONG)
        assert result.events == []
        assert not result.snapshot.ended(writing.xid)
        assert result.sequence_value == place.id
        assert result.next_xid > writing.xid
        await writing.commit()
        result = await outbox.reading.scan([request()], LONG)
        assert ids(result.events) == [place.id]
        assert result.snapshot.ended(writing.xid)

    async def test_an_empty_outbox_has_used_no_id(self, outbox: Outbox) -> None:
        result = await outbox.reading.scan([request()], LONG)
        assert (result.events, result.sequence_value) == ([], 0)

    async def test_swept_events_are_unsettled_and_fresh_ones_are_above_what_was_taken(self, outbox: Outbox) -> None:
        places = await several(outbox, 6)
        owner = await own_all(outbox)
        await acknowledge(outbox, places[0])
        await fail(outbox, owner, places[1])
        await hold(outbox, owner, places[2])
        assert await scan(outbox, request(taken_to=places[4].id)) == [place.id for place in places[3:]]
        assert await scan(outbox, request(taken_to=places[4].id, floor=places[3].id)) == [
            places[4].id,
            places[5].id,
        ]

    async def test_fresh_events_are_not_looked_up_among_receipts(self, outbox: Outbox) -> None:
        """Nobody else settles what is above: the owner of a lane knows what it took."""
        places = await several(outbox, 2)
        await acknowledge(outbox, places[0])
        assert await scan(outbox, request()) == [place.id for place in places]

    async def test_a_bound_starts_lower_once_a_transaction_of_it_has_ended(self, outbox: Outbox) -> None:
        writing = await outbox.begin()
        late = await writing.enqueue()
        taken = await enqueue(outbox)
        asked = request(taken.id, floor=taken.id, xid=writing.xid, below=late.id - 1)
        assert await scan(outbox, asked) == []
        await writing.commit()
        assert await scan(outbox, asked) == [late.id, taken.id]

    async def test_each_part_has_its_limits(self, outbox: Outbox) -> None:
        places = await several(outbox, 6)
        (size,) = {event.size for event in (await outbox.reading.scan([request()], LONG)).events}
        middle = places[2].id
        few = request(middle, sweep=Reach(2, 1 << 20), fresh=Reach(1, 1 << 20))
        assert await scan(outbox, few) == [places[0].id, places[1].id, places[3].id]
        small = request(middle, sweep=Reach(9, size + 1), fresh=Reach(9, 1))
        assert await scan(outbox, small) == [places[0].id, places[1].id, places[3].id]

    async def test_a_lane_whose_sweep_would_be_too_long_gives_nothing(self, outbox: Outbox) -> None:
        places = await several(outbox, 3)
        other = await enqueue(outbox, (another := different_lane()))
        long, short = request(places[2].id), request(lane=lane_of_key(another))
        assert await scan(outbox, long, short, longest_sweep=places[2].id - 1) == [other.id]
        assert await scan(outbox, long, longest_sweep=places[2].id) == [place.id for place in places]

    async def test_a_lane_gives_no_events_of_another(self, outbox: Outbox) -> None:
        (own,) = await several(outbox, 1)
        await enqueue(outbox, different_lane())
        same = await enqueue(outbox, same_lane("k", 1)[0].encode())
        assert await scan(outbox, request()) == [own.id, same.id]


class TestSweep:
    async def test_a_step_reads_the_unsettled_events_between_two_ids_in_order(self, outbox: Outbox) -> None:
        places = await several(outbox, 6)
        owner = await own_all(outbox)
        await acknowledge(outbox, places[1])
        await fail(outbox, owner, places[2])
        await hold(outbox, owner, places[3])
        result = await outbox.reading.sweep_step(LANE, 0, places[4].id, 100, 1 << 20)
        assert ids(result.events) == [places[0].id, places[4].id]
        assert result.sequence_value == places[5].id
        result = await outbox.reading.sweep_step(LANE, places[0].id, places[5].id, 100, 1 << 20)
        assert ids(result.events) == [places[4].id, places[5].id]

    async def test_a_step_has_limits_which_only_its_last_event_exceeds(self, outbox: Outbox) -> None:
        places = await several(outbox, 3)

        async def step(max_events: int, max_bytes: int) -> list[PendingEvent]:
            return (await outbox.reading.sweep_step(LANE, 0, places[2].id, max_events, max_bytes)).events

        size = (await step(1, 1 << 20))[0].size
        assert ids(await step(2, 1 << 20)) == [place.id for place in places[:2]]
        assert ids(await step(9, 1)) == [places[0].id]
        assert ids(await step(9, size)) == [places[0].id]
        assert ids(await step(9, size + 1)) == [place.id for place in places[:2]]

    async def test_a_running_transaction_is_quiet_until_it_takes_an_id(self, outbox: Outbox) -> None:
        quiet, busy = await outbox.begin(), await outbox.begin()
        await busy.enqueue()
        assert await outbox.reading.quiet_transactions([quiet.xid, busy.xid, busy.xid + 1_000]) == [quiet.xid]
        await quiet.enqueue()
        assert await outbox.reading.quiet_transactions([quiet.xid, busy.xid]) == []

    async def test_the_snapshot_alone_is_the_one_that_a_scan_would_see(self, outbox: Outbox) -> None:
        writing = await outbox.begin()
        assert not (await outbox.reading.snapshot()).ended(writing.xid)
        await writing.commit()
        await enqueue(outbox)
        assert (await outbox.reading.snapshot()).ended(writing.xid)


class TestUnreadable:
    async def test_the_first_pending_ids_come_without_what_may_be_unreadable(self, outbox: Outbox) -> None:
        places = await several(outbox, 5)
        await acknowledge(outbox, places[1])
        found = await outbox.reading.pending_ids(LANE, places[0].id - 1, places[4].id, 3)
        assert ids(found) == [places[0].id, places[2].id, places[3].id]
        assert {(event.lane, event.topic, event.key) for event in found} == {(LANE, "orders", b"k")}
        assert {(event.payload, event.headers, event.type, event.size) for event in found} == {(None, None, None, 0)}
        full = (await outbox.reading.scan([request()], LONG)).events
        assert [event.event_id for event in found] == [full[index].event_id for index in (0, 2, 3)]


def different_lane() -> bytes:
    """A key of another lane than LANE."""
    return next(key for number in range(100) if lane_of_key(key := b"other-%d" % number) != LANE)
