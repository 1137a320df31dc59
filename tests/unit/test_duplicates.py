"""Events that two registrations have published: which they are, and that each is found however slow PostgreSQL is."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, cast
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from relay.decide import duplicates as deciding
from relay.decide.duplicates import Looked, OthersReceipt, Parts, SeenLane, SeenReceipt, delivered_twice
from relay.decide.held_back import Closed
from relay.decide.lane_scan import LaneScan
from relay.decide.receipts import LEFT_OUT, SPAN, receipt_rows
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.errors import RelayError, StatementFailedError, StatementGivenUpError
from relay.stages.claim.duplicates import CLAIM_SECONDS, Duplicates
from relay.stages.claim.ports import ClaimedLane
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pytest

    from relay.decide.duplicates import Part
    from relay.stages.claim.ports import ClaimPort, LaneClaim

OURS, FORMER, ANOTHER = (UUID(int=number) for number in (1, 2, 3))
OPEN = OthersReceipt(1, FORMER, late=False, twice=[], open=1)


def receipt(
    replica: UUID, *ids: int, base: int = 0, partition: int = 0, late: bool = False, xid: int = 1, unseen: bool = False
) -> SeenReceipt:
    (row,) = receipt_rows(ids, base)
    return SeenReceipt(
        row.max_id, row.min_id, replica, late, xid, partition, row.base_offset, row.ids, [1] if unseen else []
    )


def late(*ids: int, base: int = 90, replica: UUID = FORMER, xid: int = 2) -> SeenReceipt:
    return receipt(replica, *ids, base=base, late=True, xid=xid, unseen=True)


def lane(*ids: int, number: int = 0, claim: int = 1, newest: int = 1000, position: int = 0) -> SeenLane:
    return SeenLane(number, claim, newest, position, ids)


class TestWhichAreDeliveredTwice:
    def test_those_with_a_receipt_of_ours_for_another_place(self) -> None:
        found = delivered_twice([lane(1, 2, 3)], [late(1, 3), receipt(OURS, 1, 2, 3)])
        assert found == [OthersReceipt(3, FORMER, late=True, twice=[1, 3], open=0)]

    def test_not_those_at_the_same_place(self) -> None:
        """A producer that Kafka tells it had the batch already."""
        assert delivered_twice([lane(1, 2)], [late(1, 2, base=5), receipt(OURS, 1, 2, base=5)])[0].twice == []

    def test_a_place_that_the_broker_did_not_say_is_another_one(self) -> None:
        assert delivered_twice([lane(1, 2)], [late(1, 2, base=-1), receipt(OURS, 1, 2, base=5)])[0].twice == [1, 2]
        assert delivered_twice([lane(1, 2)], [late(1, 2, base=-1), receipt(OURS, 1, 2, base=-1)])[0].twice == []

    def test_what_only_one_has_is_open_until_the_position_has_passed_it(self) -> None:
        (found,) = delivered_twice([lane(1, 2, 3, position=1)], [late(1, 2, 3), receipt(OURS, 3)])
        assert (found.twice, found.open) == ([3], 1)

    def test_of_two_late_ones_the_later_one_counts(self) -> None:
        former, another = late(1, xid=2), late(1, base=70, replica=ANOTHER, xid=3)
        assert [each.twice for each in delivered_twice([lane(1)], [former, another])] == [[], [1]]

    def test_a_late_one_does_not_count_against_one_that_is_not(self) -> None:
        other, found = late(1), receipt(ANOTHER, 1, base=70, unseen=True)
        assert [each.twice for each in delivered_twice([lane(1)], [other, found])] == [[1], []]

    def test_events_of_lanes_whose_claim_saw_the_receipt_are_not_ours_to_count(self) -> None:
        lanes = [lane(1, number=0), lane(2, number=1, claim=2)]
        assert delivered_twice(lanes, [late(1, 2), receipt(OURS, 1, 2)])[0].twice == [1]

    def test_nor_events_that_nobody_had_taken_then_nor_those_of_other_lanes_or_that_are_gone(self) -> None:
        (found,) = delivered_twice([lane(1, 2, newest=1)], [late(1, 2, 3), receipt(OURS, 1, 2, 3)])
        assert (found.twice, found.open) == ([1], 0)

    def test_a_place_that_was_left_out_has_its_number_and_no_event(self) -> None:
        ours = receipt(OURS, 1, LEFT_OUT, 2, base=88)
        (found,) = delivered_twice([lane(1, 2)], [late(1, 2, base=89), ours])
        assert found.twice == [1], "2 is at 90 in both"

    def test_a_receipt_that_somebody_has_cut_names_none(self) -> None:
        cut = receipt(OURS, 1, 2)._replace(ids=b"\0\0\0\0\0\0")
        (found,) = delivered_twice([lane(1, 2)], [late(1, 2), cut])
        assert (found.twice, found.open) == ([], 2)


class Stored(NamedTuple):
    """A receipt of others in the made-up table."""

    max_id: int
    replica: UUID
    places: int


stored = st.builds(Stored, st.integers(1, 3000), st.sampled_from([FORMER, ANOTHER]), st.integers(1, 448))
tables = st.lists(stored, unique_by=lambda each: each[:2], max_size=60)


def answer(table: Sequence[Stored], part: Part) -> list[Stored]:
    """What PostgreSQL answers: the first of them within the part's limits, one at least."""
    here = sorted(each for each in table if part.after < each[:2] and each.max_id <= part.up_to)[: part.receipts]
    found: list[Stored] = []
    for each in here:
        if found and (sum(other.places for other in found) >= part.places or each.max_id - here[0].max_id >= part.ids):
            break
        found.append(each)
    return found


def looked(table: Sequence[Stored], part: Part) -> Looked:
    found = answer(table, part)
    within = [each for each in table if part.after < each[:2] and each.max_id <= part.up_to]
    receipts = [OthersReceipt(each.max_id, each.replica, late=True, twice=[], open=1) for each in found]
    return Looked(receipts, len(found) < len(within) or len(found) == part.receipts)


@given(tables, st.integers(0, 100), st.lists(st.booleans(), max_size=40))
def test_a_round_goes_through_each_receipt_once_whatever_is_given_up(
    table: list[Stored], above: int, slow: list[bool]
) -> None:
    parts, met = Parts(), Counter[tuple[int, UUID]]()
    for _ in range(2):
        while True:
            part = parts.next(above, 3000)
            if slow and slow.pop():
                parts.given_up()
                continue
            result = looked(table, part)
            met.update((each.max_id, each.replica) for each in result.receipts)
            parts.looked_at(part, result, 3000, quickly=len(slow) % 2 == 0)
            if parts.between_rounds:
                break
    assert met == {each[:2]: 2 for each in table if each.max_id > above}


def test_a_part_gets_smaller_until_it_is_a_receipt_and_larger_when_that_goes_quickly() -> None:
    parts = Parts()
    assert parts.next(0, 1 << 40) == ((0, UUID(int=(1 << 128) - 1)), 1 << 19, 512, 4_096, 32_768)
    while parts.given_up():
        pass
    small = parts.next(0, 1 << 40)
    assert (small.up_to, small.receipts, small.places, small.ids) == (1024, 1, 8, 64)
    parts.looked_at(small, Looked([], more=False), 1 << 40, quickly=False)
    assert parts.next(0, 1 << 40).receipts == 1
    parts.looked_at(small, Looked([], more=False), 1 << 40, quickly=True)
    assert parts.next(0, 1 << 40).receipts == 2


class Clock:
    """Stands in the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Port:
    """PostgreSQL, as far as duplicates are concerned: `table` of others' receipts, each of one event of ours."""

    def __init__(self, table: Sequence[Stored] = ()) -> None:
        self.table = table
        self.most_receipts = 1 << 20
        """It takes too long to look at more."""
        self.error: RelayError | None = None
        self.met: list[tuple[int, UUID]] = []
        self.asked_lately: list[int] = []
        self.open = False

    async def others_receipts(
        self,
        replica: UUID,
        claims: Sequence[LaneClaim],
        lately: Sequence[LaneClaim],
        known: Collection[tuple[int, UUID]],
        part: Part,
    ) -> Looked:
        self.asked_lately.append(len(lately))
        if self.error is not None:
            raise self.error
        left = [each for each in self.table if each[:2] not in known]
        found = answer(left, part)
        if len(found) > self.most_receipts:
            raise StatementGivenUpError("too long")
        self.met += [each[:2] for each in found]
        receipts = [OthersReceipt(*each[:2], late=False, twice=[each.max_id], open=self.open) for each in found]
        return Looked(receipts, looked(left, part).more)


def looking(port: Port, newest: int = 3000) -> tuple[Duplicates, Telemetry]:
    """Of a replica that has just claimed a lane."""
    tenure, telemetry = Tenure(Room(10, 10_000)), Telemetry()
    snapshot = Snapshot.parse("10:10:")
    tenure.register(1, 0, time.monotonic() + 60)
    tenure.add_lane(LaneScan.take_over(0, 1, 0, 0, snapshot), Closed(set(), set()))
    found = Duplicates(cast("ClaimPort", port), tenure, telemetry)
    found.claimed([ClaimedLane(0, 1, 0, 0, snapshot, newest)])
    return found, telemetry


async def test_each_is_counted_though_postgres_gives_up_on_all_but_the_smallest_parts() -> None:
    """In 2 of 6 runs on a busy machine, the look was given up at each heartbeat, and nothing was ever counted."""
    port = Port([Stored(number, FORMER, 1) for number in range(1, 101)])
    port.most_receipts = 3
    duplicates, telemetry = looking(port)
    told: list[object] = []
    telemetry.listen("duplicates.uncounted", told.append)
    for _ in range(200):
        await duplicates.look()
    assert telemetry.value("duplicate_events_total") == 100
    assert len(port.met) == 100, "what was looked at is not looked at again"
    assert not told


async def test_that_even_the_smallest_part_is_given_up_is_told_once() -> None:
    port = Port()
    port.error = StatementGivenUpError("too long")
    duplicates, telemetry = looking(port)
    told: list[object] = []
    telemetry.listen("duplicates.uncounted", told.append)
    for _ in range(20):
        await duplicates.look()
    assert len(told) == 1
    port.error = StatementFailedError("no right")
    await duplicates.look()
    assert len(told) == 2


async def test_a_look_goes_on_where_the_last_one_ended_and_then_through_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "PART_RECEIPTS", 10)
    monkeypatch.setattr("relay.stages.claim.duplicates.LOOK_SECONDS", 0.0)
    port = Port([Stored(number, FORMER, 1) for number in range(1, 26)])
    port.open = True
    duplicates, telemetry = looking(port)
    await duplicates.look()
    assert port.met == [(number, FORMER) for number in range(1, 11)]
    monkeypatch.setattr("relay.stages.claim.duplicates.LOOK_SECONDS", 60.0)
    await duplicates.look()
    rest = [*range(11, 26), *range(1, 26)]
    assert port.met[10:] == [(number, FORMER) for number in rest]
    assert telemetry.value("duplicate_events_total") == 25


async def test_statements_from_before_a_claim_are_looked_for_until_a_round_after_their_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deciding, "PART_RECEIPTS", 10)
    monkeypatch.setattr("relay.stages.claim.duplicates.LOOK_SECONDS", 0.0)
    clock = Clock()
    monkeypatch.setattr("relay.stages.claim.duplicates.time", clock)
    port = Port([Stored(number, FORMER, 1) for number in range(1, 16)])
    duplicates, _ = looking(port)
    await duplicates.look()
    clock.now += CLAIM_SECONDS
    for _ in range(4):
        await duplicates.look()
    assert port.asked_lately == [1, 1, 1, 0, 0]


async def test_and_for_as_long_as_one_of_their_events_may_still_be_published_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("relay.stages.claim.duplicates.time", clock)
    port = Port([Stored(1, FORMER, 1)])
    port.open = True
    duplicates, _ = looking(port)
    clock.now += 2 * CLAIM_SECONDS
    for _ in range(3):
        await duplicates.look()
    port.open = False
    for _ in range(2):
        await duplicates.look()
    assert port.asked_lately == [1, 1, 1, 1, 0]


def test_ids_may_be_as_high_as_there_are() -> None:
    highest = 2**63 - 1 - SPAN
    assert Parts().next(highest - 10, highest).up_to == highest
