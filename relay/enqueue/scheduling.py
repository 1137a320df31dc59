"""When an event is due, and which scheduled event is meant: checked, and as the text that PostgreSQL reads.

Imported only by who schedules something: others need not wait for it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from struct import Struct
from uuid import UUID

from relay.errors import EnqueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    class Call(NamedTuple):
        """A call of a function of the schema: its name, and its arguments as text."""

        function: str
        arguments: tuple[str | None, ...]
else:
    from collections import namedtuple

    Call = namedtuple("Call", "function arguments")

LONGEST_TIMER = 200
"""Bytes of a timer's name, as in the schema."""

_FARTHEST = timedelta(days=36_500)
"""A little less than the schema's 100 years: what is accepted here must not be refused there, by another clock."""
_FARTHEST_TEXT = "an event can be scheduled for at most 100 years ahead"
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LONG = Struct("!q").pack
_INTERVAL = Struct("!qii").pack


def checked_deliver_at(value: object) -> datetime:
    """The time in UTC. Raises EnqueueError."""
    if not isinstance(value, datetime):
        raise EnqueueError(f"deliver_at must be a datetime with a time zone, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise EnqueueError(
            f"deliver_at {value.isoformat()} has no time zone; write datetime.now(UTC) + ..., or "
            'datetime(..., tzinfo=ZoneInfo("Europe/Berlin")), or give delay'
        )
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        # No year of UTC's: before the first one, or after the last.
        if value.year == 1:
            return _EARLIEST
        raise EnqueueError(f"deliver_at {value.isoformat()}: {_FARTHEST_TEXT}") from None
    if utc - datetime.now(UTC) > _FARTHEST:
        raise EnqueueError(f"deliver_at {value.isoformat()}: {_FARTHEST_TEXT}")
    # What is past is due at once, however long ago.
    return max(utc, _EARLIEST)


def checked_delay(value: object) -> timedelta:
    """The delay, 0 for one that is over. Raises EnqueueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and math.isnan(value):
            raise EnqueueError("delay is NaN; give a timedelta or a number of seconds")
        # Compared as a number: a timedelta cannot hold all of them, nor a float each int.
        if value > _FARTHEST.total_seconds():
            raise EnqueueError(f"delay of {value if value < 1e300 else math.inf:g} s: {_FARTHEST_TEXT}")
        return timedelta(seconds=max(0.0, value))
    if not isinstance(value, timedelta):
        raise EnqueueError(f"delay must be a timedelta or a number of seconds, not {type(value).__name__}")
    if value > _FARTHEST:
        raise EnqueueError(f"delay of {value}: {_FARTHEST_TEXT}")
    return max(timedelta(), value)


def check_schedule(*, deliver_at: object, delay: object, timer: object) -> None:
    """Raise EnqueueError unless exactly one of `deliver_at` and `delay` is given, beside a `timer` or none."""
    if deliver_at is not None and delay is not None:
        raise EnqueueError("give deliver_at or delay, not both")
    if deliver_at is None and delay is None:
        raise EnqueueError("timer names an event that is delivered later; give deliver_at or delay as well")
    if timer is not None:
        check_timer(timer)


def check_timer(timer: object) -> None:
    """Raise EnqueueError for what is no name of a timer."""
    if not isinstance(timer, str):
        raise EnqueueError(f"timer must be a str, not {type(timer).__name__}")
    if "\0" in timer:
        raise EnqueueError("timer contains a NUL character, which PostgreSQL cannot store as text; remove it")
    try:
        size = len(timer.encode())
    except UnicodeEncodeError:
        raise EnqueueError("timer contains a lone surrogate and cannot be encoded as UTF-8; remove it") from None
    if not 1 <= size <= LONGEST_TIMER:
        raise EnqueueError(f"timer has {size:,} bytes; a name has 1 to {LONGEST_TIMER}")


def as_text(deliver_at: datetime | None, delay: Any, timer: str | None) -> tuple[str | None, str | None, str | None]:
    """The columns deliver_at, delay and timer of an event, which has checked them."""
    return _time_text(deliver_at), _delay_text(delay), timer


def as_binary(
    deliver_at: datetime | None, delay: Any, timer: str | None, encoding: str
) -> tuple[bytes | None, bytes | None, bytes | None]:
    """The same in PostgreSQL's binary format."""
    return (
        None if deliver_at is None else _LONG((deliver_at - _POSTGRES_EPOCH) // _MICROSECOND),
        None if delay is None else _INTERVAL(delay // _MICROSECOND, 0, 0),
        None if timer is None else timer.encode(encoding),
    )


def cancel_call(*, timer: object = None, event_id: object = None) -> Call:
    """The call that cancels. Raises EnqueueError, or TypeError in the name of `cancel`."""
    return Call("cancel_scheduled", _which(timer, event_id))


def reschedule_call(
    *, timer: object = None, event_id: object = None, deliver_at: object = None, delay: object = None
) -> Call:
    """The call that reschedules. Raises EnqueueError, or TypeError in the name of `reschedule`."""
    which = _which(timer, event_id)
    if (deliver_at is None) == (delay is None):
        raise EnqueueError("say when the event is due from now on: give deliver_at or delay, and not both")
    time = None if deliver_at is None else checked_deliver_at(deliver_at)
    return Call("reschedule", (*which, _time_text(time), _delay_text(None if delay is None else checked_delay(delay))))


# Python says in a TypeError what the function was called: that is what the caller wrote.
cancel_call.__qualname__, reschedule_call.__qualname__ = "cancel", "reschedule"


def _which(timer: object, event_id: object) -> tuple[str | None, str | None]:
    if (timer is None) == (event_id is None):
        raise EnqueueError("say which scheduled event is meant: give timer or event_id, and not both")
    if event_id is not None:
        if not isinstance(event_id, UUID):
            raise EnqueueError(f"event_id must be a uuid.UUID, not {type(event_id).__name__}")
        return str(event_id), None
    check_timer(timer)
    return None, timer  # type: ignore[return-value]


def _time_text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _delay_text(delay: timedelta | None) -> str | None:
    if delay is None:
        return None
    # Not in days, which are not always of 24 hours. PostgreSQL 13 and 14 take no number of 2^31 or more.
    seconds, microseconds = divmod(delay // _MICROSECOND, 1_000_000)
    return f"{seconds // 3600} hours {seconds % 3600}.{microseconds:06} seconds"
