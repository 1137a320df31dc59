"""The settings of what stands around the flow: how the service stops, what it shows, and housekeeping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from relay.settings.group import LONGEST, Count, Group, Seconds, lower

_ANYWHERE = "0.0.0.0"  # noqa: S104 probes and Prometheus come from outside the container


class StopSettings(Group):
    """How the relay stops."""

    grace: Seconds = Field(
        default=25.0,
        description="Maximum time that a stop waits until all taken events are settled. Kubernetes kills after 30 s "
        "unless told otherwise.",
    )


class HttpSettings(Group):
    """Where `/livez`, `/readyz` and `/metrics` are served."""

    host: str = Field(default=_ANYWHERE, min_length=1, description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65_535, description="Port to listen on; 0 = no server.")


class HealthSettings(Group):
    """When a replica is not ready."""

    max_stall: Seconds = Field(
        default=60.0,
        description="Longest time without progress before the replica is not ready: no event in hand was settled, or "
        "the replica did not look for more.",
    )
    max_outage: Seconds = Field(
        default=60.0,
        description="Longest time that PostgreSQL or Kafka may be away before the replica is not ready.",
    )


class TraceSettings(Group):
    """Spans for OpenTelemetry (extra `otel`). Where they go, OpenTelemetry's own variables say (`OTEL_...`)."""

    enabled: bool = Field(
        default=False,
        description="Whether each record batch gets a span, with links to the traces of its events.",
    )
    time_in_outbox: bool = Field(
        default=False,
        description="Whether each event that is part of a trace gets a span there as well, for its time in the outbox: "
        "from its writing to Kafka's acknowledgement.",
    )


class LoopSettings(Group):
    """For developers: how the event loop is watched."""

    debug: bool = Field(
        default=False,
        description="Whether asyncio's debug mode is on: a log line names each step of the event loop that took too "
        "long, and where the event loop was meanwhile. Takes several times as much CPU.",
    )
    slow_callback: Seconds = Field(
        default=0.1, description="Time from which on a step of the event loop is too long, in the debug mode."
    )


class LogSettings(Group):
    """What is logged, and in which format."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = Field(
        default="info", description="Lowest level that is logged. No level logs one line per event."
    )
    format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` otherwise."
    )


class SegmentSettings(Group):
    """The partitions of `event` and `receipt`, and how long delivered events are kept."""

    ids: Count = Field(default=5_000_000, description="Number of ids per segment.")
    ahead: Annotated[Count, Field(le=1_000)] = Field(
        default=2, description="Number of segments made ahead of the one in use."
    )
    retention: float = Field(
        default=86_400.0,
        ge=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="Time for which a segment is kept after its events were delivered. What is still needed of it, "
        "such as a failed event, stays in a small one.",
    )
    discarded_retention: float = Field(
        default=604_800.0,
        ge=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="Time for which an event is kept after it was discarded, if its segment is not kept anyway.",
    )
    action_retention: float = Field(
        default=31_536_000.0,
        ge=86_400.0,
        le=LONGEST,
        allow_inf_nan=False,
        description="Time for which it is kept who asked for what (`relay failed actions`), once that is over; at "
        "least a day.",
    )
    check_interval: Seconds = Field(
        default=60.0, description="Time between two checks whether segments have to be made or dropped."
    )


class SurveySettings(Group):
    """How often each replica reads the state of the whole outbox for its gauges."""

    interval: float = Field(
        default=15.0,
        ge=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="Time between two surveys of the outbox, for the gauges `relay_outbox_*`; 0 = none. As often as "
        "Prometheus asks is enough.",
    )
