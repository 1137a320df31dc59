"""Makes OpenTelemetry's tracer provider from OpenTelemetry's own variables, and ends it within bounds."""

from __future__ import annotations

import asyncio
import os
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import relay
from relay.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace.export import SpanExporter

CLOSE_TIMEOUT = 2.0
"""Maximum seconds for sending the last spans when the relay stops: with RELAY_STOP_GRACE before it, Kubernetes does not
kill."""

_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def provider_of_environment(replica: str) -> TracerProvider:
    """Return a provider for the replica of this name, as the variables OTEL_... of this process say.

    Raises SettingsError if an exporter that they name is not installed, or cannot be made.
    """
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "outbox-relay"}
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "service.name=" in given:
        named = {}
    resource = Resource.create({**named, "service.version": relay.__version__, "service.instance.id": replica})
    # Ended by `close`; at the end of the process it would wait for a collector that is away.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in _exporters():
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporters() -> Iterator[SpanExporter]:
    for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        if name.strip() not in ("", "none"):
            yield _exporter(name.strip())


def _exporter(name: str) -> SpanExporter:
    variable = "OTEL_TRACES_EXPORTER"
    if name == "otlp":
        variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(variable) or "http/protobuf"
        name = _PROTOCOLS.get(protocol, protocol)
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        installed = ", ".join(sorted(each.name for each in entry_points(group="opentelemetry_traces_exporter")))
        raise SettingsError(
            f"{variable} asks for the exporter {name!r}, which is not installed; install its package, or choose one of "
            f"those that are: {installed or 'none'}"
        )
    try:
        exporter: SpanExporter = found[0].load()()
    except Exception as error:
        raise SettingsError(
            f"the exporter {name!r} of OpenTelemetry cannot be made ({type(error).__name__}: {error}); "
            "correct the variables OTEL_EXPORTER_..."
        ) from error
    return exporter


async def close(provider: TracerProvider, timeout: float = CLOSE_TIMEOUT) -> None:
    """Send what is left, for at most `timeout` seconds: a collector that is away must not keep a relay from ending."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        provider.shutdown()
        if not loop.is_closed():
            loop.call_soon_threadsafe(done.set)

    # Of its own: the loop waits for the threads of its executor, and Python for those that are not daemons.
    threading.Thread(target=end, name="end of tracing", daemon=True).start()
    try:
        async with asyncio.timeout(timeout):
            await done.wait()
    except TimeoutError:
        return
