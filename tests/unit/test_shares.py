"""How many lanes each replica should own, and what it does about it."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from relay.decide.shares import GRAIN, ORPHAN_AFTER, LaneRow, LiveReplica, Plan, Sharing, fair_shares
from relay.keys import LANES

A, B, C = (UUID(int=number) for number in (1, 2, 3))
NOW = 1000.0


class TestFairShares:
    @given(st.integers(1, 40))
    def test_together_the_replicas_own_every_lane_once(self, replicas: int) -> None:
        shares = fair_shares(range(replicas), {}, LANES)
        assert sum(shares.values()) == LANES
        assert max(shares.values()) - min(shares.values()) <= 1

    def test_the_first_ones_own_one_more_when_it_does_not_divide_evenly(self) -> None:
        assert fair_shares("abc", {}, LANES) == {"a": 6, "b": 5, "c": 5}
        assert fair_shares("abcde", {}, LANES) == {"a": 4, "b": 3, "c": 3, "d": 3, "e": 3}

    def test_of_more_replicas_than_lanes_the_last_ones_own_none(self) -> None:
        shares = fair_shares(range(18), {}, LANES)
        assert [shares[replica] for replica in (0, 15, 16, 17)] == [1, 1, 0, 0]

    def test_nobody_owns_any_when_nobody_lives(self) -> None:
        assert fair_shares([], {"x": 3}, LANES) == {}

    def test_what_is_reserved_counts_towards_the_share(self) -> None:
        assert fair_shares("abc", {"c": 5}, LANES) == {"a": 6, "b": 5, "c": 5}
        assert fair_shares("abc", {"c": 10}, LANES) == {"a": 3, "b": 3, "c": 10}


def live(
    *replicas: UUID,
    draining: tuple[UUID, ...] = (),
    waiting: tuple[UUID, ...] = (),
    lease: float = 10.0,
    ends: float = 5e9,
) -> list[LiveReplica]:
    return [LiveReplica(each, lease, ends, each in draining, each in waiting) for each in replicas]


def rows(owners: dict[UUID, range | list[int]], **intents: dict[int, Any]) -> list[LaneRow]:
    """Every lane; those that nobody owns are free. `asked={3: True}` and so on say what people want."""
    found = []
    for lane in range(LANES):
        owner = next((owner for owner, lanes in owners.items() if lane in lanes), None)
        fields = {name: lanes[lane] for name, lanes in intents.items() if lane in lanes}
        found.append(LaneRow(lane, 7, owner, owner is None, **fields))
    return found


def claims(plan: Plan) -> list[int]:
    return [row.lane for row in plan.claim]


class TestPlans:
    def test_free_lanes_are_claimed_up_to_the_share(self) -> None:
        plan = Sharing(B).plan(live(A, B), rows({A: range(4)}), (), NOW)
        assert claims(plan) == list(range(4, 12))
        assert not plan.give_back

    def test_a_surplus_is_given_back_and_those_first_that_are_on_their_way_already(self) -> None:
        sharing = Sharing(A)
        assert sharing.plan(live(A, B), rows({A: range(16)}), (), NOW).give_back == frozenset(range(8, 16))
        assert sharing.plan(live(A, B), rows({A: range(10)}), {1}, NOW).give_back == {1, 9}

    def test_who_drains_has_no_share_and_the_others_count_its_lanes_as_theirs(self) -> None:
        replicas = live(A, B, C, draining=(A,))
        lanes = rows({A: range(6), B: range(6, 11), C: range(11, 14)})
        assert claims(Sharing(B).plan(replicas, lanes, (), NOW)) == [14, 15]
        assert claims(Sharing(C).plan(replicas, lanes, (), NOW)) == [14, 15]
        leaving = Sharing(A).plan(replicas, lanes, (), NOW)
        assert (claims(leaving), leaving.give_back) == ([], frozenset(range(6)))

    def test_the_next_look_comes_when_the_lease_of_another_ends(self) -> None:
        replicas = [*live(A, lease=1.0), *live(B, lease=4.0), *live(C, lease=9.0)]
        lanes = rows({A: range(6), B: range(6, 11), C: range(11, 16)})
        assert Sharing(A).plan(replicas, lanes, (), NOW).look_in == 4.0 + GRAIN
        assert Sharing(A).plan(live(A), rows({A: range(16)}), (), NOW).look_in == float("inf")


class TestWaiting:
    """A replica that has never reached Kafka."""

    def test_it_takes_no_lane_from_one_that_can_publish(self) -> None:
        replicas, lanes = live(A, B, waiting=(B,)), rows({A: range(16)})
        working = Sharing(A).plan(replicas, lanes, (), NOW)
        assert (claims(working), working.give_back) == ([], frozenset())
        assert claims(Sharing(B).plan(replicas, lanes, (), NOW)) == []

    def test_it_does_not_claim_what_is_free_for_long_either(self) -> None:
        sharing = Sharing(B)
        for later in (0.0, ORPHAN_AFTER, 60.0):
            assert claims(sharing.plan(live(A, B, waiting=(B,)), rows({}), (), NOW + later)) == []

    def test_it_has_its_share_when_it_can_publish(self) -> None:
        assert Sharing(A).plan(live(A, B), rows({A: range(16)}), (), NOW).give_back == frozenset(range(8, 16))

    def test_alone_it_owns_every_lane_and_several_share_them(self) -> None:
        assert claims(Sharing(A).plan(live(A, waiting=(A,)), rows({}), (), NOW)) == list(range(16))
        both = live(A, B, waiting=(A, B))
        assert claims(Sharing(B).plan(both, rows({A: range(8)}), (), NOW)) == list(range(8, 16))
        assert not Sharing(A).plan(both, rows({A: range(8), B: range(8, 16)}), (), NOW).cede

    def test_it_cedes_what_it_owns_once_another_can_publish(self) -> None:
        replicas, lanes = live(A, B, waiting=(A,)), rows({A: range(16)})
        plan = Sharing(A).plan(replicas, lanes, (), NOW)
        assert (claims(plan), plan.give_back, plan.cede) == ([], frozenset(range(16)), True)
        assert claims(Sharing(B).plan(replicas, rows({}), (), NOW)) == list(range(16))

    def test_one_that_stops_cedes_nothing_but_gives_back_what_is_settled(self) -> None:
        plan = Sharing(A).plan(live(A, B, draining=(A,)), rows({A: range(16)}), (), NOW)
        assert (plan.give_back, plan.cede) == (frozenset(range(16)), False)

    def test_those_who_stop_are_no_reason_to_wait(self) -> None:
        replicas = live(A, B, draining=(A,), waiting=(B,))
        assert claims(Sharing(B).plan(replicas, rows({A: range(6)}), (), NOW)) == list(range(6, 16))

    def test_it_looks_when_the_lease_of_those_who_can_publish_ends(self) -> None:
        replicas = [*live(A, lease=4.0), *live(B, waiting=(B,))]
        assert Sharing(B).plan(replicas, rows({A: range(16)}), (), NOW).look_in == 4.0 + GRAIN

    def test_a_lane_that_was_moved_to_it_stays_where_it_is(self) -> None:
        moved = {"reserved_for": {0: B}}
        replicas = live(A, B, waiting=(B,))
        assert not Sharing(A).plan(replicas, rows({A: range(16)}, **moved), (), NOW).give_back

    @given(st.lists(st.sampled_from(["can publish", "waiting", "draining"]), min_size=1, max_size=6), st.data())
    def test_whoever_owns_what_in_the_end_the_lanes_are_evenly_with_those_who_can_publish(
        self, kinds: list[str], data: st.DataObject
    ) -> None:
        """Played until nobody has anything to do: with those who can publish, or with all who stay if none can."""
        ids = [UUID(int=number) for number in range(1, len(kinds) + 1)]
        waiting = tuple(each for each, kind in zip(ids, kinds, strict=True) if kind == "waiting")
        draining = tuple(each for each, kind in zip(ids, kinds, strict=True) if kind == "draining")
        replicas = live(*ids, waiting=waiting, draining=draining)
        owners = {lane: data.draw(st.sampled_from([None, *ids])) for lane in range(LANES)}
        sharings = {each: Sharing(each) for each in ids}
        for round_ in range(4 * len(ids)):
            for each, sharing in sharings.items():
                lanes = [LaneRow(lane, 7, owner, owner is None) for lane, owner in owners.items()]
                plan = sharing.plan(replicas, lanes, (), NOW + round_ / 100)
                owners |= dict.fromkeys(plan.give_back) | {row.lane: each for row in plan.claim}
        staying = [each for each in ids if each not in draining]
        takers = [each for each in staying if each not in waiting] or staying
        shares = fair_shares(takers, {}, LANES)
        assert Counter(owner for owner in owners.values() if owner) == Counter(shares)


class TestOrphans:
    def test_a_lane_that_stays_free_is_claimed_whoever_has_the_share(self) -> None:
        """B was killed right after it came, or is paused: A's lanes that were meant for it must not wait for its
        lease to end."""
        sharing = Sharing(A)
        lanes = rows({A: range(8)})
        plan = sharing.plan(live(A, B), lanes, (), NOW)
        assert (claims(plan), plan.look_in) == ([], ORPHAN_AFTER + GRAIN)
        assert claims(sharing.plan(live(A, B), lanes, (), NOW + ORPHAN_AFTER - 0.01)) == []
        assert claims(sharing.plan(live(A, B), lanes, (), NOW + ORPHAN_AFTER)) == list(range(8, 16))

    def test_it_counts_from_when_the_lane_became_free_and_not_from_an_earlier_time(self) -> None:
        sharing = Sharing(A)
        sharing.plan(live(A, B), rows({A: range(8)}), (), NOW)
        sharing.plan(live(A, B), rows({A: range(8), B: range(8, 16)}), (), NOW + 0.1)
        plan = sharing.plan(live(A, B), rows({A: range(8)}), (), NOW + ORPHAN_AFTER)
        assert claims(plan) == []

    def test_it_is_given_back_once_the_silent_replica_beats_again_and_not_before(self) -> None:
        sharing = Sharing(A)
        for later in (0.0, ORPHAN_AFTER):
            sharing.plan(live(A, B), rows({A: range(8)}), (), NOW + later)
        taken = rows({A: range(16)})
        assert not sharing.plan(live(A, B), taken, (), NOW + 1).give_back
        assert sharing.plan(live(A, B, ends=6e9), taken, (), NOW + 2).give_back == frozenset(range(8, 16))

    def test_a_silent_replica_that_is_gone_holds_nothing_up(self) -> None:
        sharing = Sharing(A)
        for later in (0.0, ORPHAN_AFTER):
            sharing.plan(live(A, B), rows({A: range(8)}), (), NOW + later)
        assert sharing.plan(live(A, C), rows({A: range(16)}), (), NOW + 1).give_back == frozenset(range(8, 16))

    def test_a_lane_that_was_moved_to_a_paused_replica_stays_with_who_claimed_it_as_an_orphan(self) -> None:
        """The target has its share, and is silent all the same: the lane went back and forth."""
        sharing = Sharing(A)
        moved = {"reserved_for": {0: B}}
        free = rows({A: range(1, 8), B: range(8, 16)}, **moved)
        assert claims(sharing.plan(live(A, B), free, (), NOW)) == []
        assert claims(sharing.plan(live(A, B), free, (), NOW + ORPHAN_AFTER)) == [0]
        taken = rows({A: range(8), B: range(8, 16)}, **moved)
        assert not sharing.plan(live(A, B), taken, (), NOW + 1).give_back
        assert sharing.plan(live(A, B, ends=6e9), taken, (), NOW + 2).give_back == {0}

    def test_other_orphans_do_not_make_it_forget_who_is_silent(self) -> None:
        sharing = Sharing(A)
        moved = {"reserved_for": {0: B}}
        for later in (0.0, ORPHAN_AFTER):
            sharing.plan(
                live(A, B, C), rows({A: range(1, 6), B: range(6, 11), C: range(11, 16)}, **moved), (), NOW + later
            )
        orphaned = rows({A: range(6), B: range(6, 11), C: range(11, 15)}, **moved)
        for later in (1.0, 1.0 + ORPHAN_AFTER):
            plan = sharing.plan(live(A, B, C), orphaned, (), NOW + later)
            assert not plan.give_back
        assert claims(plan) == [15]

    def test_who_drains_does_not_look_for_orphans_again_and_again(self) -> None:
        """It claims nothing: the time since when a lane is free stood still, and the next look was always due."""
        sharing = Sharing(A)
        lanes = rows({A: range(8)})
        sharing.plan(live(A, B), lanes, (), NOW)
        plan = sharing.plan(live(A, B, draining=(A,)), lanes, (), NOW + 1)
        assert (claims(plan), plan.look_in) == ([], 10.0 + GRAIN)

    def test_a_parked_lane_is_no_orphan(self) -> None:
        sharing = Sharing(A)
        lanes = rows({A: range(15)}, parked={15: True}, intent_seconds={15: 60.0})
        for later in (0.0, ORPHAN_AFTER, 10.0):
            plan = sharing.plan(live(A), lanes, (), NOW + later)
            assert (claims(plan), plan.look_in) == ([], 60.0 + GRAIN)


class TestIntents:
    def test_a_lane_that_was_moved_goes_to_its_target_and_another_one_back(self) -> None:
        moved = rows({A: range(8), B: range(8, 16)}, reserved_for={0: B}, intent_seconds={0: 60.0})
        assert Sharing(A).plan(live(A, B), moved, (), NOW).give_back == {0}
        # B has nine as soon as it has claimed it, and gives back one that was not moved.
        now_free = rows({A: range(1, 8), B: range(8, 16)}, reserved_for={0: B})
        assert claims(Sharing(A).plan(live(A, B), now_free, (), NOW)) == []
        assert claims(Sharing(B).plan(live(A, B), now_free, (), NOW)) == [0]
        arrived = rows({A: range(1, 8), B: [0, *range(8, 16)]}, reserved_for={0: B})
        assert Sharing(B).plan(live(A, B), arrived, (), NOW).give_back == {15}

    def test_more_than_the_share_stay_where_they_were_moved_to(self) -> None:
        lanes = rows({A: range(4), B: range(4, 16)}, reserved_for=dict.fromkeys(range(4, 16), B))
        assert not Sharing(B).plan(live(A, B), lanes, (), NOW).give_back
        assert claims(Sharing(A).plan(live(A, B), lanes, (), NOW)) == []

    def test_a_move_to_a_replica_that_is_gone_counts_for_nothing(self) -> None:
        lanes = rows({A: range(16)}, reserved_for={0: C})
        assert not Sharing(A).plan(live(A), lanes, (), NOW).give_back
        assert claims(Sharing(A).plan(live(A), rows({A: range(1, 16)}, reserved_for={0: C}), (), NOW)) == [0]

    def test_a_parked_lane_is_given_back_and_claimed_by_nobody(self) -> None:
        assert Sharing(A).plan(live(A), rows({A: range(16)}, parked={3: True}), (), NOW).give_back == {3}
        assert claims(Sharing(A).plan(live(A), rows({}, parked={3: True}), (), NOW)) == [0, 1, 2, *range(4, 16)]

    def test_a_lane_that_was_asked_back_once_may_be_claimed_again_at_once(self) -> None:
        assert Sharing(A).plan(live(A), rows({A: range(16)}, asked={3: True}), (), NOW).give_back == {3}
        free = rows({A: [lane for lane in range(16) if lane != 3]}, asked={3: True})
        assert claims(Sharing(A).plan(live(A), free, (), NOW)) == [3]

    def test_what_people_ask_for_is_done_while_another_replica_is_silent_too(self) -> None:
        sharing = Sharing(A)
        for later in (0.0, ORPHAN_AFTER):
            sharing.plan(live(A, B), rows({A: range(8)}), (), NOW + later)
        plan = sharing.plan(live(A, B), rows({A: range(16)}, asked={3: True}, reserved_for={4: B}), (), NOW + 1)
        assert plan.give_back == {3}
