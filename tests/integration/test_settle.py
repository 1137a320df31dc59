"""Receipts: where each event is in Kafka, written once, whoever writes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from relay.decide import duplicates
from relay.decide.failing import Fail, Retry
from relay.errors import PostgresLostError
from relay.outcome import FailureKind, PublishError
from relay.stages.settle.outcomes import Delivered, Outcomes
from relay.stages.settle.ports import FailedEvent, Receipts
from tests.support.events import event, ids
from tests.support.postgres.outbox import connected
from tests.support.postgres.receipts import DELIVERIES, add_receipt
from tests.support.relay.stages import HandRelay, hand_relay, lane_of, relay_connections, writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    import asyncpg

    from relay.decide.failing import Verdict

LANE = lane_of("k")
RECEIPTS = f"SELECT id, kafka_partition, kafka_offset FROM {DELIVERIES} ORDER BY id, kafka_offset"


async def expire(connection: asyncpg.Connection, relay: HandRelay) -> None:
    """Let the lease of a replica run out, which does not know."""
    await connection.execute(
        "UPDATE outbox.replica SET lease_expires_at = clock_timestamp() WHERE id = $1", relay.tenure.replica
    )


async def receipts(connection: asyncpg.Connection) -> list[tuple[int, int, int]]:
    return [tuple(row) for row in await connection.fetch(RECEIPTS)]


class TestReceipts:
    async def test_they_say_at_which_partition_and_offset_each_event_is(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            for _ in range(5):
                await service.enqueue()
            taken = await relay.take_all()
            await relay.settler.record(
                [Delivered(relay.tenure, taken[:3], 7, 100), Delivered(relay.tenure, taken[3:], 8, 50)]
            )
            assert await receipts(service.connection) == [(1, 7, 100), (2, 7, 101), (3, 7, 102), (4, 8, 50), (5, 8, 51)]

    async def test_an_offset_that_the_broker_did_not_say_is_minus_one_for_all_of_the_batch(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            for _ in range(2):
                await service.enqueue()
            await relay.settler.record([Delivered(relay.tenure, await relay.take_all(), 7, -1)])
            assert await receipts(service.connection) == [(1, 7, -1), (2, 7, -1)]

    async def test_the_events_leave_the_buffer_and_their_lanes(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            for _ in range(4):
                await service.enqueue()
            taken = await relay.take_all()
            assert relay.tenure.room.events == 4
            await relay.settle(taken[1:3])
            assert (relay.tenure.room.events, relay.lane(LANE).unsettled) == (2, 2)
            await relay.settle([taken[0], taken[3]])
            assert (relay.tenure.room.events, relay.tenure.room.bytes) == (0, 0)
            assert relay.lane(LANE).unsettled == 0

    async def test_the_position_follows_them(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            for _ in range(3):
                await service.enqueue()
            await relay.settle(await relay.take_all())
            await relay.take_all()
            await relay.claim.beat()
            assert await service.connection.fetchval("SELECT min(position) FROM outbox.lane") == 3


def receipts_of(relay: HandRelay, *ids: int, base: int) -> Receipts:
    """Receipts of one record batch in partition 0, which the relay published as the owner of the lane."""
    return Receipts(relay.tenure.replica, list(relay.tenure.lanes), [LANE] * len(ids), list(ids), [1], [0], [base])


def their_time_is_over(owner: HandRelay) -> None:
    """Let it be so long after the claims that PostgreSQL has ended every statement that began before."""
    looking = owner.claim._duplicates
    looking._claims = {lane: claim._replace(until=0.0) for lane, claim in looking._claims.items()}
    looking._lately = set(looking._claims.values())


class TestTwice:
    async def test_a_settle_that_is_repeated_changes_nothing_and_is_no_duplicate(self, outbox: str) -> None:
        """Whether a commit got through is unknown when the connection breaks: it is sent again."""
        async with hand_relay(outbox) as relay, writer(outbox) as service:
            await service.enqueue()
            receipt = receipts_of(relay, 1, base=100)
            assert await relay.settle_port.settle(receipt) == 1
            assert await relay.settle_port.settle(receipt) == 0
            await relay.claim.beat()
            assert not relay.telemetry.value("duplicate_events_total")
            assert await receipts(service.connection) == [(1, 0, 100)]

    @pytest.mark.parametrize("late_first", [True, False])
    async def test_events_that_two_owners_published_are_counted_by_the_one_that_has_the_lane(
        self, outbox: str, late_first: bool
    ) -> None:
        """The former owner was paused after Kafka had taken its events."""
        async with hand_relay(outbox) as former, writer(outbox) as service:
            for _ in range(3):
                await service.enqueue()
            assert len(await former.take_all()) == 3
            late = receipts_of(former, 1, 2, base=90)
            await expire(service.connection, former)
            async with hand_relay(outbox) as owner:
                taken = await owner.take_all()
                assert len(taken) == 3
                if late_first:
                    await former.settle_port.settle(late)
                    await owner.claim.beat()
                    assert not owner.telemetry.value("duplicate_events_total")
                await owner.settle(taken)
                if not late_first:
                    await owner.claim.beat()
                    await former.settle_port.settle(late)
                for _ in range(2):
                    await owner.claim.beat()
                    assert owner.telemetry.value("duplicate_events_total") == 2
                await former.claim._duplicates.look()
                assert not former.telemetry.value("duplicate_events_total"), "counted by both"
            assert await receipts(service.connection) == [(1, 0, 1), (1, 0, 90), (2, 0, 2), (2, 0, 91), (3, 0, 3)]
            delivered = await service.connection.fetch("SELECT id FROM outbox.delivered ORDER BY id")
            assert [row["id"] for row in delivered] == [1, 2, 3], "a row for each event"

    async def test_receipts_of_a_statement_that_began_before_the_claim_are_found_for_a_while(
        self, outbox: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The statement did not know of the claim, and does not say that its receipts are late."""
        async with hand_relay(outbox) as former, writer(outbox) as service:
            for _ in range(2):
                await service.enqueue()
            await former.take_all()
            await expire(service.connection, former)
            async with hand_relay(outbox) as owner:
                await owner.settle(await owner.take_all())
                await add_receipt(service.connection, 1, offset=90, replica=former.tenure.replica)
                await owner.claim.beat()
                assert owner.telemetry.value("duplicate_events_total") == 1
                their_time_is_over(owner)
                await owner.claim.beat()
                await add_receipt(service.connection, 2, offset=91, replica=former.tenure.replica)
                await owner.claim.beat()
                assert owner.telemetry.value("duplicate_events_total") == 1

    @pytest.mark.parametrize("part", ["PART_RECEIPTS", "PART_PLACES", "PART_IDS", "PART_READ"])
    async def test_they_are_looked_at_in_parts(self, outbox: str, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
        monkeypatch.setattr(duplicates, part, 1)
        async with hand_relay(outbox) as former, writer(outbox) as service:
            for _ in range(9):
                await service.enqueue()
            await former.take_all()
            await expire(service.connection, former)
            async with hand_relay(outbox) as owner:
                await owner.settle(await owner.take_all())
                for first in (1, 4, 7):
                    both = receipts_of(former, first, first + 2, base=90)
                    await former.settle_port.settle(both)
                await owner.claim.beat()
                assert owner.telemetry.value("duplicate_events_total") == 6

    async def test_those_of_a_look_that_took_too_long_are_counted_by_a_later_one(
        self, outbox: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In 2 of 6 runs on a busy machine, the same look was given up again and again."""
        async with hand_relay(outbox) as former, writer(outbox) as service, connected(outbox) as other:
            for _ in range(3):
                await service.enqueue()
            await former.take_all()
            await expire(service.connection, former)
            async with hand_relay(outbox) as owner:
                await owner.settle(await owner.take_all())
                await former.settle_port.settle(receipts_of(former, 1, 2, base=90))
                told: list[object] = []
                owner.telemetry.listen("duplicates.uncounted", told.append)
                monkeypatch.setattr("relay.postgres.flow.claim.DUPLICATES_TIMEOUT", 0.1)
                async with other.transaction():
                    await other.execute("LOCK TABLE outbox.receipt IN ACCESS EXCLUSIVE MODE")
                    await owner.claim.beat()
                    assert not owner.telemetry.value("duplicate_events_total")
                monkeypatch.undo()
                await owner.claim.beat()
                assert owner.telemetry.value("duplicate_events_total") == 2
                assert not told

    @pytest.mark.parametrize("recorded", [False, True])
    async def test_a_receipt_written_after_the_claim_is_marked_and_found_however_late(
        self, outbox: str, recorded: bool
    ) -> None:
        async with hand_relay(outbox) as former, writer(outbox) as service:
            await service.enqueue()
            await former.take_all()
            late = receipts_of(former, 1, base=90)
            await expire(service.connection, former)
            async with hand_relay(outbox) as owner:
                await owner.settle(await owner.take_all())
                their_time_is_over(owner)
                await owner.claim.beat()
                if recorded:
                    await former.settle_port.settle_recorded(late, [(LANE, 1)])
                else:
                    await former.settle_port.settle(late)
                await owner.claim.beat()
                assert owner.telemetry.value("duplicate_events_total") == 1
            marks = await service.connection.fetch("SELECT replica, late FROM outbox.receipt")
            assert dict(marks) == {former.tenure.replica: True, owner.tenure.replica: False}

    async def test_a_late_receipt_that_the_sweep_of_the_take_over_saw_is_no_duplicate(self, outbox: str) -> None:
        async with hand_relay(outbox) as former, writer(outbox) as service:
            for _ in range(2):
                await service.enqueue()
            _, last = await former.take_all()
            await former.settle([last])
            await expire(service.connection, former)
            async with relay_connections(outbox) as connections:
                owner = HandRelay(connections)
                await owner.start()
                await former.settle_port.settle(receipts_of(former, 1, base=90))
                assert await owner.take_all() == []
                await owner.claim.beat()
                assert not owner.telemetry.value("duplicate_events_total")

    async def test_who_gets_the_lane_later_counts_none_again(self, outbox: str) -> None:
        async with hand_relay(outbox) as former, writer(outbox) as service:
            await service.enqueue()
            await former.take_all()
            await expire(service.connection, former)
            async with hand_relay(outbox) as owner:
                await owner.settle(await owner.take_all())
                await former.settle_port.settle(receipts_of(former, 1, base=90))
                owner.tenure.begin_drain()
                await owner.claim.hand_back()
                assert owner.telemetry.value("duplicate_events_total") == 1
            async with hand_relay(outbox) as last:
                await last.claim.beat()
                assert not last.telemetry.value("duplicate_events_total")

    async def test_that_it_cannot_be_read_is_told_once_and_ends_nothing(self, outbox: str) -> None:
        async with hand_relay(outbox) as relay, connected(outbox) as connection:
            told: list[object] = []
            relay.telemetry.listen("duplicates.uncounted", told.append)
            await connection.execute("ALTER TABLE outbox.receipt RENAME COLUMN late TO mislaid")
            for _ in range(2):
                await relay.claim.beat()
            assert len(told) == 1

    async def test_two_owners_who_settle_the_same_events_in_other_orders_do_not_wait_for_each_other_for_ever(
        self, outbox: str
    ) -> None:
        """Unsorted they deadlock."""
        async with (
            relay_connections(outbox) as ours,
            relay_connections(outbox) as theirs,
            connected(outbox) as connection,
        ):
            first, second = HandRelay(ours).settle_port, HandRelay(theirs).settle_port
            runs = 3000
            up = list(range(1, runs + 1))
            down = up[::-1]
            publisher = uuid4()
            for _ in range(4):
                both = [
                    port.settle(Receipts(publisher, [], [LANE] * runs, order, up, [0] * runs, [0] * runs))
                    for port, order in ((first, up), (second, down))
                ]
                written = await asyncio.gather(*both)
                assert sum(written) == runs
                await connection.execute("TRUNCATE outbox.receipt")


class TestWhoLostALane:
    """A failure or a held row of a former owner would hold back, or let go, what the next one publishes."""

    async def test_holds_nothing_back_any_more(self, outbox: str) -> None:
        other = lane_of("another")
        async with hand_relay(outbox) as relay, connected(outbox) as connection:
            ours = {lane: relay.lane(lane).epoch for lane in (LANE, other)}
            held = [event(1, lane=LANE), event(2, lane=other)]
            for replica, epochs in former_owners(relay, ours):
                assert await relay.settle_port.hold(replica, held, epochs) is None
                assert await connection.fetchval("SELECT count(*) FROM outbox.held") == 0
            written = await relay.settle_port.hold(relay.tenure.replica, held, ours)
            assert written is not None
            assert written == 2

    @pytest.mark.parametrize("verdict", [Retry(1, 0.0), Fail(1, "block")], ids=["retry", "fail"])
    async def test_records_no_failure_any_more(self, outbox: str, verdict: Verdict) -> None:
        counts = "SELECT (SELECT count(*) FROM outbox.failure), (SELECT count(*) FROM outbox.held)"
        async with hand_relay(outbox) as relay, connected(outbox) as connection:
            ours = {LANE: relay.lane(LANE).epoch}
            failed = event(1, lane=LANE)
            await relay.settle_port.hold(relay.tenure.replica, [failed], ours)
            failure = [FailedEvent(failed, verdict, PublishError(FailureKind.EVENT, "too large"))]
            for replica, epochs in former_owners(relay, ours):
                assert not await relay.settle_port.fail(replica, failure, epochs)
                assert tuple(await connection.fetchrow(counts)) == (0, 1)
            assert await relay.settle_port.fail(relay.tenure.replica, failure, ours)
            assert tuple(await connection.fetchrow(counts)) == (1, 0)


def former_owners(relay: HandRelay, ours: dict[int, int]) -> Iterator[tuple[UUID, dict[int, int]]]:
    """Replicas and epochs that do not own all of these lanes, though they nearly do."""
    yield uuid4(), ours
    for lane, epoch in ours.items():
        yield relay.tenure.replica, ours | {lane: epoch - 1}


class TestLostConnections:
    async def test_what_was_being_settled_is_settled_by_the_next_tenure(self, outbox: str) -> None:
        outcomes = Outcomes()
        async with hand_relay(outbox, outcomes=outcomes) as former, writer(outbox) as service:
            for _ in range(3):
                await service.enqueue()
            taken = await former.take_all()
            outcomes.add(Delivered(former.tenure, taken, 0, 10))
            await service.connection.execute(
                "SELECT pg_terminate_backend($1)", former.connections["settle"].get_server_pid()
            )
            with pytest.raises(PostgresLostError):
                await former.settler.run()
            assert outcomes.events == 3
            async with relay_connections(outbox) as connections:
                relay = HandRelay(connections, outcomes=outcomes)
                settling = asyncio.create_task(relay.settler.run())
                async with asyncio.timeout(30):
                    await outcomes.wait_idle()
                settling.cancel()
            assert await receipts(service.connection) == [(1, 0, 10), (2, 0, 11), (3, 0, 12)]

    async def test_a_commit_whose_answer_was_lost_is_found_and_is_no_duplicate(self, outbox: str) -> None:
        outcomes = Outcomes()
        async with hand_relay(outbox, outcomes=outcomes) as former, writer(outbox) as service:
            await service.enqueue()
            delivery = Delivered(former.tenure, await former.take_all(), 0, 10)
            await former.settle_port.settle(receipts_of(former, 1, base=10))
            async with relay_connections(outbox) as connections:
                relay = HandRelay(connections, outcomes=outcomes)
                await relay.settler.record([delivery])
                assert not relay.telemetry.value("duplicate_events_total")

    async def test_a_receipt_of_an_event_that_is_not_there_any_more_is_not_written(self, outbox: str) -> None:
        async with hand_relay(outbox) as former, relay_connections(outbox) as connections, writer(outbox) as service:
            await service.enqueue()
            (known,) = await former.take_all()
            stranger = event(known.id, lane=known.lane)
            relay = HandRelay(connections)
            await relay.settler.record([Delivered(former.tenure, [stranger], 0, 10)])
            assert await receipts(service.connection) == []
            await relay.settler.record([Delivered(former.tenure, [known], 0, 11)])
            assert await receipts(service.connection) == [(1, 0, 11)]


class TestTheQueue:
    async def test_much_is_settled_at_once_but_not_more_than_the_limit(self, outbox: str) -> None:
        outcomes = Outcomes()
        async with relay_connections(outbox) as connections:
            relay = HandRelay(connections, outcomes=outcomes)
            for number in range(10):
                outcomes.add(Delivered(relay.tenure, [event(number * 3 + i) for i in (1, 2, 3)], 0, 0))
            assert [len(each.events) for each in await outcomes.take(7)] == [3, 3, 3]
            assert outcomes.events == 30

    async def test_acknowledgements_of_two_tenures_are_settled_apart_and_in_order(self, outbox: str) -> None:
        outcomes = Outcomes()
        async with relay_connections(outbox) as connections:
            former, relay = HandRelay(connections), HandRelay(connections)
            for tenure, id_ in ((former.tenure, 1), (former.tenure, 2), (relay.tenure, 3), (former.tenure, 4)):
                outcomes.add(Delivered(tenure, [event(id_)], 0, 0))
            parts = []
            while outcomes.events:
                taken = await outcomes.take(100)
                parts.append(ids([each for record in taken for each in record.events]))
                outcomes.settled(taken)
            assert parts == [[1, 2], [3], [4]]

    async def test_what_is_put_back_comes_first_again(self, outbox: str) -> None:
        outcomes = Outcomes()
        async with relay_connections(outbox) as connections:
            relay = HandRelay(connections)
            for id_ in (1, 2, 3):
                outcomes.add(Delivered(relay.tenure, [event(id_)], 0, 0))
            outcomes.put_back(await outcomes.take(2))
            taken = await outcomes.take(100)
            assert ids([each for record in taken for each in record.events]) == [1, 2, 3]
