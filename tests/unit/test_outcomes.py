"""What settle takes of what is to be recorded, and in which order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from relay.decide.failing import Fail
from relay.decide.room import Room
from relay.outcome import FailureKind, PublishError
from relay.stages.settle.outcomes import Delivered, Failed, Held, Outcomes
from relay.stages.tenure import Tenure
from tests.support.events import event

if TYPE_CHECKING:
    from relay.event import PendingEvent
    from relay.stages.settle.outcomes import EventOutcome

TENURES = [Tenure(Room(1, 1)), Tenure(Room(1, 1))]
ERROR = PublishError(FailureKind.EVENT, "too large")
MANY = 1_000


class Added(NamedTuple):
    """An outcome to add: its kind, its tenure, and the keys of its events."""

    kind: type
    tenure: int
    keys: list[bytes | None]


keys = st.none() | st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
added = st.builds(
    Added, st.sampled_from([Delivered, Held]), st.integers(0, 1), st.lists(keys, min_size=1, max_size=3)
) | st.builds(Added, st.just(Failed), st.integers(0, 1), st.lists(keys, min_size=1, max_size=1))


def outcome(add: Added, first_id: int) -> EventOutcome:
    events: list[PendingEvent] = [event(first_id + at, key=key) for at, key in enumerate(add.keys)]
    tenure = TENURES[add.tenure]
    if add.kind is Failed:
        return Failed(tenure, events, Fail(1, "block"), ERROR)
    return Held(tenure, events) if add.kind is Held else Delivered(tenure, events, 0, 0)


async def take_all(outcomes: Outcomes, most: int = MANY) -> list[list[EventOutcome]]:
    taken = []
    while outcomes.waiting:
        taken.append(await outcomes.take(most))
        outcomes.settled(taken[-1])
    return taken


@given(st.lists(added, max_size=20), st.integers(1, 8))
def test_each_outcome_is_taken_once_and_those_of_a_key_in_order(adds: list[Added], most: int) -> None:
    outcomes = Outcomes()
    everything: list[EventOutcome] = []
    for add in adds:
        everything.append(outcome(add, 10 * len(everything)))
        outcomes.add(everything[-1])
    first = everything[0] if everything else None
    statements = asyncio.run(take_all(outcomes, most))

    assert sorted(map(id, (each for taken in statements for each in taken))) == sorted(map(id, everything))
    of_key: dict[bytes, list[int]] = {}
    for taken in statements:
        assert len({(type(each), id(each.tenure)) for each in taken}) == 1
        assert sum(len(each.events) for each in taken[:-1]) < most
        for each in taken:
            for its_event in each.events:
                if its_event.key is not None:
                    of_key.setdefault(its_event.key, []).append(its_event.id)
    assert all(ids == sorted(ids) for ids in of_key.values())
    assert not statements or statements[0][0] is first, "what came first waits longest"


async def test_where_every_other_event_fails_all_failures_are_recorded_at_once() -> None:
    outcomes = Outcomes()
    for number in range(0, 20, 2):
        outcomes.add(outcome(Added(Failed, 0, [None]), number))
        outcomes.add(outcome(Added(Delivered, 0, [b"%d" % number]), number + 1))
    failed, delivered = await take_all(outcomes)
    assert [each.events[0].id for each in failed] == list(range(0, 20, 2))
    assert [each.events[0].id for each in delivered] == list(range(1, 20, 2))


async def test_what_is_put_back_goes_before_what_was_left_standing() -> None:
    outcomes = Outcomes()
    for number, kind in enumerate([Failed, Delivered, Failed]):
        outcomes.add(outcome(Added(kind, 0, [b"%d" % number]), number))
    taken = await outcomes.take(MANY)
    outcomes.put_back(taken)
    assert [[each.events[0].id for each in statement] for statement in await take_all(outcomes)] == [[0, 2], [1]]
    assert outcomes.events == 0
