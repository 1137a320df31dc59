"""What recording may rely on: receipts once each, and failures and held rows that only the lane's owner writes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from relay.decide.reach import Reach
from relay.decide.sweep_start import SweepStart
from relay.keys import lane_of_key
from relay.outcome import FailureKind, PublishError
from relay.stages.scan.ports import LaneRequest
from relay.stages.settle.ports import FailedEvent, Receipts
from tests.contract.outboxes import Failure, enqueue
from tests.contract.recording import acknowledge, at, fail, failed, hold, own_all, receipts, retried
from tests.support.relay.stages import same_lane

if TYPE_CHECKING:
    from uuid import UUID

    from relay.decide.failing import Verdict
    from tests.contract.outboxes import Outbox, Place

LANE = lane_of_key(b"k")
REFUSED = PublishError(FailureKind.EVENT, "too large", "MessageSizeTooLargeError")


async def several(outbox: Outbox, number: int) -> list[Place]:
    return [await enqueue(outbox) for _ in range(number)]


async def event_ids(outbox: Outbox) -> list[UUID]:
    """Of all events of the lane."""
    wide = Reach(1_000, 1 << 20)
    result = await outbox.reading.scan([LaneRequest(LANE, 0, 0, SweepStart(0, ()), 0, wide)])
    return [event.event_id for event in result.events]


class TestReceipts:
    async def test_the_events_of_a_run_have_offsets_from_its_base_on(self, outbox: Outbox) -> None:
        places = await several(outbox, 4)
        lanes, ids = zip(*places, strict=True)
        assert (
            await outbox.settling.settle(Receipts(uuid4(), [], list(lanes), list(ids), [1, 3], [7, 8], [100, 50])) == 4
        )
        assert await outbox.receipts() == dict(zip(places, [(7, 100), (7, 101), (8, 50), (8, 51)], strict=True))

    async def test_offsets_that_the_broker_did_not_say_are_minus_one(self, outbox: Outbox) -> None:
        places = await several(outbox, 2)
        await acknowledge(outbox, *places, base=-1)
        assert set((await outbox.receipts()).values()) == {(7, -1)}

    async def test_receipts_that_are_written_again_change_nothing(self, outbox: Outbox) -> None:
        places = await several(outbox, 3)
        assert await acknowledge(outbox, *places) == 3
        assert await acknowledge(outbox, *places) == 0
        assert await outbox.receipts() == {place: (7, 100 + index) for index, place in enumerate(places)}

    async def test_another_registration_s_receipts_of_the_same_events_are_written_and_each_event_is_delivered_once(
        self, outbox: Outbox
    ) -> None:
        places = await several(outbox, 2)
        assert await acknowledge(outbox, *places) == 2
        assert await acknowledge(outbox, *places, base=500, publisher=uuid4()) == 2
        found = await outbox.receipts()
        assert set(found) == set(places)
        assert len(set(found.values())) == 2

    async def test_failures_and_held_rows_go_with_their_receipts(self, outbox: Outbox) -> None:
        places = await several(outbox, 3)
        owner = await own_all(outbox)
        await fail(outbox, owner, places[0])
        await hold(outbox, owner, places[1])
        assert await outbox.settling.settle_recorded(receipts(*places), places[:2]) == 3
        assert (await outbox.failures(), await outbox.held()) == ({}, set())
        assert await outbox.settling.settle_recorded(receipts(*places), places[:2]) == 0

    async def test_only_recorded_events_that_are_named_are_cleared(self, outbox: Outbox) -> None:
        places = await several(outbox, 2)
        owner = await own_all(outbox)
        await hold(outbox, owner, *places)
        await outbox.settling.settle_recorded(receipts(places[0]), [places[0]])
        assert await outbox.held() == {places[1]}

    async def test_an_id_that_belongs_to_another_event_now_gets_no_receipt(self, outbox: Outbox) -> None:
        places = await several(outbox, 3)
        known = await event_ids(outbox)
        owner = await own_all(outbox)
        await hold(outbox, owner, *places[:2])
        await outbox.renumber(places[1])
        assert await outbox.settling.settle_checked(receipts(*places), known) == 2
        assert await outbox.receipts() == {places[0]: (7, 100), places[2]: (7, 102)}
        assert await outbox.held() == {places[1]}


class TestFences:
    async def test_nothing_is_held_unless_each_lane_is_owned_at_its_epoch(self, outbox: Outbox) -> None:
        place = await enqueue(outbox)
        owner = await own_all(outbox)
        stale = {**owner.epochs, LANE: owner.epochs[LANE] - 1}
        for replica, epochs in ((uuid4(), owner.epochs), (owner.replica, stale)):
            assert await outbox.settling.hold(replica, [at(place)], epochs) is None
        assert await outbox.held() == set()

    async def test_no_failure_is_written_by_anybody_but_the_owner(self, outbox: Outbox) -> None:
        place = await enqueue(outbox)
        owner = await own_all(outbox)
        await hold(outbox, owner, place)
        epoch = owner.epochs[LANE]
        for replica, claimed in ((uuid4(), epoch), (owner.replica, epoch - 1)):
            assert not await outbox.settling.fail(
                replica, [FailedEvent(at(place), failed(), REFUSED)], {place.lane: claimed}
            )
        assert (await outbox.failures(), await outbox.held()) == ({}, {place})

    async def test_of_several_failures_none_is_written_unless_each_lane_is_owned_at_its_epoch(
        self, outbox: Outbox
    ) -> None:
        places = [await enqueue(outbox), await enqueue(outbox, key=b"another")]
        assert places[0].lane != places[1].lane
        owner = await own_all(outbox)
        failures = [FailedEvent(at(place), failed(), REFUSED) for place in places]
        epochs = {place.lane: owner.epochs[place.lane] for place in places}
        stale = {**epochs, places[1].lane: epochs[places[1].lane] - 1}
        assert not await outbox.settling.fail(owner.replica, failures, stale)
        assert await outbox.failures() == {}
        assert await outbox.settling.fail(owner.replica, failures, epochs)
        assert (await outbox.failures()).keys() == set(places)


class TestFailures:
    async def test_held_events_are_counted_once(self, outbox: Outbox) -> None:
        places = await several(outbox, 2)
        owner = await own_all(outbox)
        held = [at(place) for place in places]
        assert await outbox.settling.hold(owner.replica, held[:1], owner.epochs) == 1
        assert await outbox.settling.hold(owner.replica, held, owner.epochs) == 1
        assert await outbox.held() == set(places)

    async def test_an_event_with_a_failure_is_not_held_as_well(self, outbox: Outbox) -> None:
        places = await several(outbox, 2)
        owner = await own_all(outbox)
        await fail(outbox, owner, places[0])
        held = [at(place) for place in places]
        assert await outbox.settling.hold(owner.replica, held, owner.epochs) == 1
        assert await outbox.held() == {places[1]}

    async def test_an_event_that_a_former_owner_says_late_is_in_kafka_is_neither_held_nor_failed(
        self, outbox: Outbox
    ) -> None:
        """Nobody else would look at its receipt any more: it was shown as failed, and a replay published it again."""
        places = await several(outbox, 3)
        owner = await own_all(outbox)
        former = receipts(*places[1:], publisher=uuid4())._replace(owned=[LANE])
        assert await outbox.settling.settle(former) == 2
        held = [at(place) for place in places]
        assert await outbox.settling.hold(owner.replica, held, owner.epochs) == 1
        for place in places[:2]:
            await fail(outbox, owner, place)
        assert await outbox.held() == set()
        assert (await outbox.failures()).keys() == {places[0]}

    async def test_one_that_had_failed_before_is_delivered_once_it_fails_again(self, outbox: Outbox) -> None:
        place = await enqueue(outbox)
        owner = await own_all(outbox)
        await fail(outbox, owner, place, retried())
        await outbox.settling.settle(receipts(place, publisher=uuid4())._replace(owned=[LANE]))
        await fail(outbox, owner, place)
        assert await outbox.failures() == {}

    async def test_a_failure_takes_the_place_of_the_held_row(self, outbox: Outbox) -> None:
        place = await enqueue(outbox)
        owner = await own_all(outbox)
        await hold(outbox, owner, place)
        await fail(outbox, owner, place)
        assert await outbox.held() == set()
        assert await outbox.failures() == {place: Failure("failed", 1, "MessageSizeTooLargeError")}

    async def test_several_failures_are_written_at_once_each_with_its_own_verdict(self, outbox: Outbox) -> None:
        places = await several(outbox, 3)
        owner = await own_all(outbox)
        await hold(outbox, owner, places[2])
        await fail(outbox, owner, places[0], retried(60.0))
        verdicts: list[Verdict] = [failed("skip"), retried(60.0), failed()]
        errors = [PublishError(FailureKind.EVENT, "no", name) for name in ("A", "B", "C")]
        failures = [
            FailedEvent(at(place), verdict, error)
            for place, verdict, error in zip(places, verdicts, errors, strict=True)
        ]
        assert await outbox.settling.fail(owner.replica, failures, {LANE: owner.epochs[LANE]})
        assert await outbox.held() == set()
        assert await outbox.failures() == {
            places[0]: Failure("failed", 1, "A"),
            places[1]: Failure("retrying", 1, "B"),
            places[2]: Failure("failed", 1, "C"),
        }

    async def test_a_verdict_decides_the_state_and_a_later_one_replaces_it(self, outbox: Outbox) -> None:
        place = await enqueue(outbox)
        owner = await own_all(outbox)
        await fail(outbox, owner, place, retried(60.0))
        assert (await outbox.failures())[place].state == "retrying"
        await fail(outbox, owner, place, failed())
        assert (await outbox.failures())[place].state == "failed"

    async def test_a_discarded_event_stays_discarded(self, outbox: Outbox) -> None:
        place = await enqueue(outbox)
        owner = await own_all(outbox)
        await fail(outbox, owner, place)
        await outbox.mark(place, "discarded")
        await fail(outbox, owner, place, retried())
        assert (await outbox.failures())[place].state == "discarded"

    async def test_keys_of_one_lane_fail_apart(self, outbox: Outbox) -> None:
        other = same_lane("k", 1)[0].encode()
        first, second = await enqueue(outbox), await enqueue(outbox, other)
        owner = await own_all(outbox)
        await fail(outbox, owner, second, key=other)
        blocked = await outbox.resuming.blocking([LANE])
        assert [(each.topic, each.key) for each in blocked] == [("orders", other)]
        assert first.lane == second.lane
