"""The trace that an event is part of, as headers: what OpenTelemetry puts into them at the moment of the call."""

from __future__ import annotations

import sys

from relay.enqueue.event import row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any
    from uuid import UUID

    from relay.enqueue.event import Event

_API = "opentelemetry.propagate"

_inject: Any = None


def trace_headers() -> Mapping[str, str] | None:
    """`traceparent`, `tracestate` and `baggage`, or what the service's propagators write; None without OpenTelemetry.

    OpenTelemetry is never imported here: a service that traces has done so.
    """
    global _inject
    if _inject is None:
        module = sys.modules.get(_API)
        if module is None:
            return None
        _inject = module.inject
    found: dict[str, str] = {}
    _inject(found)
    return found


def rows(events: Iterable[Event]) -> Iterator[tuple[UUID, str, bytes | None, bytes | None, str, str | None]]:
    """The rows of many events, which are all part of the caller's trace."""
    trace = trace_headers()
    return (row(event, trace) for event in events)
