"""What settings of different groups demand of each other."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from relay.settings import checks, kafka_security
from relay.settings.flow import BufferSettings, CloudEventsSettings, ReplicaSettings, ScanSettings

if TYPE_CHECKING:
    from relay.settings.servers import KafkaSettings
    from relay.settings.service import TraceSettings


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # A package above it is missing.
        return False


def relation_problems(
    kafka: KafkaSettings,
    replica: ReplicaSettings,
    scan: ScanSettings,
    buffer: BufferSettings,
    cloudevents: CloudEventsSettings,
    trace: TraceSettings,
) -> list[str]:
    """Return a sentence for each contradiction between settings: the variables it is about, and what to do."""
    problems = list(kafka_security.problems(kafka.model_dump()))

    def refuse(broken: Any, sentence: str) -> None:
        if broken:
            problems.append(sentence)

    refuse(
        kafka.compression not in ("none", "gzip") and importlib.util.find_spec("cramjam") is None,
        f"RELAY_KAFKA_COMPRESSION={kafka.compression} needs the package cramjam; "
        "install it with pip install 'outbox-relay[compression]', or choose none or gzip",
    )
    refuse(
        trace.enabled and not _installed("opentelemetry.sdk.trace"),
        "RELAY_TRACE_ENABLED needs the extra otel; install it with pip install 'outbox-relay[otel]', or leave it out",
    )
    refuse(
        trace.time_in_outbox and not trace.enabled,
        "RELAY_TRACE_TIME_IN_OUTBOX has no effect without RELAY_TRACE_ENABLED=true; set it too, or leave both out",
    )
    # A request still on its way when the lease ends would be answered while another replica owns the lane.
    needed = kafka.request_timeout + checks.LEASE_MARGIN
    refuse(
        replica.lease <= needed,
        f"RELAY_REPLICA_LEASE ({replica.lease:g} s) must be more than RELAY_KAFKA_REQUEST_TIMEOUT plus "
        f"{checks.LEASE_MARGIN:g} s ({needed:g} s); raise the lease or lower the timeout",
    )
    refuse(
        buffer.max_events < scan.batch_events,
        f"RELAY_BUFFER_MAX_EVENTS ({buffer.max_events}) must hold at least one scan, RELAY_SCAN_BATCH_EVENTS "
        f"({scan.batch_events}); raise the buffer or lower the batch",
    )
    refuse(
        scan.busy_interval > scan.idle_interval,
        f"RELAY_SCAN_BUSY_INTERVAL ({scan.busy_interval:g} s) must not be more than RELAY_SCAN_IDLE_INTERVAL "
        f"({scan.idle_interval:g} s); swap them",
    )
    refuse(
        not cloudevents.sources and cloudevents != CloudEventsSettings(),
        "RELAY_CLOUDEVENTS_TYPES, RELAY_CLOUDEVENTS_CONTENT_TYPES and RELAY_CLOUDEVENTS_EXTENSIONS have no effect "
        "without RELAY_CLOUDEVENTS_SOURCES, which says whose records are CloudEvents; set it too",
    )
    return problems
