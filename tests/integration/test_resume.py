"""Failed and held events on their way to Kafka again, with the tables of a real server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from relay.decide.failing import Retry
from relay.outcome import FailureKind, PublishError
from relay.postgres.admin.failures import FailureFilter, Failures
from relay.postgres.flow.hold import ResumeConnection
from relay.settings import ScanSettings
from relay.stages.hold.resume import Resume
from relay.stages.settle.outcomes import Failed, Held
from tests.support.events import ids
from tests.support.postgres.receipts import DELIVERIES
from tests.support.relay.stages import HandRelay, hand_relay, lane_of, relay_connections, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from relay.event import PendingEvent

LANE = lane_of("k")


class Retried:
    """Events 1 and 2 of a key: the first was refused and is to be retried at once, the second is held behind it."""

    def __init__(self, relay: HandRelay, connection: asyncpg.Connection) -> None:
        self.relay = relay
        self.connection = connection
        self.handed_in: list[PendingEvent] = []
        self.resume = resume_of(relay, self.handed_in)

    async def fail(self) -> None:
        first, second = await self.relay.take_all()
        self.relay.tenure.closed_in(LANE).close_key("orders", b"k")
        refused = PublishError(FailureKind.UNKNOWN, "who knows")
        await self.relay.settler.record([Failed(self.relay.tenure, [first], Retry(1, 0.0), refused)])
        await self.hold_back(second)

    async def hold_back(self, event: PendingEvent) -> None:
        await self.relay.settler.record([Held(self.relay.tenure, [event])])

    async def pause_topic(self) -> None:
        """What of the topic is in publish's hands is held back."""
        self.relay.tenure.pause("orders")
        for event in self.handed_in:
            await self.hold_back(event)
        self.handed_in.clear()

    async def resume_all(self) -> list[int]:
        """What is handed in by one look at the failures and one pass over the held rows."""
        self.handed_in.clear()
        await self.resume.resume_failures()
        await self.resume.resume_held(self.relay.lane(LANE))
        return ids(self.handed_in)

    async def receipts(self) -> list[tuple[object, ...]]:
        return [tuple(row) for row in await self.connection.fetch(f"SELECT id FROM {DELIVERIES} ORDER BY id")]

    async def rows(self, table: str, columns: str = "id") -> list[tuple[object, ...]]:
        return [tuple(row) for row in await self.connection.fetch(f"SELECT {columns} FROM outbox.{table} ORDER BY id")]


def resume_of(relay: HandRelay, handed_in: list[PendingEvent]) -> Resume:
    """The stage, which hands in here."""
    port = ResumeConnection(relay.connections["control"], "outbox")
    return Resume(
        port=port,
        tenure=relay.tenure,
        outcomes=relay.outcomes,
        hand_in=handed_in.extend,
        try_anew=lambda _: None,
        settings=ScanSettings(),
        replays_may_be_over=lambda: None,
    )


@asynccontextmanager
async def retried(dsn: str) -> AsyncIterator[Retried]:
    async with hand_relay(dsn) as relay, writer(dsn) as service:
        await service.enqueue_many(2)
        setting = Retried(relay, service.connection)
        await setting.fail()
        yield setting


async def test_what_was_in_flight_when_its_owner_was_killed_goes_before_what_is_held_behind_it(outbox: str) -> None:
    """Resumed beside the sweep that finds the first event, the second one was published before it."""
    async with hand_relay(outbox) as killed, writer(outbox) as service:
        await service.enqueue_many(2)
        first, second = await killed.take_all()
        await killed.settler.record([Held(killed.tenure, [second])])
        async with relay_connections(outbox) as connections:
            relay = HandRelay(connections)
            await relay.start(former=killed.tenure.replica)
            resume = resume_of(relay, relay.taken)

            async def look() -> None:
                await resume.resume_failures()
                for state in await resume._openable():
                    await resume.resume_held(state)

            await look()
            assert relay.taken == []
            await relay.take_all()
            # As the gate does: the topic is closed for as long as there are held rows of it.
            assert ids(relay.taken) == [first.id]
            await look()
            assert ids(relay.taken) == [first.id, second.id]


async def test_a_failed_event_whose_topic_was_paused_is_tried_first_when_that_is_looked_at_again(outbox: str) -> None:
    async with retried(outbox) as setting:
        assert await setting.resume_all() == [1]
        await setting.pause_topic()
        assert await setting.rows("held") == [(2,)]
        assert await setting.resume_all() == []
        setting.relay.tenure.unpause("orders")
        assert await setting.resume_all() == [1], "the topic gets nothing to try, or the later event overtakes"
        await setting.relay.settle(setting.handed_in)
        assert await setting.resume_all() == [2]
        await setting.relay.settle(setting.handed_in)
        assert await setting.receipts() == [(1,), (2,)]
        assert (await setting.rows("failure"), await setting.rows("held")) == ([], [])
        assert not setting.relay.tenure.closed_in(LANE)


async def test_an_event_that_is_discarded_while_its_topic_is_paused_is_not_published_any_more(outbox: str) -> None:
    """The held row that it got beside its failure outlived the discard."""
    async with retried(outbox) as setting:
        assert await setting.resume_all() == [1]
        await setting.pause_topic()
        marked = await Failures(setting.connection, "outbox").mark(
            "discard", FailureFilter(ids=(1,)), recorded={}, reason="", requested_by="kim@desk"
        )
        assert marked is not None
        setting.relay.tenure.unpause("orders")
        assert await setting.resume_all() == [2]
        await setting.relay.settle(setting.handed_in)
        assert await setting.receipts() == [(2,)]
        assert await setting.rows("failure", "id, state") == [(1, "discarded")]
        assert await setting.rows("held") == []
