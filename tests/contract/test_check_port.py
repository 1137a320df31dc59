"""What the check for unseen events may rely on: it names what was passed without a trace, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.keys import lane_of_key
from tests.contract.outboxes import enqueue
from tests.contract.recording import acknowledge, fail, hold, own_all

if TYPE_CHECKING:
    from tests.contract.outboxes import Outbox

LANE = lane_of_key(b"k")


async def test_events_below_the_position_of_which_nothing_is_recorded_are_unseen(outbox: Outbox) -> None:
    places = [await enqueue(outbox) for _ in range(6)]
    owner = await own_all(outbox)
    await acknowledge(outbox, places[0])
    await fail(outbox, owner, places[1])
    await hold(outbox, owner, places[2])
    assert await outbox.checking.check_range() == (1, 0)
    await outbox.pass_to(LANE, places[4].id)
    assert await outbox.checking.check_range() == (1, places[4].id)
    assert await outbox.checking.check_kept(100) == []
    unseen = [(place.lane, place.id) for place in places[3:5]]
    assert await outbox.checking.check_slice(0, places[5].id) == unseen
    assert await outbox.checking.check_slice(0, places[3].id) == unseen[:1]
    assert await outbox.checking.check_slice(places[3].id, places[5].id) == unseen[1:]
    assert await outbox.checking.check_again(places) == unseen
    await acknowledge(outbox, places[3])
    assert await outbox.checking.check_again(unseen) == unseen[1:]
