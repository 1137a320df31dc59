"""What reading may rely on: which events a statement returns, in which order, and what its snapshot says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.reach import Reach
from relay.decide.sweep_start import SweepStart
from relay.keys import lane_of_key
from relay.stages.scan.ports import LaneRequest, WantedEvents
from tests.contract.outboxes import enqueue
from tests.contract.recording import acknowledge, fail, hold, own_all
from tests.support.events import ids
from tests.support.relay.stages import same_lane

if TYPE_CHECKING:
    from collections.abc import Collection

    from relay.event import PendingEvent
    from tests.contract.outboxes import Outbox, Place

LANE = lane_of_key(b"k")
WIDE = Reach(1_000, 1 << 20)


FAR_BELOW = -(10**9)
"""So much may be new above it that no adapter reads from there."""


def request(
    taken_to: int = 0,
    floor: int = 0,
    *,
    known_from: int = 0,
    fresh: Reach = WIDE,
    lane: int = LANE,
    nothing_new_to: int = FAR_BELOW,
    **running: int,
) -> LaneRequest:
    """Ask for a lane. `running` is a running transaction of the bound: its xid and its floor."""
    pairs = ((running["xid"], running["below"]),) if running else ()
    return LaneRequest(lane, taken_to, known_from, SweepStart(floor, pairs), nothing_new_to, fresh)


async def scan(outbox: Outbox, *requests: LaneRequest) -> list[int]:
    """The ids of the fresh events."""
    return ids((await outbox.reading.scan(requests)).events)


async def swept(outbox: Outbox, asked: LaneRequest) -> list[int]:
    """The ids of the sweep part of a lane."""
    return (await outbox.reading.scan([asked])).swept.get(asked.lane, [])


async def several(outbox: Outbox, number: int) -> list[Place]:
    """Committed events of one key."""
    return [await enqueue(outbox) for _ in range(number)]


class TestScan:
    async def test_committed_events_are_read_with_all_that_was_written(self, outbox: Outbox) -> None:
        place = await enqueue(outbox, b"k", "orders", b"payload")
        (event,) = (await outbox.reading.scan([request()])).events
        assert (event.lane, event.id) == place
        assert (event.topic, event.key, event.payload, event.type) == ("orders", b"k", b"payload", None)
        assert event.headers is None
        assert event.size >= len(b"k") + len(b"payload")

    async def test_a_transaction_that_has_not_committed_is_not_read_and_is_running(self, outbox: Outbox) -> None:
        writing = await outbox.begin()
        place = await writing.enqueue()
        result = await outbox.reading.scan([request()])
        assert result.events == []
        assert not result.snapshot.ended(writing.xid)
        assert result.sequence_value == place.id
        assert result.next_xid > writing.xid
        await writing.commit()
        result = await outbox.reading.scan([request()])
        assert ids(result.events) == [place.id]
        assert result.snapshot.ended(writing.xid)

    async def test_an_empty_outbox_has_used_no_id(self, outbox: Outbox) -> None:
        result = await outbox.reading.scan([request()])
        assert (result.events, result.sequence_value) == ([], 0)

    async def test_the_sweep_part_is_every_id_up_to_what_was_taken_settled_or_not(self, outbox: Outbox) -> None:
        """What was taken, and what was settled before, the owner of the lane knows."""
        places = await several(outbox, 6)
        owner = await own_all(outbox)
        await acknowledge(outbox, places[0])
        await fail(outbox, owner, places[1])
        await hold(outbox, owner, places[2])
        every = [place.id for place in places]
        asked = request(taken_to=every[4])
        assert sorted(await swept(outbox, asked)) == every[:5]
        assert await scan(outbox, asked) == every[5:]
        assert await swept(outbox, request(taken_to=every[4], floor=every[3])) == [every[4]]
        assert await swept(outbox, request(taken_to=every[4], floor=every[4])) == []

    async def test_fresh_events_are_not_looked_up_among_receipts(self, outbox: Outbox) -> None:
        """Nobody else settles what is above: the owner of a lane knows what it took."""
        places = await several(outbox, 2)
        await acknowledge(outbox, places[0])
        assert await scan(outbox, request()) == [place.id for place in places]

    async def test_a_start_above_what_was_taken_hides_nothing_fresh(self, outbox: Outbox) -> None:
        """What lies between was visible before, and there was no room for it."""
        places = await several(outbox, 3)
        asked = request(taken_to=places[0].id, floor=places[1].id)
        assert await scan(outbox, asked) == [places[1].id, places[2].id]
        assert await swept(outbox, asked) == []

    async def test_a_bound_starts_lower_once_a_transaction_of_it_has_ended(self, outbox: Outbox) -> None:
        writing = await outbox.begin()
        late = await writing.enqueue()
        taken = await enqueue(outbox)
        asked = request(taken.id, floor=taken.id, xid=writing.xid, below=late.id - 1)
        assert await swept(outbox, asked) == []
        await writing.commit()
        assert await swept(outbox, asked) == [late.id, taken.id]

    async def test_fresh_events_have_limits_which_only_the_last_one_exceeds(self, outbox: Outbox) -> None:
        places = await several(outbox, 6)
        (size,) = {event.size for event in (await outbox.reading.scan([request()])).events}
        every = [place.id for place in places]
        assert await scan(outbox, request(every[2], fresh=Reach(2, 1 << 20))) == every[3:5]
        assert await scan(outbox, request(every[2], fresh=Reach(9, 1))) == [every[3]]
        assert await scan(outbox, request(every[2], fresh=Reach(9, size + 1))) == every[3:5]
        assert sorted(await swept(outbox, request(every[2], fresh=Reach(1, 1)))) == every[:3], "these are ids only"

    async def test_a_lane_whose_sweep_would_start_below_what_is_known_gives_nothing(self, outbox: Outbox) -> None:
        places = await several(outbox, 3)
        other = await enqueue(outbox, (another := different_lane()))
        long, short = request(places[1].id, known_from=1), request(lane=lane_of_key(another))
        result = await outbox.reading.scan([long, short])
        assert (result.swept, ids(result.events)) == ({}, [other.id])
        result = await outbox.reading.scan([long._replace(known_from=0)])
        assert ids(result.events) == [places[2].id]
        assert sorted(result.swept[LANE]) == [places[0].id, places[1].id]

    async def test_a_lane_gives_no_events_of_another(self, outbox: Outbox) -> None:
        (own,) = await several(outbox, 1)
        await enqueue(outbox, different_lane())
        same = await enqueue(outbox, same_lane("k", 1)[0].encode())
        assert await scan(outbox, request()) == [own.id, same.id]


class TestScanOfLittle:
    """With little above `nothing_new_to` an adapter may read all of that."""

    async def test_what_is_fresh_comes_lane_by_lane_in_order_whole_and_as_of_one_snapshot(self, outbox: Outbox) -> None:
        first = await enqueue(outbox)
        await scan(outbox, request())
        another = different_lane()
        others = [await enqueue(outbox, another)]
        own = await several(outbox, 2)
        others.append(await enqueue(outbox, another))
        writing = await outbox.begin()
        await writing.enqueue()
        asked = [
            request(first.id, first.id, nothing_new_to=first.id),
            request(0, first.id, nothing_new_to=first.id, lane=lane_of_key(another)),
        ]
        result = await outbox.reading.scan(asked)
        by_lane = sorted([own, others])
        assert [(event.lane, event.id) for event in result.events] == [*by_lane[0], *by_lane[1]]
        assert result.swept == {}
        assert not result.snapshot.ended(writing.xid)
        assert result.next_xid > writing.xid
        assert result.sequence_value > own[-1].id
        whole = await outbox.reading.events_by_id([WantedEvents(LANE, [own[0].id], 1)])
        assert [event for event in result.events if event.id == own[0].id] == whole

    async def test_the_sweep_part_has_all_from_its_start_and_nothing_up_to_where_nothing_is_new(
        self, outbox: Outbox
    ) -> None:
        another = different_lane()
        await scan(outbox, request())
        places = await several(outbox, 5)
        other = await enqueue(outbox, another)
        every = [place.id for place in places]
        asked = request(every[3], every[2], nothing_new_to=every[1])
        lower = request(every[0], every[0], nothing_new_to=every[0] - 1, lane=lane_of_key(another))
        result = await outbox.reading.scan([asked, lower])
        assert {every[3]} <= set(result.swept[LANE]) <= {every[2], every[3]}, "a lane's own bound counts, not another's"
        assert sorted(ids(result.events)) == [every[4], other.id]

    async def test_the_limits_hold_as_ever(self, outbox: Outbox) -> None:
        (first,) = await several(outbox, 1)
        await scan(outbox, request())
        every = [place.id for place in await several(outbox, 4)]

        async def fresh(reach: Reach) -> list[int]:
            return await scan(outbox, request(first.id, first.id, nothing_new_to=first.id, fresh=reach))

        assert await fresh(WIDE) == every
        assert await fresh(Reach(2, 1 << 20)) == every[:2]
        assert await fresh(Reach(9, 1)) == every[:1]

    async def test_a_large_payload_comes_whole_and_a_tombstone_without_one(self, outbox: Outbox) -> None:
        (first,) = await several(outbox, 1)
        await scan(outbox, request())
        asked = request(first.id, first.id, nothing_new_to=first.id)
        await enqueue(outbox, b"k", "orders", b"x" * 100_000)
        (event,) = (await outbox.reading.scan([asked])).events
        assert event.payload == b"x" * 100_000

    async def test_many_are_found_as_well(self, outbox: Outbox) -> None:
        """An adapter does not know how many there are before it has looked."""
        (first,) = await several(outbox, 1)
        await scan(outbox, request())
        writing = await outbox.begin()
        many = [(await writing.enqueue()).id for _ in range(700)]
        await writing.commit()
        assert await scan(outbox, request(first.id, first.id, nothing_new_to=first.id)) == many

    async def test_a_lane_that_has_to_ask_the_tables_gives_nothing(self, outbox: Outbox) -> None:
        (first, *_) = await several(outbox, 3)
        await scan(outbox, request())
        asked = request(first.id, first.id, known_from=first.id + 1, nothing_new_to=first.id)
        result = await outbox.reading.scan([asked])
        assert (result.events, result.swept) == ([], {})


class TestEventsById:
    async def test_they_come_lane_by_lane_in_order_whatever_became_of_them(self, outbox: Outbox) -> None:
        other = await enqueue(outbox, (another := different_lane()))
        places = await several(outbox, 4)
        await acknowledge(outbox, places[1])
        wanted = [
            WantedEvents(lane_of_key(another), [other.id], 1 << 20),
            WantedEvents(LANE, [places[0].id, places[1].id, places[3].id, places[3].id + 1_000], 1 << 20),
        ]
        found = await outbox.reading.events_by_id(wanted)
        by_lane = [[event.id for event in found if event.lane == each.lane] for each in wanted]
        assert by_lane == [[other.id], [places[0].id, places[1].id, places[3].id]]
        assert [event.lane for event in found] == sorted(event.lane for event in found)
        assert found[0].key in (b"k", another)
        (whole,) = (await outbox.reading.scan([request(places[2].id)])).events
        assert next(event for event in found if event.id == whole.id) == whole

    async def test_a_lanes_events_end_with_the_one_that_exceeds_its_bytes(self, outbox: Outbox) -> None:
        other = await enqueue(outbox, (another := different_lane()))
        places = await several(outbox, 3)
        every = [place.id for place in places]
        for size, left in ((1, 1), (1 << 20, 3)):
            found = await outbox.reading.events_by_id(
                [WantedEvents(LANE, every, size), WantedEvents(lane_of_key(another), [other.id], 1)]
            )
            assert ids([event for event in found if event.lane == LANE]) == every[:left]
            assert ids([event for event in found if event.lane != LANE]) == [other.id]


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

    async def test_a_step_says_what_is_settled_above_an_id_in_the_same_snapshot(self, outbox: Outbox) -> None:
        places = await several(outbox, 6)
        await enqueue(outbox, different_lane())
        owner = await own_all(outbox)
        await acknowledge(outbox, places[0])
        await acknowledge(outbox, places[1])
        await fail(outbox, owner, places[2])
        await hold(outbox, owner, places[4])
        above, end = places[0].id - 1, places[5].id + 1

        async def settled(up_to: int, settled_from: int) -> list[int]:
            found = await outbox.reading.sweep_step(LANE, above, up_to, 1, 1, settled_from)
            assert ids(found.events) == [places[3].id][: up_to > places[3].id], "the limits are the events'"
            return sorted(found.settled)

        assert await settled(end, 0) == [places[number].id for number in (0, 1, 2, 4)]
        assert await settled(end, places[1].id) == [places[2].id, places[4].id]
        assert await settled(places[2].id, places[0].id) == [places[1].id, places[2].id]
        assert await settled(end, end) == []

    async def test_a_step_has_limits_which_only_its_last_event_exceeds(self, outbox: Outbox) -> None:
        places = await several(outbox, 3)

        async def step(max_events: int, max_bytes: int) -> list[PendingEvent]:
            return (await outbox.reading.sweep_step(LANE, 0, places[2].id, max_events, max_bytes)).events

        size = (await step(1, 1 << 20))[0].size
        assert ids(await step(2, 1 << 20)) == [place.id for place in places[:2]]
        assert ids(await step(9, 1)) == [places[0].id]
        assert ids(await step(9, size)) == [places[0].id]
        assert ids(await step(9, size + 1)) == [place.id for place in places[:2]]

    async def test_what_a_step_has_no_room_for_it_says_the_ids_of(self, outbox: Outbox) -> None:
        places = await several(outbox, 5)
        await acknowledge(outbox, places[3])
        for limits, number in (((1, 1 << 20), 1), ((3, 1 << 20), 3), ((9, 1), 1), ((9, 1 << 20), 4)):
            step = await outbox.reading.sweep_step(LANE, 0, places[4].id, *limits)
            unsettled = [places[index].id for index in (0, 1, 2, 4)]
            assert (ids(step.events), step.left) == (unsettled[:number], unsettled[number:])
            gaps = await outbox.reading.gap_step(LANE, unsettled, *limits)
            assert (ids(gaps.events), gaps.left) == (unsettled[:number], unsettled[number:])

    async def test_a_step_that_knows_what_is_settled_reads_the_visible_events_of_its_lane_that_are_new(
        self, outbox: Outbox
    ) -> None:
        slow = await outbox.begin()
        invisible = await slow.enqueue()
        places = await several(outbox, 3)
        other = await enqueue(outbox, different_lane())
        asked = [invisible.id, places[0].id, places[2].id, other.id, other.id + 5]

        def new(visible: Collection[int]) -> list[int]:
            assert set(visible) <= {place.id for place in places}
            return sorted(set(visible) & set(asked))

        step = await outbox.reading.new_step(LANE, places[0].id, other.id, 100, 1 << 20, new)
        assert (ids(step.events), step.left) == ([places[2].id], [])
        assert (step.settled, step.sequence_value, step.next_xid > slow.xid) == ([], other.id, True)
        step = await outbox.reading.new_step(LANE, 0, other.id, 1, 1 << 20, new)
        assert (ids(step.events), step.left) == ([places[0].id], [places[2].id])
        step = await outbox.reading.gap_step(LANE, asked, 100, 1 << 20)
        assert ids(step.events) == [places[0].id, places[2].id]
        assert (step.settled, step.left, step.sequence_value) == ([], [], other.id)
        assert slow.xid in step.snapshot.running or slow.xid >= step.snapshot.xmax
        assert step.next_xid > slow.xid
        step = await outbox.reading.gap_step(LANE, [], 100, 1 << 20)
        assert (step.events, step.left) == ([], [])
        await slow.commit()
        step = await outbox.reading.gap_step(LANE, asked, 100, 1 << 20)
        assert ids(step.events) == [invisible.id, places[0].id, places[2].id]

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
        full = (await outbox.reading.scan([request()])).events
        assert [event.event_id for event in found] == [full[index].event_id for index in (0, 2, 3)]


def different_lane() -> bytes:
    """A key of another lane than LANE."""
    return next(key for number in range(100) if lane_of_key(key := b"other-%d" % number) != LANE)
