"""What several contract tests record of events, and how they own the lanes to do so."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID, uuid4

from relay.decide.failing import Fail, Retry
from relay.outcome import FailureKind, PublishError
from relay.stages.settle.ports import FailedEvent, Receipts
from tests.contract.outboxes import LEASE
from tests.support.events import event

if TYPE_CHECKING:
    from relay.decide.failing import Policy, Verdict
    from relay.event import PendingEvent
    from tests.contract.outboxes import Outbox, Place

PARTITION = 7
PUBLISHER = uuid4()


class Owner(NamedTuple):
    """A replica that owns every lane."""

    replica: UUID
    epochs: dict[int, int]


async def own_all(outbox: Outbox) -> Owner:
    """Register a replica and let it claim all lanes."""
    replica = uuid4()
    await outbox.claiming.register(replica, "test", "0", LEASE, None, None)
    claimed = await outbox.claiming.claim(replica, await outbox.claiming.lanes())
    return Owner(replica, {each.lane: each.epoch for each in claimed})


def receipts(*places: Place, base: int = 100, publisher: UUID = PUBLISHER) -> Receipts:
    """Receipts of one record batch, whose first offset is `base`."""
    lanes, ids = [place.lane for place in places], [place.id for place in places]
    return Receipts(publisher, [], lanes, ids, [1], [PARTITION], [base])


async def acknowledge(outbox: Outbox, *places: Place, base: int = 100, publisher: UUID = PUBLISHER) -> int:
    """Write receipts of events of which nothing is recorded."""
    return await outbox.settling.settle(receipts(*places, base=base, publisher=publisher))


def at(place: Place, topic: str = "orders", key: bytes | None = b"k") -> PendingEvent:
    """An event as a stage hands it to what records outcomes."""
    return event(place.id, lane=place.lane, key=key, topic=topic, payload=b"x", size=2)


async def fail(
    outbox: Outbox,
    owner: Owner,
    place: Place,
    verdict: Verdict | None = None,
    *,
    topic: str = "orders",
    key: bytes | None = b"k",
    error: str = "MessageSizeTooLargeError",
) -> None:
    """Record that an event failed, for good unless a verdict is given."""
    told = PublishError(FailureKind.EVENT, "too large", error)
    failure = FailedEvent(at(place, topic, key), verdict or failed(), told)
    written = await outbox.settling.fail(owner.replica, [failure], {place.lane: owner.epochs[place.lane]})
    assert written


def failed(policy: Policy = "block") -> Fail:
    """A verdict: it is over."""
    return Fail(1, policy)


def retried(delay: float = 0.0) -> Retry:
    """A verdict: it is tried again."""
    return Retry(1, delay)


async def hold(outbox: Outbox, owner: Owner, *places: Place, topic: str = "orders", key: bytes = b"k") -> None:
    """Record that events are held back."""
    events = [at(place, topic, key) for place in places]
    assert await outbox.settling.hold(owner.replica, events, owner.epochs) == len(places)
