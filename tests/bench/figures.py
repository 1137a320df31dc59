"""The figures that benchmarks report: their names in JSON, and what they are called in tables."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Figures: TypeAlias = "dict[str, float]"
"""What one round measured, by name; each name is in FIGURES."""

PARTS = {
    "part_scan": "asking PostgreSQL for events, taking them",
    "part_route": "routing them to topics and partitions",
    "part_pack": "packing record batches",
    "part_publish": "publishing: what is next, what became of it",
    "part_send": "sending, in Kafka's client",
    "part_settle": "settling",
    "part_metrics": "metrics and logs",
    "part_loop": "the event loop: sockets, timers, decoding PostgreSQL's rows",
    "part_other": "other",
}
"""Where the relay's time goes; the figures are percent of it."""

FIGURES = {
    "events": "events",
    "events_per_second": "events/s",
    "failed_per_second": "events/s that fail",
    "last_to_second": "last fifth's speed / second fifth's",
    "p50_ms": "latency ms, p50",
    "p99_ms": "latency ms, p99",
    "max_ms": "latency ms, maximum",
    "alone_ms": "longest commit of a writer alone, ms",
    "longest_ms": "longest commit while segments are retired, ms",
    "oldest_seconds": "seconds to retire the oldest segment",
    "kept": "events kept of it",
    "transactions": "commits beside it",
    "delivered_per_second": "live events delivered/s",
    "moved_per_second": "scheduled events into the outbox/s",
    "late_p50_ms": "ms after they were due, p50",
    "late_p99_ms": "ms after they were due, p99",
    "late_max_ms": "ms after they were due, maximum",
    "disordered": "out of their key's order",
    "before_commit_returned": "at the consumer before COMMIT returned",
    "scan_ms": "ms of a scan, average of all",
    "publish_ms": "ms from handing a record batch over to its acknowledgement, average of all",
    "settle_ms": "ms of a settle, average of all",
    "events_per_batch": "events per record batch",
    "relay_cpu_us": "CPU us/event, relay",
    "postgres_cpu_us": "CPU us/event, PostgreSQL",
    "kafka_cpu_us": "CPU us/event, Kafka",
    "all_cpu_us": "CPU us/event, all processes",
    "rss_first_mb": "RSS MB, first, relay",
    "rss_mb": "RSS MB, maximum, relay",
    "postgres_rss_mb": "RSS MB, PostgreSQL",
    "kafka_rss_mb": "RSS MB, Kafka",
    "wal_bytes": "WAL bytes/event",
    "disk_bytes": "disk bytes/event, of the database",
    "commits": "commits/event",
    "wal_fsyncs": "WAL fsyncs/event",
    "loop_delay_ms": "event loop late by at most, ms",
    "loop_blocked": "event loop late by 20 ms by its own work, times",
    "loop_starved": "event loop late by 20 ms for want of a CPU, times",
    "transactions_per_second": "transactions/s",
    "average_ms": "ms per transaction, average",
    "lag_events": "events still pending at the end",
    "commits_per_second": "commits/s",
    "relay_cpu_percent": "% of a core, relay",
    "postgres_cpu_percent": "% of a core, PostgreSQL",
    "kafka_cpu_percent": "% of a core, Kafka",
    "all_cpu_percent": "% of a core, all processes",
    "wal_bytes_per_second": "WAL bytes/s",
    "wal_fsyncs_per_second": "WAL fsyncs/s",
    "outage_seconds": "seconds without Kafka",
    "writers_before": "transactions/s before the outage",
    "writers_during": "transactions/s during the outage",
    "rss_growth_mb": "RSS MB, growth",
    "first_receipt_seconds": "seconds from Kafka's return to the first receipt",
    "catch_up_per_second": "events/s while catching up",
    "drain_per_second": "events/s draining as many",
    "cold_drain_per_second": "events/s draining as many, Kafka just started",
    "cold_drain_beside_writers_per_second": "events/s draining as many, Kafka just started, beside writers",
    "lost": "lost",
    "out_of_order": "out of order",
    "repeats": "repeats",
    "connections": "connections",
    "file_handles": "file handles",
    "threads": "threads",
    "tasks": "tasks of the event loop",
    "connections_growth": "connections, growth",
    "file_handles_growth": "file handles, growth",
    "threads_growth": "threads, growth",
    "tasks_growth": "tasks of the event loop, growth",
    **{part: f"% of the relay's time: {name}" for part, name in PARTS.items()},
}
"""In the order of the tables' rows."""


def median(rounds: Sequence[Mapping[str, float]], figure: str) -> float:
    """The median of a figure."""
    return statistics.median(each[figure] for each in rounds)


def ratios(
    rounds: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]], figure: str = "events_per_second"
) -> list[float]:
    """A figure divided by that of the other series, round by round."""
    return [one[figure] / other[figure] for one, other in zip(rounds, others, strict=True)]


def spread(values: Sequence[float]) -> str:
    """Median, and lowest to highest if there are several."""
    middle = statistics.median(values)
    if len(values) == 1:
        return readable(middle)
    return f"{readable(middle)} ({readable(min(values))} to {readable(max(values))})"


def readable(value: float) -> str:
    """Three digits or all before the point."""
    size = abs(value)
    if value == int(value) and size < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"
