"""Spans of a running relay, as a collector gets them by OTLP."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.support.postgres.outbox import add_event
from tests.support.waiting import until

pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.conftest import Place

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.service = ""

    async def take(self, request: web.Request) -> web.Response:
        export = ExportTraceServiceRequest()
        export.ParseFromString(await request.read())
        for resource in export.resource_spans:
            self.service = next(
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            )
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    """A collector, and its address."""
    taking = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", taking.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield taking, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_collector_gets_a_span_for_the_record_batch_and_one_in_the_writers_trace(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collector() as (taken, address):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-relay")
        async with here.relay(trace_enabled="true", trace_time_in_outbox="true") as relay:
            await relay.ready()
            await add_event(here.connection, topic=here.topic, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
            await here.settled()
            # What has not been sent yet is sent at the stop.
            await relay.stop()
        (batch,), (event,) = taken.named(f"send {here.topic}"), taken.named(f"outbox {here.topic}")
    assert taken.service == "shop-relay"
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in batch.links] == [(TRACE, SPAN)]
    assert (event.trace_id.hex(), event.parent_span_id.hex()) == (TRACE, SPAN)
    assert event.start_time_unix_nano < event.end_time_unix_nano
    offset = await here.connection.fetchval("SELECT base_offset FROM outbox.receipt")
    assert {each.key: each.value.int_value for each in batch.attributes}["messaging.kafka.offset"] == offset


async def test_a_collector_that_is_away_holds_up_neither_events_nor_the_stop(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    async with here.relay(trace_enabled="true") as relay:
        await relay.ready()
        await add_event(here.connection, topic=here.topic)
        await here.settled()
        await relay.stop()
    assert await here.records() == 1


async def test_an_exporter_that_is_not_installed_is_said_at_the_start(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    async with here.relay(trace_enabled="true") as relay:
        assert await relay.exit_code(30) == 2

        async def told() -> bool:
            return any("asks for the exporter 'zipkin', which is not installed" in text for text in relay.texts())

        await until("it says so", told)
