"""What a replay is asked to do, how fast it goes, and how far a lane is with it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decide.republishing import BURST, Allowance, Progress, ReplayRequest
from relay.keys import key_bytes, key_text

NOW = datetime(2026, 5, 17, 3, 10, tzinfo=UTC)
FILTER: dict[str, Any] = {"topic": "orders", "since": "2026-05-17T01:00:00+00:00", "until": NOW.isoformat(), "key": "k"}
PROGRESS: dict[str, Any] = {"last_id": 90, "lanes": {str(lane): 90 if lane == 3 else 10 for lane in range(16)}}


def parsed(filter_: dict[str, Any], progress: dict[str, Any], requested_at: datetime = NOW) -> ReplayRequest:
    return ReplayRequest.parse(7, json.dumps(filter_), json.dumps(progress), requested_at)


def test_a_request_is_read_as_it_was_written() -> None:
    request = parsed(FILTER, PROGRESS)
    assert (request.action, request.topic, request.key, request.rate) == (7, "orders", b"k", 0)
    assert (request.since, request.until) == (NOW - timedelta(hours=2, minutes=10), NOW)
    assert request.open_lanes() == set(range(16)) - {3}


def test_a_request_for_another_topic_or_for_a_group_says_so_in_headers_and_names_its_own_topic_otherwise() -> None:
    """A program that knows of neither must not read it: it would publish the events to everybody again."""
    others = {name: value for name, value in FILTER.items() if name != "topic"} | {"from_topic": "orders"}
    plain = parsed(FILTER, PROGRESS)
    assert (plain.target, plain.headers) == ("orders", {"outbox-replay": "7"})
    moved = parsed({**others, "to_topic": "repair"}, PROGRESS)
    assert (moved.topic, moved.target) == ("orders", "repair")
    assert moved.headers == {"outbox-replay": "7", "outbox-replay-topic": "orders"}
    marked = parsed({**others, "group": "billing"}, PROGRESS)
    assert (marked.topic, marked.target) == ("orders", "orders")
    assert marked.headers == {"outbox-replay": "7", "outbox-replay-group": "billing"}


def test_what_is_delivered_after_the_request_is_never_meant() -> None:
    assert parsed({**FILTER, "until": "2999-01-01T00:00:00Z"}, PROGRESS).until == NOW


@pytest.mark.parametrize(
    ("filter_", "progress"),
    [
        ({"topic": None}, {}),
        ({"topic": None, "from_topic": "orders"}, {}),
        ({"to_topic": "repair"}, {}),
        ({"group": "billing"}, {}),
        ({"from_topic": "orders", "to_topic": "or?ers"}, {}),
        ({"from_topic": "orders", "to_topic": 7.5e9 * 10**240}, {}),
        ({"since": "yesterday"}, {}),
        ({"since": "2026-05-17T01:00:00"}, {}),
        ({"until": None}, {}),
        ({"key": "hex:zz"}, {}),
        ({"rate": "fast"}, {}),
        ({"rate": "inf"}, {}),
        ({"rate": "nan"}, {}),
        ({"rate": 10**400}, {}),
        ({"since": "0001-01-01T00:00:00+14:00"}, {}),
        ({"until": "9999-12-31T23:59:59-14:00"}, {}),
        ({}, {"last_id": 2**63}),
        ({}, {"last_id": -1}),
        ({}, {"last_id": "9"}),
        ({}, {"lanes": {"0": 1}}),
        ({}, {"lanes": [1]}),
        ({}, {"lanes": {str(lane): True for lane in range(16)}}),
    ],
)
def test_a_request_that_was_written_by_hand_and_cannot_be_read_is_told_from_a_bug(
    filter_: dict[str, Any], progress: dict[str, Any]
) -> None:
    broken = {name: value for name, value in {**FILTER, **filter_}.items() if value is not None}
    with pytest.raises(ValueError, match="not a replay of delivered events"):
        parsed(broken, {**PROGRESS, **progress})


@given(st.binary(max_size=40))
def test_keys_are_read_as_the_commands_write_them(key: bytes) -> None:
    assert key_bytes(key_text(key)) == key


@given(
    rate=st.floats(0.1, 5_000),
    share=st.floats(1 / 16, 1),
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_no_more_goes_than_the_rate_and_one_burst(rate: float, share: float, steps: list[float]) -> None:
    allowance = Allowance(rate, share)
    now = spent = 0.0
    for step in steps:
        now += step
        allowed = allowance.available(now)
        assert allowed is not None
        allowance.spend(allowed)
        spent += allowed
        assert spent <= rate * share * now + 1e-6
        assert allowed <= max(1.0, rate * share * BURST)


def test_an_event_may_go_after_the_delay() -> None:
    allowance = Allowance(2.0, 0.5)
    assert allowance.available(0.0) == 0
    assert allowance.available(allowance.delay() + 1e-6) == 1


def test_every_event_may_go_where_there_is_no_rate() -> None:
    assert Allowance(0.0).available(0.0) is None


def test_the_position_is_below_everything_that_is_under_way() -> None:
    progress = Progress(last_id=100, cursor=10)
    for id_ in (20, 30, 40):
        progress.began(id_, 1)
    progress.read_to(50)
    progress.settled([20, 40])
    assert progress.position == 29
    progress.settled([30])
    assert (progress.position, progress.done) == (50, False)
    progress.read_to(100)
    assert (progress.position, progress.done) == (100, True)


def test_what_came_back_is_read_again() -> None:
    progress = Progress(last_id=100, cursor=10)
    for id_ in (20, 30, 40):
        progress.began(id_, 5)
    progress.read_to(100)
    progress.returned(30)
    assert (progress.cursor, progress.position, progress.done, progress.bytes) == (29, 19, False, 10)
    progress.settled([20, 40])
    assert progress.position == 29


@given(st.lists(st.tuples(st.sampled_from(["began", "settled", "returned"]), st.integers(0, 30))))
def test_nothing_unsettled_is_ever_below_the_position(steps: list[tuple[str, int]]) -> None:
    """Against a model that settles or returns what is under way in any order."""
    progress = Progress(last_id=1_000, cursor=0)
    settled: set[int] = set()
    for what, number in steps:
        under_way = sorted(progress.under_way)
        if what == "began":
            # What a read from the cursor returns next.
            candidate = next(
                id_ for id_ in range(progress.cursor + 1, 1_000) if id_ not in settled and id_ not in under_way
            )
            progress.began(candidate, 1)
        elif under_way:
            id_ = under_way[number % len(under_way)]
            getattr(progress, what)([id_] if what == "settled" else id_)
            if what == "settled":
                settled.add(id_)
        assert set(range(1, progress.position + 1)) <= settled
