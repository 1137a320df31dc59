"""Switches tracing on where the settings want it. Without it, nothing of OpenTelemetry is imported."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.settings import Settings
    from relay.stages.publish.ports import Landed
    from relay.telemetry import Telemetry


class Tracing:
    """Tracing that is on."""

    def __init__(self, landed: Landed, close: Callable[[], Awaitable[None]]) -> None:
        self.landed = landed
        """To be told of each record batch whose outcome is known."""
        self.close = close
        """Send the last spans, within bounds."""


def tracing(settings: Settings, telemetry: Telemetry) -> Tracing | None:
    """Return what traces, None if the settings do not want it.

    Raises SettingsError if the variables of OpenTelemetry name what is not there.
    """
    if not settings.trace.enabled:
        return None
    # Imported here: the extra `otel` need not be installed, and takes memory and time to import.
    from relay.tracing.provider import close, provider_of_environment
    from relay.tracing.spans import Spans

    def failed(error: Exception) -> None:
        telemetry.emit("trace.failed", error=error)

    provider = provider_of_environment(settings.replica.name)
    spans = Spans(provider, time_in_outbox=settings.trace.time_in_outbox, on_error=failed)
    return Tracing(spans.landed, partial(close, provider))
