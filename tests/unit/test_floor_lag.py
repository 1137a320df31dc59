"""How far the scan's certainty is behind: none while it keeps up, and growing while a transaction holds it."""

from __future__ import annotations

from relay.decide.floor_lag import STALE, FloorLag, Lag, lowest_floor
from relay.decide.ladder import Ladder
from relay.decide.snapshot import Snapshot


def test_the_lowest_floor_is_that_of_the_transaction_that_may_have_the_lowest_id() -> None:
    ladder = Ladder()
    assert lowest_floor(ladder, Snapshot(10, 10, frozenset())) == 0
    ladder.add(9, 100)
    ladder.add(19, 500)
    assert lowest_floor(ladder, Snapshot(20, 20, frozenset())) == 500
    assert lowest_floor(ladder, Snapshot(12, 20, frozenset({12}))) == 100
    ladder.raise_floor(12, 480)
    assert lowest_floor(ladder, Snapshot(12, 20, frozenset({12}))) == 480


def test_the_lag_lasts_from_when_an_id_was_the_newest_until_the_floor_reaches_it() -> None:
    lag = FloorLag()
    assert lag.note(100, 100, 1.0, looked_at=1.0) == Lag(0, 0.0)
    # A statement behind: what was the newest before is reached.
    assert lag.note(100, 150, 2.0, looked_at=2.0) == Lag(50, 0.0)
    assert lag.note(150, 200, 3.0, looked_at=3.0) == Lag(50, 0.0)
    # It stays: the goal is 200, which was the newest at 3.
    assert lag.note(150, 300, 5.0, looked_at=5.0) == Lag(150, 2.0)
    assert lag.note(150, 900, 63.0, looked_at=63.0) == Lag(750, 60.0)
    assert lag.note(900, 900, 64.0, looked_at=64.0) == Lag(0, 0.0)
    # A quiet outbox, however long.
    assert lag.note(900, 900, 9_999.0, looked_at=9_999.0) == Lag(0, 0.0)


def test_a_replica_that_does_not_look_has_no_lag_and_begins_anew_when_it_looks_again() -> None:
    lag = FloorLag()
    assert lag.note(100, 150, 1.0, looked_at=1.0) == Lag(50, 0.0)
    assert lag.note(100, 900, 1.0 + STALE, looked_at=1.0) == Lag(800, STALE)
    # Without lanes, or without room while Kafka is away, it hears of new ids by its heartbeats alone.
    assert lag.note(100, 9_000, 1.5 + STALE, looked_at=1.0) == Lag(0, 0.0)
    assert lag.note(100, 9_000, 600.0, looked_at=600.0) == Lag(8_900, 0.0)
    assert lag.note(100, 9_500, 605.0, looked_at=605.0) == Lag(9_400, 5.0)
