"""How many lanes each replica should own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.decide.shares import LANES, fair_share


@given(st.integers(1, 40))
def test_together_the_replicas_own_every_lane_once(replicas: int) -> None:
    live = list(range(replicas))
    shares = [fair_share(replica, live) for replica in live]
    assert sum(shares) == LANES
    assert max(shares) - min(shares) <= 1


def test_the_first_ones_own_one_more_when_it_does_not_divide_evenly() -> None:
    assert [fair_share(replica, "abc") for replica in "abc"] == [6, 5, 5]
    assert [fair_share(replica, "abcde") for replica in "abcde"] == [4, 3, 3, 3, 3]


def test_of_more_replicas_than_lanes_the_last_ones_own_none() -> None:
    live = list(range(18))
    assert [fair_share(replica, live) for replica in (0, 15, 16, 17)] == [1, 1, 0, 0]


def test_a_replica_whose_lease_has_run_out_owns_none() -> None:
    assert fair_share("x", "abc") == 0
    assert fair_share("x", []) == 0
