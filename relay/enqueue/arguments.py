"""The arguments of `enqueue` and `enqueue_many`, as every client's module takes them."""

from __future__ import annotations

from dataclasses import replace

from relay.enqueue.event import Event
from relay.enqueue.typed import EventType
from relay.errors import EnqueueError

TYPE_CHECKING = False  # typing's own would cost more to import than all the rest.
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


_SCHEDULE = {"deliver_at", "delay", "timer"}
"""What may be said of an event that is given as a whole."""

_CONSTRUCTOR = "Event.__init__()"


def event_of(subject: object, fields: dict[str, Any]) -> Event:
    """The event that `enqueue(connection, subject, **fields)` is about.

    Raises EnqueueError, and TypeError in the name of `enqueue` for fields that are missing or that no event has.
    """
    if isinstance(subject, str) or not (_is_event(subject) or fields.keys() <= _SCHEDULE):
        if "event_id" in fields and fields["event_id"] is None:
            del fields["event_id"]
        try:
            return Event(subject, **fields)  # type: ignore[arg-type]
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                # Raised within, by what the caller gave.
                raise
            # Python names the function that was called: to the caller, that is `enqueue`.
            raise TypeError(str(error).replace(_CONSTRUCTOR, "enqueue()", 1)) from None
    event = _as_event(subject, "")
    if others := fields.keys() - _SCHEDULE:
        raise EnqueueError(
            f"{', '.join(sorted(others))} cannot be given beside an event, which has its own; only deliver_at, delay, "
            "timer and wake_up can"
        )
    return replace(event, **fields) if fields else event


def events_of(subjects: Iterable[object]) -> list[Event]:
    """The events of `enqueue_many`. Raises EnqueueError, which names the index, before anything is written."""
    return [
        subject if subject.__class__ is Event else _as_event(subject, f"events[{index}]: ")
        for index, subject in enumerate(subjects)
    ]


def _is_event(subject: object) -> bool:
    return isinstance(subject, Event) or isinstance(getattr(subject.__class__, "__event__", None), EventType)


def _as_event(subject: object, where: str) -> Event:
    if isinstance(subject, Event):
        return subject
    declared = getattr(subject.__class__, "__event__", None)
    if isinstance(declared, EventType):
        return declared.event_of(subject)
    if isinstance(subject, type):
        raise EnqueueError(f"{where}{subject.__name__} is a class; pass an object of it, {subject.__name__}(...)")
    raise EnqueueError(
        f"{where}{subject.__class__.__name__} is not an event; pass a relay.enqueue.Event, or declare __event__ in the "
        "class (see relay.enqueue.EventType)"
    )
