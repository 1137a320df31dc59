"""What is closed in a lane, and when it opens again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.held_back import Closed
from tests.support import events

if TYPE_CHECKING:
    from relay.event import PendingEvent


def event(id_: int, key: bytes | None = b"k", topic: str = "t") -> PendingEvent:
    return events.event(id_, key=key, topic=topic)


def test_a_closed_key_holds_back_its_own_events_only() -> None:
    closed = Closed(keys=[("t", b"k")])
    a, b, c, d = event(1), event(2, b"other"), event(3, topic="other"), event(4, None)
    assert closed.divide([a, b, c, d]) == ([b, c, d], [a])


def test_a_closed_topic_holds_back_events_without_a_key_too() -> None:
    closed = Closed(topics=["t"])
    a, b = event(1, None), event(2, topic="other")
    assert closed.divide([a, b]) == ([b], [a])


def test_a_pass_opens_what_was_not_blocked_when_it_began() -> None:
    closed = Closed(topics=["gone"], keys=[("t", b"k"), ("t", b"blocked")])
    closed.begin_pass()
    closed.end_pass((), [("t", b"blocked")])
    assert not closed.holds_back("t", b"k")
    assert not closed.holds_back("gone", b"x")
    assert closed.holds_back("t", b"blocked")


def test_what_is_closed_during_a_pass_stays_closed_at_its_end() -> None:
    closed = Closed()
    closed.begin_pass()
    closed.close_key("t", b"k")
    closed.close_topic("paused")
    assert closed.closed_since("t", b"k")
    assert closed.closed_since("paused", None)
    closed.end_pass((), ())
    assert closed.holds_back("t", b"k")
    assert closed.holds_back("paused", b"x")


def test_the_next_pass_opens_what_the_last_one_could_not() -> None:
    closed = Closed()
    closed.begin_pass()
    closed.close_key("t", b"k")
    closed.end_pass((), ())
    closed.begin_pass()
    closed.end_pass((), ())
    assert not closed.holds_back("t", b"k")


def test_a_pass_looks_again_at_what_was_held_back_behind_it() -> None:
    closed = Closed(keys=[("t", b"k")])
    closed.begin_pass()
    closed.note_held([event(7), event(5)])
    assert [closed.nothing_held_since, closed.look_again_from(100), closed.nothing_held_since] == [False, 4, True]
    closed.note_held([event(200)])
    assert not closed.nothing_held_since
    assert closed.look_again_from(100) == 100
    assert closed.look_again_from(100) == 100


def test_what_goes_before_an_event_of_its_key_is_known_until_the_pass_looks_again() -> None:
    closed = Closed(topics=["t"])
    closed.begin_pass()
    closed.note_held([event(5), event(8), event(6, b"other")])
    assert [closed.held_before(event(id_)) for id_ in (4, 5, 6)] == [False, False, True]
    assert not closed.held_before(event(6, b"other"))
    assert not closed.held_before(event(9, b"k", "another"))
    closed.look_again_from(100)
    assert not closed.held_before(event(6))


def test_while_no_pass_is_under_way_nothing_is_noted_of_what_is_held_back() -> None:
    """A topic may be paused for a week, and have a million keys."""
    closed = Closed(topics=["t"])
    closed.note_held([event(5)])
    closed.begin_pass()
    closed.leave_pass()
    closed.note_held([event(5)])
    assert not closed._held_since
