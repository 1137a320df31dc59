"""Every metric the relay exposes, in one table; the prefix `relay_` is added when it is registered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_WAITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_DELIVERY_WAITS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 3600.0)
_LONG_WAITS = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. The name of a counter ends in `_total`; units are seconds and bytes."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _WAITS


METRICS: dict[str, Metric] = {
    "build_info": Metric("gauge", "Always 1; the label says which version runs.", ("version",)),
    "ready": Metric("gauge", "1 while `/readyz` answers 200."),
    "postgres_up": Metric("gauge", "1 while connected to PostgreSQL."),
    "postgres_connections": Metric("gauge", "Connections to PostgreSQL that the flow uses."),
    "postgres_lost_total": Metric("counter", "Times the connection to PostgreSQL was lost."),
    "flow_failed_total": Metric("counter", "Times the flow ended with an unexpected error and began again."),
    "kafka_up": Metric("gauge", "1 while connected to Kafka."),
    "kafka_connections": Metric("gauge", "Connections to Kafka's brokers that are open."),
    "kafka_lost_total": Metric("counter", "Times the connection to Kafka was lost."),
    "lanes_owned": Metric("gauge", "Lanes this replica owns."),
    "lanes_claimed_total": Metric("counter", "Lanes this replica claimed."),
    "lanes_released_total": Metric("counter", "Lanes this replica released."),
    "leases_lost_total": Metric("counter", "Times this replica lost its lease."),
    "hints_failed_total": Metric("counter", "Times hints to other replicas (NOTIFY) began to fail."),
    "heartbeat_seconds": Metric("histogram", "Time of one heartbeat."),
    "scanned_events_total": Metric("counter", "Events read from the outbox."),
    "scanned_bytes_total": Metric("counter", "Bytes of events read from the outbox."),
    "scan_seconds": Metric("histogram", "Time of one scan."),
    "sweeps_total": Metric("counter", "Long sweeps finished."),
    "sweep_seconds": Metric("histogram", "Time of one long sweep.", buckets=_LONG_WAITS),
    "floor_lag_ids": Metric(
        "gauge", "Ids that were given out and that the scan is not yet certain of: transactions with them may be open."
    ),
    "floor_lag_seconds": Metric(
        "gauge", "Time for which the scan has not become certain of the id that was the newest; 0 = it keeps up."
    ),
    "buffer_events": Metric("gauge", "Events between scan and receipt."),
    "buffer_bytes": Metric("gauge", "Bytes of events between scan and receipt."),
    "inflight_events": Metric("gauge", "Events handed to Kafka and not yet acknowledged."),
    "published_events_total": Metric("counter", "Events Kafka acknowledged.", ("topic",)),
    "published_bytes_total": Metric("counter", "Bytes of events Kafka acknowledged.", ("topic",)),
    "publish_seconds": Metric("histogram", "Time from handing a record batch over to its acknowledgement."),
    "delivery_seconds": Metric(
        "histogram",
        "Time from the writing of an event to its acknowledgement; the oldest event of each record batch counts.",
        buckets=_DELIVERY_WAITS,
    ),
    "refused_events_total": Metric("counter", "Events in record batches that Kafka refused.", ("topic",)),
    "restamped_events_total": Metric(
        "counter",
        "Events published with the time of publishing, because their topic does not take the time of writing.",
        ("topic",),
    ),
    "troubled_topics": Metric("gauge", "Topics that do not take events now."),
    "paused_topics": Metric(
        "gauge", "1 for each topic that a person has paused; 0 once the pause is over.", ("topic",)
    ),
    "topics_paused_total": Metric("counter", "Times a topic was paused because it did not take events."),
    "retried_events_total": Metric("counter", "Attempts that failed for an unknown reason.", ("topic",)),
    "failed_events_total": Metric("counter", "Events that failed.", ("topic",)),
    "held_events_total": Metric("counter", "Events held back, behind a failure or for a paused topic."),
    "limited_events_total": Metric(
        "counter",
        "Events held back because as many as may wait for their topic's limited rate did; one counts each time.",
        ("topic",),
    ),
    "producers_replaced_total": Metric("counter", "Times a Kafka producer was discarded and replaced."),
    "unrecorded_events": Metric("gauge", "Events whose outcome cannot be recorded now."),
    "refused_records_total": Metric("counter", "Events whose outcome could not be recorded at first."),
    "settled_events_total": Metric("counter", "Events whose receipt was written."),
    "duplicate_events_total": Metric("counter", "Events found to be in Kafka more than once."),
    "reconcile_total": Metric("counter", "Replicas that ended and of which Kafka was asked what they had published."),
    "reconcile_found_events_total": Metric("counter", "Events found in Kafka that were not published again."),
    "reconcile_gave_up_total": Metric(
        "counter", "Partitions of which something may be published again, by the reason.", ("reason",)
    ),
    "reconcile_bytes_total": Metric("counter", "Bytes that were looked through in Kafka."),
    "reconcile_seconds": Metric(
        "histogram", "Time from ending a replica until its lanes are free.", buckets=_LONG_WAITS
    ),
    "settle_seconds": Metric("histogram", "Time of writing one batch of receipts."),
    "abandoned_events_total": Metric("counter", "Events taken but not settled at a stop; they are published again."),
    "lag_seconds": Metric("gauge", "Age of the oldest event this replica could publish."),
    "replays_open": Metric("gauge", "Replays of delivered events that have not ended."),
    "replayed_events_total": Metric("counter", "Delivered events published again by a replay.", ("topic",)),
    "replay_refused_events_total": Metric("counter", "Events that Kafka refused in a replay.", ("topic",)),
    "scheduled_events": Metric("gauge", "Scheduled events of this replica's lanes that are still to come."),
    "scheduled_overdue_seconds": Metric("gauge", "Time for which the first scheduled event has been due; 0 = none is."),
    "scheduled_moved_total": Metric("counter", "Scheduled events that entered the outbox when they were due."),
    "scheduled_put_off_total": Metric("counter", "Times the outbox did not take a scheduled event that was due."),
    "segments_created_total": Metric("counter", "Segments created."),
    "segments_dropped_total": Metric("counter", "Segments dropped."),
    "kept_events_total": Metric(
        "counter", "Events of dropped segments that were kept: failed, held, discarded lately."
    ),
    "outbox_open_ids": Metric(
        "gauge", "Ids up to the newest that the lowest position of a lane has not passed; most may be settled."
    ),
    "outbox_pending_events": Metric(
        "gauge", "Pending events, estimated from a sample of ids; exact while few are pending.", ("topic",)
    ),
    "outbox_pending_oldest_seconds": Metric(
        "gauge", "Age of the oldest pending event of the sample, which begins with the oldest ids.", ("topic",)
    ),
    "outbox_ids_ahead": Metric("gauge", "Ids above the newest for which there are segments."),
    "outbox_unowned_lanes": Metric("gauge", "Lanes that no replica with a running lease owns."),
    "outbox_failed_events": Metric("gauge", "Events that are failed and wait for a person.", ("topic",)),
    "outbox_retrying_events": Metric("gauge", "Events that are tried again by themselves.", ("topic",)),
    "outbox_replaying_events": Metric("gauge", "Failed events that are being replayed.", ("topic",)),
    "outbox_blocked_keys": Metric("gauge", "Keys with an event that is failed, retrying or replaying.", ("topic",)),
    "outbox_held_events": Metric("gauge", "Events held behind a failure or for a paused topic.", ("topic",)),
    "unseen_events": Metric("gauge", "Events found below a position without receipt, failure or held row; must be 0."),
    "housekeeping_failures_total": Metric("counter", "Times a chore of housekeeping was postponed.", ("chore",)),
    "housekeeping_overdue_seconds": Metric("gauge", "Time for which a chore has been postponed; 0 = done.", ("chore",)),
    "certificate_expiry_timestamp_seconds": Metric(
        "gauge", "When a certificate in a file of the settings ends, in seconds since 1970.", ("certificate",)
    ),
    "drain_seconds": Metric("histogram", "Time of draining at a stop.", buckets=_LONG_WAITS),
    "http_refused_total": Metric("counter", "HTTP requests refused: not HTTP, or too large."),
    "http_cut_total": Metric("counter", "HTTP connections cut: too slow, or too many connections."),
    "loop_tasks": Metric("gauge", "Tasks of the event loop."),
    "loop_delay_seconds": Metric("histogram", "Delay with which the event loop ran what was due."),
    "loop_blocked_total": Metric("counter", "Times the event loop's own work made it late by 20 ms or more."),
    "loop_starved_total": Metric(
        "counter",
        "Times the event loop got no CPU and was late by 20 ms or more: too few cores, a CPU limit, a slow disk.",
    ),
}
