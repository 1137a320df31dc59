"""The trace of the caller goes with an event, and nothing else of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from relay.enqueue import Event, trace
from relay.enqueue.event import row

if TYPE_CHECKING:
    from collections.abc import Iterator

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = {"traceparent": PARENT, "tracestate": "a=b", "baggage": "user=7"}


@pytest.fixture
def traced() -> Iterator[None]:
    """A span of another service, which OpenTelemetry takes for the current one."""
    context = pytest.importorskip("opentelemetry.context")
    propagate = pytest.importorskip("opentelemetry.propagate")
    token = context.attach(propagate.extract(TRACE))
    yield
    context.detach(token)


def headers(**given: str) -> dict[str, str]:
    """The headers that an event with these headers is stored with."""
    found: dict[str, str] = json.loads(row(Event("orders", key=None, payload=None, headers=given), TRACE)[4])
    return found


def test_the_current_trace_and_baggage_become_headers(traced: None) -> None:
    assert trace.trace_headers() == TRACE
    assert [json.loads(each[4]) for each in trace.rows([Event("orders", key=None, payload=None)] * 2)] == [TRACE] * 2


class Hostile:
    """A propagator that passes on what nobody has looked at, and fails in the end."""

    def inject(self, carrier: dict[Any, Any]) -> None:
        carrier |= {
            "traceparent": PARENT,
            "a": "\0",
            "b\0": "x",
            "c": "\ud800",
            "d": 5,
            7: "x",
            "é": "x",
            "e": "a\r\nb",
        }
        carrier |= {"outbox-event-id": "x", "ce_id": "x"}
        "\ud800".encode()


def test_what_a_propagator_passes_on_costs_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_inject", Hostile().inject)
    assert trace.trace_headers() == {"traceparent": PARENT}


def test_more_headers_than_the_outbox_takes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    event = Event("orders", key=None, payload=None)
    many = {f"h{n}": "v" for n in range(257)}
    assert row(event, many)[4] == "{}"
    del many["h0"]
    assert json.loads(row(event, many)[4]) == many


def test_outside_of_a_trace_there_are_no_headers() -> None:
    pytest.importorskip("opentelemetry.propagate")
    assert not trace.trace_headers()


SPAN = """
import sys
from opentelemetry import trace
span = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1)))
assert "opentelemetry.propagate" not in sys.modules
from relay.enqueue.trace import trace_headers
with trace.use_span(span):
    print(trace_headers())
"""


def after_span(**environment: str) -> subprocess.CompletedProcess[str]:
    """What a new process says that makes a span by hand, and never loads OpenTelemetry's propagators."""
    return subprocess.run(
        [sys.executable, "-c", SPAN], env=os.environ | environment, capture_output=True, text=True, check=True
    )


def test_a_service_that_only_makes_spans_has_its_trace_in_the_headers() -> None:
    pytest.importorskip("opentelemetry.trace")
    assert after_span().stdout == str({"traceparent": f"00-{1:032x}-{2:016x}-01"}) + "\n"


def test_propagators_that_cannot_be_loaded_cost_the_trace_and_a_warning_but_no_event() -> None:
    pytest.importorskip("opentelemetry.trace")
    done = after_span(OTEL_PROPAGATORS="nobody")
    assert done.stdout == "None\n"
    assert "events are enqueued without their traces" in done.stderr


def test_without_opentelemetry_there_are_none_and_it_is_not_loaded() -> None:
    code = (
        "import sys; from relay.enqueue.trace import trace_headers; "
        "sys.exit(trace_headers() is not None or 'opentelemetry' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_trace_joins_the_headers_of_the_event() -> None:
    assert headers(a="b") == {"a": "b", **TRACE}


def test_a_trace_that_the_caller_gives_is_left_as_it_is() -> None:
    assert headers(traceparent="mine") == {"traceparent": "mine"}


def test_a_trace_never_makes_the_headers_larger_than_the_outbox_takes() -> None:
    many = {f"h{n}": "v" for n in range(254)}
    assert headers(**many) == many
    large = {"h": "v" * 32_700}
    assert headers(**large) == large
