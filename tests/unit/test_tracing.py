"""Spans of record batches: what they link to and say, what they leave out, and that they harm nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from relay.errors import SettingsError
from relay.event import with_origin
from relay.outcome import Acknowledged, FailureKind, PublishError, Refused
from relay.settings import Settings
from tests.support.events import event

pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from relay.tracing.provider import close, provider_of_environment
from relay.tracing.spans import MOST_LINKS, Spans

if TYPE_CHECKING:
    from relay.event import EventTuple

NOW = 2_000_000_000_000_000_000
MS = 1_000_000
AT_40 = Acknowledged(40)


def parent(number: int, flags: str = "01") -> str:
    return f"00-{number:032x}-{number:016x}-{flags}"


def traced(id_: int, traceparent: str | None, **more: str) -> EventTuple:
    headers = {**({"traceparent": traceparent} if traceparent else {}), **more}
    return event(id_)._replace(headers=json.dumps(headers), created_ms=NOW // MS - 1_000)


class Seen:
    """Spans as they were made."""

    def __init__(self, *, time_in_outbox: bool = False) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.errors: list[Exception] = []
        self.spans = Spans(provider, time_in_outbox=time_in_outbox, on_error=self.errors.append, clock=lambda: NOW)

    def of(self, *events: EventTuple, outcome: Acknowledged | Refused = AT_40) -> list[ReadableSpan]:
        self._exporter.clear()
        self.spans.landed("orders", 3, events, 0.25, outcome)
        assert self.errors == []
        return list(self._exporter.get_finished_spans())


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.trace_id for link in span.links]


def test_a_record_batch_has_a_span_that_links_to_each_trace_of_its_events() -> None:
    events = [traced(1, parent(7)), event(2), traced(3, parent(8), tracestate="shop=1"), traced(4, parent(7))]
    (span,) = Seen().of(*events)
    assert (span.name, span.kind, span.parent) == ("send orders", SpanKind.PRODUCER, None)
    assert (span.start_time, span.end_time) == (NOW - 250 * MS, NOW)
    assert linked(span) == [7, 8]
    assert span.links[1].context.trace_state["shop"] == "1"
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "3",
        "messaging.batch.message_count": 4,
        "messaging.kafka.offset": 40,
    }


def test_a_batch_that_was_refused_says_why() -> None:
    error = PublishError(FailureKind.EVENT, "too large; make it smaller", "MessageSizeTooLargeError")
    (span,) = Seen(time_in_outbox=True).of(traced(1, parent(7)), outcome=Refused(error))
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "too large; make it smaller"
    assert (span.attributes or {})["error.type"] == "MessageSizeTooLargeError"


def test_an_offset_that_the_broker_did_not_say_is_left_out() -> None:
    (span,) = Seen().of(event(1), outcome=Acknowledged(-1))
    assert "messaging.kafka.offset" not in (span.attributes or {})


@pytest.mark.parametrize(
    "headers",
    ['{"traceparent": "00-x"}', '{"traceparent": ""}', '{"other": "\\"traceparent\\": \\"00-1\\""}', "{}"],
)
def test_headers_that_are_no_trace_link_to_nothing(headers: str) -> None:
    (span,) = Seen(time_in_outbox=True).of(event(1)._replace(headers=headers))
    assert linked(span) == []


def test_links_are_bounded() -> None:
    events = [traced(number, parent(number)) for number in range(1, 1_000)]
    (span,) = Seen().of(*events)
    assert linked(span) == list(range(1, MOST_LINKS + 1))
    many = Seen(time_in_outbox=True).of(*events)
    assert len(many) == 1_000
    assert linked(many[0]) == list(range(1, MOST_LINKS + 1))


def test_the_time_in_the_outbox_is_a_span_of_the_writers_trace() -> None:
    sampled, unsampled, untraced = traced(1, parent(7)), traced(2, parent(8, "00")), event(3)
    future = traced(4, parent(9))._replace(created_ms=NOW // MS + 60_000)
    nobody: Any = None
    again = with_origin(traced(5, parent(6)), nobody)
    batch, first, second = Seen(time_in_outbox=True).of(sampled, unsampled, untraced, future, again)
    assert linked(batch) == [7, 8, 9, 6]
    assert (first.name, first.kind) == ("outbox orders", SpanKind.INTERNAL)
    assert first.parent is not None
    assert first.context is not None
    assert (first.context.trace_id, first.parent.span_id) == (7, 7)
    assert (first.start_time, first.end_time) == (NOW - 1_000 * MS, NOW)
    assert dict(first.attributes or {}) == {"messaging.message.id": str(sampled.event_id), "outbox.id": 1}
    assert (second.start_time, second.end_time) == (NOW, NOW)


def test_a_span_that_cannot_be_made_is_told_and_harms_nothing() -> None:
    seen = Seen()
    seen.spans.landed("orders", 0, [event(1)._replace(headers='{"traceparent": 7')], 0.1, Acknowledged(1))
    (error,) = seen.errors
    assert isinstance(error, ValueError)


def test_the_providers_exporters_and_names_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    attributes = dict(provider_of_environment("one").resource.attributes)
    assert attributes["service.name"] == "outbox-relay"
    assert attributes["service.instance.id"] == "one"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-relay")
    assert provider_of_environment("one").resource.attributes["service.name"] == "shop-relay"

    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(SettingsError, match="OTEL_TRACES_EXPORTER asks for the exporter 'zipkin', which is not inst"):
        provider_of_environment("one")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke/signals")
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL asks for the exporter 'smoke/signals'"):
        provider_of_environment("one")


async def test_a_collector_that_is_away_keeps_nobody_from_ending() -> None:
    released, asked = threading.Event(), threading.Event()

    class Hanging:
        def shutdown(self) -> None:
            asked.set()
            released.wait(30)

    provider: Any = Hanging()
    async with asyncio.timeout(30):
        await close(provider, timeout=0.01)
    assert asked.is_set()
    released.set()


BASE = {"RELAY_POSTGRES_DSN": "postgresql://a/b", "RELAY_KAFKA_BOOTSTRAP_SERVERS": "a:1"}


def test_tracing_is_off_and_its_parts_need_it() -> None:
    assert not Settings.load(BASE).trace.enabled
    assert Settings.load({**BASE, "RELAY_TRACE_ENABLED": "true"}).trace.enabled
    with pytest.raises(SettingsError, match="RELAY_TRACE_TIME_IN_OUTBOX has no effect without RELAY_TRACE_ENABLED"):
        Settings.load({**BASE, "RELAY_TRACE_TIME_IN_OUTBOX": "true"})


def test_without_the_extra_the_settings_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'outbox-relay\[otel\]'"):
        Settings.load({**BASE, "RELAY_TRACE_ENABLED": "true"})


def test_where_it_is_off_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys, relay.run.service, relay.cli.run; from relay.settings import Settings;"
        "from relay.run.service import Service; from relay.telemetry import Telemetry;"
        f"Service(Settings.load({BASE!r}), Telemetry());"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
