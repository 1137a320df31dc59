"""A span for each record batch, with links to the traces of its events, and if wanted one for the outbox of each event.

The record batch has no trace of its own to be part of: its events come from as many. So its span begins a trace, and
links to theirs. Consumers go on with the trace of the writer, whose headers travel with the record.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import relay
from relay.event import EventWithOrigin
from relay.outcome import Acknowledged, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.trace import SpanContext, TracerProvider

    from relay.event import PendingEvent
    from relay.outcome import BatchOutcome

MOST_LINKS = 128
"""Links of a span: as many as OpenTelemetry keeps by default."""

_NS, _NS_PER_MS = 1_000_000_000, 1_000_000


class Spans:
    """Makes the spans, when it is known what became of a record batch."""

    def __init__(
        self,
        provider: TracerProvider,
        *,
        time_in_outbox: bool,
        on_error: Callable[[Exception], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`on_error` hears why a span could not be made: publishing goes on without it."""
        self._tracer = provider.get_tracer("outbox-relay", relay.__version__)
        self._time_in_outbox = time_in_outbox
        self._on_error = on_error
        self._clock = clock
        self._propagator = TraceContextTextMapPropagator()

    def landed(
        self, topic: str, partition: int, events: Sequence[PendingEvent], seconds: float, outcome: BatchOutcome
    ) -> None:
        """Make the spans of a record batch that was in Kafka's hands for `seconds`. Never raises."""
        try:
            self._batch(topic, partition, events, seconds, outcome)
        except Exception as error:  # noqa: BLE001 nothing of tracing may keep an event from its receipt
            self._on_error(error)

    def _batch(
        self, topic: str, partition: int, events: Sequence[PendingEvent], seconds: float, outcome: BatchOutcome
    ) -> None:
        now = self._clock()
        traced = list(self._traced(events, None if self._time_in_outbox else MOST_LINKS))
        contexts = list({context.span_id: context for _, context in traced}.values())
        attributes: dict[str, Any] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.destination.partition.id": str(partition),
            "messaging.batch.message_count": len(events),
        }
        span = self._tracer.start_span(
            f"send {topic}",
            context=Context(),
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            links=[Link(context) for context in contexts[:MOST_LINKS]],
            start_time=now - round(seconds * _NS),
        )
        match outcome:
            case Acknowledged(base_offset=offset) if offset >= 0:
                span.set_attribute("messaging.kafka.offset", offset)
            case Refused(error=error):
                span.set_attribute("error.type", error.name or error.kind.value)
                span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end(now)
        if self._time_in_outbox and isinstance(outcome, Acknowledged):
            for event, context in traced:
                self._outbox(event, context, now)

    def _outbox(self, event: PendingEvent, context: SpanContext, now: int) -> None:
        """Make the span of an event's time in the outbox, as a part of its writer's trace."""
        if isinstance(event, EventWithOrigin):
            # Of a replay or a dead letter: its writer's trace ended long ago.
            return
        from_writer = set_span_in_context(NonRecordingSpan(context), Context())
        span = self._tracer.start_span(
            f"outbox {event.topic}",
            context=from_writer,
            kind=SpanKind.INTERNAL,
            attributes={"messaging.message.id": str(event.event_id), "outbox.id": event.id},
            # Writers may name any time.
            start_time=min(now, max(0, event.created_ms * _NS_PER_MS)),
        )
        span.end(now)

    def _traced(self, events: Sequence[PendingEvent], most: int | None) -> Iterator[tuple[PendingEvent, SpanContext]]:
        """Yield events that have a trace, with its context; of `most` different traces, if that is given."""
        known: dict[tuple[str, str], SpanContext | None] = {}
        for event in events:
            if event.headers is None or "traceparent" not in event.headers:
                continue
            headers = json.loads(event.headers)
            trace = (headers.get("traceparent", ""), headers.get("tracestate", ""))
            if trace not in known:
                if most is not None and len(known) >= most:
                    return
                known[trace] = self._context(*trace)
            context = known[trace]
            if context is not None:
                yield event, context

    def _context(self, parent: str, state: str) -> SpanContext | None:
        carrier = {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}
        found = get_current_span(self._propagator.extract(carrier, Context())).get_span_context()
        return found if found.is_valid else None
