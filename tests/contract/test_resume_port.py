"""What resuming may rely on: which failures are due, which keys are closed, and which held events may go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.keys import LANES, lane_of_key
from tests.contract.outboxes import Failure, enqueue
from tests.contract.recording import fail, failed, hold, own_all, retried
from tests.support.events import ids
from tests.support.relay.stages import same_lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.decide.failing import Policy
    from tests.contract.outboxes import Outbox, Place

LANE = lane_of_key(b"k")
ALL = list(range(LANES))
PLENTY = 1 << 20


async def several(outbox: Outbox, number: int, topic: str = "orders") -> list[Place]:
    return [await enqueue(outbox, topic=topic) for _ in range(number)]


async def due(
    outbox: Outbox,
    lanes: Sequence[int] = ALL,
    *,
    max_events: int = 100,
    max_bytes: int = PLENTY,
    paused: Sequence[str] = (),
    under_way: Sequence[tuple[int, int]] = (),
) -> list[int]:
    found = await outbox.resuming.due_failures(lanes, max_events, max_bytes, paused, under_way)
    return [each.event.id for each in found]


async def held(
    outbox: Outbox, above: int = 0, *, max_events: int = 100, max_bytes: int = PLENTY, paused: Sequence[str] = ()
) -> list[int]:
    return ids(await outbox.resuming.held_events(LANE, above, max_events, max_bytes, paused))


class TestDueFailures:
    async def test_a_retry_is_due_once_its_time_has_come(self, outbox: Outbox) -> None:
        places = await several(outbox, 2)
        owner = await own_all(outbox)
        await fail(outbox, owner, places[0], retried())
        await fail(outbox, owner, places[1], retried(600.0))
        (found,) = await outbox.resuming.due_failures(ALL, 100, PLENTY, [], [])
        assert ((found.event.lane, found.event.id), found.attempts) == (places[0], 1)
        assert (found.event.topic, found.event.key, found.event.payload) == ("orders", b"k", b"x")

    async def test_a_failed_event_is_due_once_a_person_replays_it(self, outbox: Outbox) -> None:
        places = await several(outbox, 2)
        owner = await own_all(outbox)
        for place in places:
            await fail(outbox, owner, place)
        assert await due(outbox) == []
        await outbox.mark(places[1], "replaying")
        assert await due(outbox) == [places[1].id]
        await outbox.mark(places[1], "discarded")
        assert await due(outbox) == []

    async def test_other_lanes_paused_topics_and_events_under_way_are_left_out(self, outbox: Outbox) -> None:
        orders, bills = (await several(outbox, 2)), (await several(outbox, 1, "bills"))
        owner = await own_all(outbox)
        for place in orders:
            await fail(outbox, owner, place, retried())
        await fail(outbox, owner, bills[0], retried(), topic="bills")
        assert await due(outbox) == [place.id for place in [*orders, *bills]]
        assert await due(outbox, [lane for lane in ALL if lane != LANE]) == []
        assert await due(outbox, paused=["orders"]) == [bills[0].id]
        assert await due(outbox, under_way=[orders[0]]) == [orders[1].id, bills[0].id]

    async def test_failures_come_in_order_up_to_the_limits(self, outbox: Outbox) -> None:
        places = await several(outbox, 3)
        owner = await own_all(outbox)
        for place in reversed(places):
            await fail(outbox, owner, place, retried())
        assert await due(outbox, max_events=2) == [place.id for place in places[:2]]
        assert await due(outbox, max_bytes=1) == [places[0].id]

    async def test_an_unreadable_event_that_is_to_be_replayed_fails_once_more(self, outbox: Outbox) -> None:
        places = await several(outbox, 2)
        owner = await own_all(outbox)
        await fail(outbox, owner, places[0], error="UnreadableEvent")
        await fail(outbox, owner, places[1])
        assert not await outbox.resuming.still_unreadable(ALL, "still")
        for place in places:
            await outbox.mark(place, "replaying")
        assert not await outbox.resuming.still_unreadable([lane for lane in ALL if lane != LANE], "still")
        assert await outbox.resuming.still_unreadable(ALL, "still")
        assert await outbox.failures() == {
            places[0]: Failure("failed", 2, "UnreadableEvent"),
            places[1]: Failure("replaying", 1, "MessageSizeTooLargeError"),
        }


class TestClosedKeys:
    @pytest.mark.parametrize(
        ("policy", "state", "blocks"),
        [
            ("block", "failed", True),
            ("block", "replaying", True),
            ("block", "retrying", True),
            ("block", "discarded", False),
            ("skip", "failed", False),
            ("skip", "replaying", True),
            ("dead-letter", "failed", False),
        ],
    )
    async def test_a_key_is_closed_behind_a_failure_that_is_not_resolved(
        self, outbox: Outbox, policy: Policy, state: str, blocks: bool
    ) -> None:
        place = await enqueue(outbox)
        owner = await own_all(outbox)
        await fail(outbox, owner, place, retried(600.0) if state == "retrying" else failed(policy))
        if state in ("replaying", "discarded"):
            await outbox.mark(place, state)
        found = await outbox.resuming.blocking(ALL)
        assert [tuple(each) for each in found] == ([(LANE, "orders", b"k")] if blocks else [])
        assert await outbox.resuming.blocking([lane for lane in ALL if lane != LANE]) == []

    async def test_a_failure_that_is_discarded_need_not_be_acted_on(self, outbox: Outbox) -> None:
        place = await enqueue(outbox)
        owner = await own_all(outbox)
        assert not await outbox.resuming.has_failures(ALL)
        await fail(outbox, owner, place, failed("skip"))
        assert await outbox.resuming.has_failures(ALL)
        assert not await outbox.resuming.has_failures([lane for lane in ALL if lane != LANE])
        await outbox.mark(place, "discarded")
        assert not await outbox.resuming.has_failures(ALL)

    async def test_a_claiming_replica_is_told_the_same(self, outbox: Outbox) -> None:
        places = await several(outbox, 2)
        owner = await own_all(outbox)
        await fail(outbox, owner, places[0])
        await hold(outbox, owner, places[1])
        assert await outbox.claiming.blocking(ALL) == await outbox.resuming.blocking(ALL)
        assert await outbox.claiming.has_failures(ALL)
        assert await outbox.claiming.held_topics(ALL) == [(LANE, "orders")]
        assert await outbox.claiming.held_topics([lane for lane in ALL if lane != LANE]) == []


class TestHeldEvents:
    async def test_held_events_come_in_order_up_to_the_limits(self, outbox: Outbox) -> None:
        places = await several(outbox, 4)
        owner = await own_all(outbox)
        await hold(outbox, owner, *places[1:])
        assert await held(outbox) == [place.id for place in places[1:]]
        assert await held(outbox, places[1].id) == [place.id for place in places[2:]]
        assert await held(outbox, max_events=1) == [places[1].id]
        assert await held(outbox, max_bytes=1) == [places[1].id]

    async def test_held_events_of_a_closed_key_stay(self, outbox: Outbox) -> None:
        other = same_lane("k", 1)[0].encode()
        failing, behind = await several(outbox, 2)
        beside, elsewhere = await enqueue(outbox, other), await enqueue(outbox, topic="bills")
        owner = await own_all(outbox)
        await fail(outbox, owner, failing)
        await hold(outbox, owner, behind)
        await hold(outbox, owner, beside, key=other)
        await hold(outbox, owner, elsewhere, topic="bills")
        assert await held(outbox) == [beside.id, elsewhere.id]
        await outbox.mark(failing, "discarded")
        assert await held(outbox) == [behind.id, beside.id, elsewhere.id]

    async def test_held_events_of_paused_topics_stay(self, outbox: Outbox) -> None:
        order, bill = await enqueue(outbox), await enqueue(outbox, topic="bills")
        owner = await own_all(outbox)
        await hold(outbox, owner, order)
        await hold(outbox, owner, bill, topic="bills")
        assert await held(outbox, paused=["orders"]) == [bill.id]
