"""The demo's checker: it must notice whatever a relay could do wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.demo.check import Checker, Findings

if TYPE_CHECKING:
    import random


def found(arrivals: list[tuple[int, int]], committed: dict[int, int]) -> Findings:
    """Findings after these (order, version) arrived."""
    checker = Checker()
    for order, version in arrivals:
        checker.arrived(order, version)
    return checker.findings(committed)


def test_all_events_in_order_are_fine_however_the_orders_mix() -> None:
    findings = found([(1, 1), (2, 1), (1, 2), (3, 1), (2, 2), (1, 3)], {1: 3, 2: 2, 3: 1, 4: 0})
    assert findings == Findings(committed=6, delivered=6, lost=0, out_of_order=0, duplicates=0, uncommitted=0)
    assert findings.ok


@pytest.mark.parametrize(
    ("arrivals", "committed", "lost"),
    [
        ([(1, 1), (1, 3)], {1: 3}, 1),  # in the middle
        ([(1, 1), (1, 2)], {1: 4}, 2),  # at the end
        ([(1, 2)], {1: 2}, 1),  # at the beginning
        ([(1, 1)], {1: 1, 2: 5}, 5),  # all of an order
    ],
)
def test_a_lost_event_is_noticed(arrivals: list[tuple[int, int]], committed: dict[int, int], lost: int) -> None:
    findings = found(arrivals, committed)
    assert (findings.lost, findings.out_of_order) == (lost, 0)
    assert findings.delivered + findings.lost == findings.committed
    assert not findings.ok


def test_an_event_that_arrives_after_a_later_one_of_its_order_is_out_of_order_and_not_lost() -> None:
    findings = found([(1, 1), (1, 3), (2, 1), (1, 2)], {1: 3, 2: 1})
    assert (findings.out_of_order, findings.lost, findings.delivered) == (1, 0, 4)
    assert not findings.ok


def test_events_that_arrive_again_are_duplicates_and_allowed() -> None:
    # As after a kill -9 of a relay: what was in flight comes again, in order.
    findings = found([(1, 1), (1, 2), (1, 3), (1, 2), (1, 3), (1, 4)], {1: 4})
    assert (findings.duplicates, findings.out_of_order, findings.delivered) == (2, 0, 4)
    assert findings.ok


def test_a_late_event_that_arrives_twice_is_out_of_order_once_and_a_duplicate_once() -> None:
    findings = found([(1, 2), (1, 1), (1, 1)], {1: 2})
    assert (findings.out_of_order, findings.duplicates, findings.lost) == (1, 1, 0)


def test_an_event_of_a_rolled_back_transaction_is_noticed() -> None:
    checker = Checker()
    assert checker.arrived(1, 1)
    assert not checker.arrived(1, 2, rolled_back=True)
    assert checker.arrived(1, 2)
    findings = checker.findings({1: 2})
    assert (findings.uncommitted, findings.delivered, findings.duplicates) == (1, 2, 0)
    assert not findings.ok


def test_an_event_of_a_commit_that_the_database_does_not_have_is_noticed() -> None:
    findings = found([(1, 1), (1, 2)], {1: 1})
    assert (findings.uncommitted, findings.lost) == (1, 0)
    assert not findings.ok


def test_nothing_committed_is_no_success() -> None:
    assert not found([], {1: 0}).ok


@given(st.dictionaries(st.integers(1, 5), st.integers(0, 8)), st.randoms(use_true_random=False))
def test_counts_agree_with_a_plain_count_of_what_was_lost_and_repeated(
    committed: dict[int, int], chance: random.Random
) -> None:
    events = [(order, version) for order, newest in committed.items() for version in range(1, newest + 1)]
    arrivals = [event for event in events for _ in range(chance.choice((0, 1, 1, 2)))]
    chance.shuffle(arrivals)

    findings = found(arrivals, committed)

    firsts = list(dict.fromkeys(arrivals))
    late = [
        (order, version)
        for place, (order, version) in enumerate(firsts)
        if any(other == order and newer > version for other, newer in firsts[:place])
    ]
    assert findings == Findings(
        committed=len(events),
        delivered=len(firsts),
        lost=len(events) - len(firsts),
        out_of_order=len(late),
        duplicates=len(arrivals) - len(firsts),
        uncommitted=0,
    )
