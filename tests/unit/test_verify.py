"""What `relay verify` remembers and decides, against simpler ways to do the same."""

from __future__ import annotations

import struct
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from relay.admin.verification import Verified
from relay.admin.verification_metrics import metrics_of
from relay.cli.verify import WORDS
from relay.decide.verify.examine import Examiner, LaterKeys, Wanted
from relay.decide.verify.findings import KINDS, MAX_EXAMPLES, NOTES, Findings
from relay.decide.verify.ids import IdSet, ranges
from relay.decide.verify.order import UNKNOWN, KeyOrder
from relay.decide.verify.places import UNKNOWN_PLACE, Places, ReceiptRow, partition_and_offset, place_of
from tests.support.documents import page

if TYPE_CHECKING:
    from collections.abc import Sequence

IDS = st.integers(1, 2**63 - 1) | st.integers(65_530, 65_545)


@given(st.lists(IDS), st.lists(IDS))
def test_a_set_of_ids_has_what_was_added_and_nothing_else(added: list[int], others: list[int]) -> None:
    ids, known = IdSet(), set[int]()
    for id_ in added:
        assert ids.add(id_) == (id_ not in known)
        known.add(id_)
    for id_ in (*added, *others):
        assert (id_ in ids) == (id_ in known)


@given(st.sets(st.integers(1, 300)), st.integers(1, 20))
def test_ranges_have_all_ids_and_no_gap(ids: set[int], gap: int) -> None:
    found = ranges(sorted(ids), gap)
    covered = [id_ for above, up_to in found for id_ in range(above + 1, up_to + 1)]
    assert ids <= set(covered)
    assert len(covered) == len(set(covered))
    for (_, up_to), (above, _) in pairwise(found):
        assert above + 1 - up_to > gap


def row(partition: int, offset: int, ids: Sequence[int | None]) -> ReceiptRow:
    """A receipt of these ids, None for one that is left out."""
    known = [id_ for id_ in ids if id_ is not None]
    data = b"".join(struct.pack(">i", -1 if id_ is None else id_ - min(known)) for id_ in ids)
    return ReceiptRow(max(known), min(known), offset, partition, data)


RECEIPTS = st.builds(
    row,
    st.integers(0, 3),
    st.integers(-1, 2**40),
    st.lists(st.none() | st.integers(1, 30), min_size=1, max_size=10).filter(any),
)


@given(st.lists(RECEIPTS, max_size=8))
def test_places_are_those_that_receipts_name(rows: list[ReceiptRow]) -> None:
    expected = defaultdict(set)
    for each in rows:
        for number, (difference,) in enumerate(struct.iter_unpack(">i", each.ids)):
            if difference >= 0:
                offset = each.base_offset + number
                known = each.base_offset >= 0
                place = place_of(each.kafka_partition, offset) if known else UNKNOWN_PLACE
                expected[each.min_id + difference].add(place)
    places = Places(rows)
    for id_ in range(40):
        assert places.all_of(id_) == expected.get(id_, set())
        assert (id_ in places) == (id_ in expected)
        assert places.of(id_) in expected.get(id_, {None})


def test_a_receipt_that_somebody_has_cut_names_no_event() -> None:
    assert 5 not in Places([ReceiptRow(5, 5, 0, 0, b"\0\0\0")])


@given(st.integers(0, 10_000), st.integers(0, 2**47))
def test_a_place_is_a_partition_and_an_offset(partition: int, offset: int) -> None:
    assert partition_and_offset(place_of(partition, offset)) == (partition, offset)


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([b"a", b"b", b"c", b"d"]), st.integers(1, 50))))
def test_an_event_behind_a_later_one_of_its_key_is_seen_unless_the_key_was_forgotten(
    events: list[tuple[int, bytes, int]],
) -> None:
    patient, forgetful = KeyOrder(), KeyOrder(2)
    highest: dict[tuple[int, bytes], int] = {}
    for partition, key, id_ in events:
        before = highest.get((partition, key), 0)
        late = before if before > id_ else 0
        assert patient.passed_by(partition, key, id_) == late
        assert forgetful.passed_by(partition, key, id_) in ((late, UNKNOWN) if late else (0, UNKNOWN))
        highest[partition, key] = max(before, id_)


def test_keys_that_come_again_and_again_are_not_forgotten() -> None:
    order = KeyOrder(10)
    for id_ in range(1, 1_000):
        assert order.passed_by(0, b"often", 2 * id_) == 0
        assert order.passed_by(0, b"%d" % id_, 2 * id_ + 1) == 0
    assert order.passed_by(0, b"often", 7) == 1_998
    assert order.passed_by(0, b"1", 2) == UNKNOWN


def test_later_keys_are_those_that_were_told() -> None:
    later = LaterKeys()
    for number in range(1_000):
        later.add(number % 3, b"%d" % number)
    assert all((number % 3, b"%d" % number) in later for number in range(1_000))
    assert not any((number % 3, b"%d" % number) in later for number in range(1_000, 6_000))


def test_an_event_that_two_owners_published_is_in_place_at_either_place() -> None:
    places = Places([row(0, 5, [1]), row(1, 9, [1])])
    examiner = Examiner()
    events = {1: (1, b"uuid", b"k", b"x", False)}
    for partition, offset in ((0, 5), (1, 9)):
        seen = [(offset, 1, b"uuid", False, b"k", b"x")]
        examiner.judge(partition, seen, events, places, pruned=lambda _: False, start=0)
    assert not examiner.missing([Wanted(1, b"k", tombstone=False)], places)
    assert examiner.found.counts == {"in_place": 1, "repeated": 1}


def test_a_repeat_of_what_lies_before_the_part_that_is_read_is_a_repeat() -> None:
    examiner = Examiner()
    events = {1: (1, b"uuid", b"k", b"x", False)}
    seen = [(50, 1, b"uuid", False, b"k", b"x")]
    examiner.judge(2, seen, events, Places([row(2, 5, [1])]), pruned=lambda _: False, start=40)
    assert examiner.found.counts == {"repeated": 1}


def test_findings_keep_some_examples_and_count_all() -> None:
    found = Findings()
    for number in range(100):
        found.find("lost", "gone", id_=number)
    assert len(found.examples) == MAX_EXAMPLES
    assert found.number(frozenset()) == 100
    assert found.number(frozenset({"lost"})) == 0


def test_every_kind_is_explained_to_people_and_is_a_metric() -> None:
    assert set(WORDS) == {*KINDS, *NOTES}
    chapter = page("deploy/EVENTS.md")
    text = metrics_of([Verified("orders", 1, Findings(), 1.0, [])], 0.0)
    for kind in (*KINDS, *NOTES):
        assert f"| `{kind}` |" in chapter
        assert f'{{topic="orders",kind="{kind}"}} 0' in text
