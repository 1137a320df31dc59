"""What a sweep reads of receipts, taken apart once for all lanes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decide.receipted import ReceiptedIds
from relay.decide.receipts import LEFT_OUT, SPAN, receipt_rows

HEAD = struct.Struct(">qqI")


def read(*batches: list[int]) -> bytes:
    """The receipts of batches, as the statement returns them."""
    rows = [row for batch in batches for row in receipt_rows(batch, 0)]
    return b"".join(HEAD.pack(row.min_id, row.max_id, len(row.ids)) + row.ids for row in rows)


batch = st.lists(st.integers(1, 2 * SPAN), unique=True, min_size=1, max_size=40)


@given(st.lists(batch, max_size=8), st.lists(st.tuples(st.sets(st.integers(1, 2 * SPAN)), st.integers(0, 8))))
def test_what_is_named_is_what_the_receipts_name_that_were_read_so_far(
    batches: list[list[int]], sweeps: list[tuple[set[int], int]]
) -> None:
    receipted = ReceiptedIds()
    committed = 0
    for others, more in sweeps:
        committed = max(committed, more)
        settled = {id_ for each in batches[:committed] for id_ in each}
        ids = others | set(list(settled)[::3])
        assert receipted.named(ids, read(*batches[:committed])) == ids & settled


@given(st.integers(1, 2**63 - 1 - SPAN), st.integers(0, SPAN - 1))
def test_ids_may_be_as_high_as_there_are(lowest: int, distance: int) -> None:
    named = {lowest, lowest + distance}
    assert ReceiptedIds().named({lowest + 1, *named}, read([lowest, lowest + distance])) >= named


def test_a_place_that_is_left_out_names_nothing() -> None:
    receipts = read([LEFT_OUT, 10, LEFT_OUT, 12])
    assert ReceiptedIds().named({9, 10, 11, 12}, receipts) == {10, 12}


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_receipt_that_somebody_has_cut_names_nothing_and_the_next_one_does(cut: int) -> None:
    places = struct.pack(">3i", 0, 1, 2)[cut:]
    receipts = HEAD.pack(10, 12, len(places)) + places + read([20, 21])
    assert ReceiptedIds().named({10, 11, 12, 20, 21}, receipts) == {20, 21}


def test_places_outside_of_what_a_receipt_may_span_are_no_ids() -> None:
    places = struct.pack(">4i", 0, 1, -5, 2**31 - 1)
    assert ReceiptedIds().named({5, 10, 11}, HEAD.pack(10, 2**62, len(places)) + places) == {10, 11}


def test_what_was_not_asked_for_since_long_is_read_anew() -> None:
    receipted = ReceiptedIds()
    receipts = read([1, 2])
    assert receipted.named({1, 2, 3}, receipts) == {1, 2}
    for far in range(100):
        receipted.named({SPAN * far + SPAN}, b"")
    assert receipted.named({1, 2, 3}, b"") == set()
    assert receipted.named({1, 2, 3}, receipts) == {1, 2}
