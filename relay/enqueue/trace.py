"""The trace that an event is part of, as headers: what OpenTelemetry puts into them at the moment of the call."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module

from relay.enqueue.event import RESERVED, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any
    from uuid import UUID

    from relay.enqueue.event import Event

_LOADED = "opentelemetry.trace"
_PROPAGATORS = "opentelemetry.propagate"

_inject: Any = None


def trace_headers() -> Mapping[str, str] | None:
    """`traceparent`, `tracestate` and `baggage`, or what the service's propagators write; None without OpenTelemetry.

    A service that traces has loaded OpenTelemetry, or else it stays unloaded. It need not have loaded the propagators,
    which only those need that pass a trace on.
    """
    global _inject
    if _inject is None:
        if _LOADED not in sys.modules:
            return None
        _inject = _injector()
    found: dict[str, Any] = {}
    with suppress(Exception):  # Baggage that cannot be written, say. No event fails for it; what is there is taken.
        _inject(found)
    if not all(_can_be_stored(name, value) for name, value in found.items()):
        return {name: value for name, value in found.items() if _can_be_stored(name, value)}
    return found or None


def _injector() -> Callable[[dict[str, Any]], object]:
    try:
        inject: Callable[[dict[str, Any]], object] = import_module(_PROPAGATORS).inject
    except Exception as error:  # noqa: BLE001 what OTEL_PROPAGATORS names may do anything, and no event is to fail by it
        import logging

        logging.getLogger("relay.enqueue").warning("events are enqueued without their traces: %s", error)
        return lambda _: None
    return inject


def _can_be_stored(name: object, value: object) -> bool:
    """Whether the outbox takes it: what propagators pass on may come from anybody, and no event fails for it."""
    return (
        isinstance(name, str)
        and isinstance(value, str)
        and name.isascii()
        and value.isascii()
        and name.isprintable()
        and value.isprintable()
        and not name.startswith(RESERVED)
    )


def rows(events: Iterable[Event]) -> Iterator[tuple[UUID, str, bytes | None, bytes | None, str, str | None]]:
    """The rows of many events, which are all part of the caller's trace."""
    trace = trace_headers()
    return (row(event, trace) for event in events)
