"""Which ids a tenure need not look at again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from relay.decide import passed_ids
from relay.decide.passed_ids import IDS, Gaps, PassedIds

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def passed(*ids: int) -> PassedIds:
    found = PassedIds()
    found.add(ids)
    return found


@given(ids=st.sets(st.integers(1, 400)), above=st.integers(0, 400), up_to=st.integers(0, 400), most=st.integers(1, 500))
def test_the_gaps_are_all_ids_that_are_not_there(ids: set[int], above: int, up_to: int, most: int) -> None:
    # Across the bound between two of what is kept together.
    base = IDS - 200
    gaps = passed(*[base + id_ for id_ in ids]).gaps(base + above, base + up_to, most)
    missing = [base + id_ for id_ in range(above + 1, up_to + 1) if id_ not in ids]
    assert gaps.ids == missing[:most]
    assert gaps.up_to == (missing[most] - 1 if len(missing) > most else base + up_to)


def test_where_nothing_was_added_everything_is_a_gap() -> None:
    assert PassedIds().gaps(5 * IDS, 5 * IDS + 3, 10) == Gaps([5 * IDS + 1, 5 * IDS + 2, 5 * IDS + 3], 5 * IDS + 3)


def test_no_more_are_kept_than_so_many_and_it_is_known_up_to_where_they_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passed_ids, "MOST_KEPT", 2)
    ids = passed(3, IDS + 3)
    assert ids.start == 0
    ids.add([2 * IDS + 3])
    assert ids.start == IDS - 1
    ids.add([5])
    assert ids.start == IDS - 1
    assert ids.gaps(IDS + 1, IDS + 4, 9) == Gaps([IDS + 2, IDS + 4], IDS + 4)


def test_sparse_ids_take_no_more_memory_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed_ids, "MOST_KEPT", 2)
    ids = PassedIds()

    def sparse() -> Iterator[int]:
        for number in range(100):
            yield number * IDS + 3
            assert len(ids._kept) <= 2 * passed_ids.MOST_KEPT + 1

    ids.add(sparse())
    assert len(ids._kept) == passed_ids.MOST_KEPT
    assert ids.start == 98 * IDS - 1
    assert 98 * IDS + 3 in ids
