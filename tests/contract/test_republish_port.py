"""What replaying delivered events may rely on: each once per replay, in order, and an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.lane_scan import LanePosition
from relay.headers import REPLAY
from relay.keys import LANES, lane_of_key
from relay.stages.republish.ports import Landed
from tests.contract.outboxes import enqueue
from tests.contract.recording import acknowledge, own_all
from tests.support.events import ids

if TYPE_CHECKING:
    from relay.decide.republishing import ReplayRequest
    from relay.event import PendingEvent
    from tests.contract.outboxes import Outbox, Place

LANE = lane_of_key(b"k")
PLENTY = 1 << 20


async def delivered(outbox: Outbox, number: int, topic: str = "orders") -> list[Place]:
    places = [await enqueue(outbox, topic=topic) for _ in range(number)]
    await acknowledge(outbox, *places)
    return places


async def asked(outbox: Outbox, last_id: int, topic: str = "orders") -> ReplayRequest:
    """The request that is under way."""
    action = await outbox.ask_for_replay(topic, last_id)
    (request,) = await outbox.republishing.open_replays()
    assert (request.action, request.topic, request.last_id) == (action, topic, last_id)
    assert request.positions == dict.fromkeys(range(LANES), 0)
    return request


async def read(
    outbox: Outbox, request: ReplayRequest, above: int = 0, max_events: int = 100, max_bytes: int = PLENTY
) -> list[PendingEvent]:
    return await outbox.republishing.events_to_replay(request, LANE, above, request.last_id, max_events, max_bytes)


def landed(event: PendingEvent, error: str | None = None) -> Landed[object]:
    return Landed(None, event, None, None, error) if error else Landed(None, event, 3, 500, None)


async def test_delivered_events_of_the_topic_come_in_order_each_marked_with_the_replay(outbox: Outbox) -> None:
    places = await delivered(outbox, 3)
    await delivered(outbox, 1, "bills")
    await enqueue(outbox)
    request = await asked(outbox, 100)
    found = await read(outbox, request)
    assert [(event.lane, event.id) for event in found] == places
    assert all(event.headers is not None and f'"{REPLAY}": "{request.action}"' in event.headers for event in found)
    assert ids(await read(outbox, request, above=places[0].id)) == [place.id for place in places[1:]]
    assert ids(await read(outbox, request, max_events=1)) == ids(await read(outbox, request, max_bytes=1))
    assert len(await read(outbox, request, max_bytes=1)) == 1


async def test_an_event_above_the_last_id_is_not_of_the_replay(outbox: Outbox) -> None:
    places = await delivered(outbox, 2)
    request = await asked(outbox, places[0].id)
    assert ids(await read(outbox, request)) == [places[0].id]


async def test_what_has_a_receipt_of_the_replay_is_not_read_again(outbox: Outbox) -> None:
    places = await delivered(outbox, 3)
    request = await asked(outbox, 100)
    found = await read(outbox, request)
    await outbox.republishing.settle_replayed(request.action, [landed(found[0]), landed(found[1], "too large")])
    assert await outbox.replay_receipts(request.action) == {places[0]: None, places[1]: "too large"}
    assert ids(await read(outbox, request)) == [places[2].id]
    await outbox.republishing.settle_replayed(request.action, [landed(found[1]), landed(found[2])])
    assert await outbox.replay_receipts(request.action) == {places[0]: None, places[1]: "too large", places[2]: None}


async def test_an_id_that_belongs_to_another_event_now_gets_no_receipt_of_the_replay(outbox: Outbox) -> None:
    (place,) = await delivered(outbox, 1)
    request = await asked(outbox, 100)
    (event,) = await read(outbox, request)
    await outbox.renumber(place)
    await outbox.republishing.settle_replayed(request.action, [landed(event)])
    assert await outbox.replay_receipts(request.action) == {}


async def test_a_replay_ends_with_its_last_lane_and_only_owners_advance_it(outbox: Outbox) -> None:
    (place,) = await delivered(outbox, 1)
    request = await asked(outbox, place.id)
    owner = await own_all(outbox)
    stale = [LanePosition(lane, epoch - 1, place.id) for lane, epoch in owner.epochs.items()]
    await outbox.republishing.advance_replay(request.action, owner.replica, stale)
    (unchanged,) = await outbox.republishing.open_replays()
    assert unchanged.positions == request.positions
    positions = [LanePosition(lane, epoch, place.id) for lane, epoch in owner.epochs.items()]
    await outbox.republishing.advance_replay(request.action, owner.replica, positions[1:])
    (one_left,) = await outbox.republishing.open_replays()
    assert one_left.open_lanes() == {positions[0].lane}
    await outbox.republishing.advance_replay(request.action, owner.replica, positions[:1])
    assert await outbox.republishing.open_replays() == []
