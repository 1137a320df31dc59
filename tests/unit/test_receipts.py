"""The rows in which receipts are stored."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decide.receipts import LEFT_OUT, MOST_PLACES, SPAN, receipt_rows


def read(ids: list[int], base: int) -> dict[int, int]:
    """The offset of each id, read from the rows as SQL does."""
    found: dict[int, int] = {}
    for row in receipt_rows(ids, base):
        places = struct.unpack(f">{len(row.ids) // 4}i", row.ids)
        named = [row.min_id + place for place in places if place >= 0]
        assert (min(named), max(named)) == (row.min_id, row.max_id)
        assert row.max_id - row.min_id < SPAN
        assert 0 < len(places) <= MOST_PLACES
        for index, place in enumerate(places):
            assert LEFT_OUT <= place < SPAN
            if place >= 0:
                assert row.min_id + place not in found
                found[row.min_id + place] = row.base_offset + index if row.base_offset >= 0 else -1
    return found


near = st.integers(1, 3 * SPAN)
anywhere = st.integers(1, 2**63 - 1)


@given(
    st.lists(st.one_of(near, anywhere), unique=True, max_size=3 * MOST_PLACES),
    st.sets(st.integers(0, 3 * MOST_PLACES)),
    st.sampled_from([0, 7, 2**40]),
)
def test_rows_say_the_offset_of_every_id_but_those_left_out(ids: list[int], left_out: set[int], base: int) -> None:
    told = [LEFT_OUT if index in left_out else id_ for index, id_ in enumerate(ids)]
    expected = {id_: base + index for index, id_ in enumerate(ids) if index not in left_out}
    assert read(told, base) == expected
    assert read(told, -1) == dict.fromkeys(expected, -1)


@given(st.integers(1, 2**63 - SPAN), st.integers(1, MOST_PLACES))
def test_a_batch_whose_ids_lie_near_each_other_is_one_row(first: int, events: int) -> None:
    (row,) = receipt_rows(range(first, first + events), 5)
    assert (row.min_id, row.max_id, row.base_offset, len(row.ids)) == (first, first + events - 1, 5, 4 * events)


def test_an_old_event_among_new_ones_is_in_a_row_of_its_own() -> None:
    rows = list(receipt_rows([SPAN + 10, SPAN + 11, 10, SPAN + 12], 100))
    assert [(row.max_id, row.base_offset) for row in rows] == [(SPAN + 11, 100), (10, 102), (SPAN + 12, 103)]


def test_the_widest_row_there_is() -> None:
    assert len(list(receipt_rows([1, SPAN], 0))) == 1
    assert len(list(receipt_rows([1, SPAN + 1], 0))) == 2


@pytest.mark.parametrize("ids", [[], [LEFT_OUT], [LEFT_OUT] * (MOST_PLACES + 1)])
def test_where_no_id_is_left_there_is_no_row(ids: list[int]) -> None:
    assert list(receipt_rows(ids, 0)) == []
