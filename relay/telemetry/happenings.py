"""The table of happenings: everything that the relay tells of itself.

A stage emits a happening by its name. This table alone decides what is logged and which metrics change.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]
LEVELS: dict[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


@dataclass(frozen=True, slots=True)
class Update:
    """The change that a happening makes to one metric: by a constant, or by the value of one of its fields.

    A counter grows by it, a histogram observes it, a gauge is set to it. A field that is a collection counts its
    elements.
    """

    metric: str
    by: float | str = 1.0
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Happening:
    """What is logged and counted when the happening is emitted.

    A happening without a level is not logged: it only changes metrics, or tells listeners something.

    A happening with a `state`, a pair (thing, state of the thing), may be emitted as often as one likes: metrics change
    and a line is logged only when the thing's state changes. An error that is new in this state gets a line, too.
    """

    level: Level | None
    text: str
    fields: tuple[str, ...] = ()
    updates: tuple[Update, ...] = ()
    state: tuple[str, str] | None = None
    warn_if: str | None = None
    """A field; the line is a warning when its value is not zero."""


HAPPENINGS: dict[str, Happening] = {
    # the service
    "service.started": Happening(
        "info", "Relay started", ("version", "replica"), (Update("build_info", labels=("version",)),)
    ),
    "settings.old_name": Happening("warning", "A setting has its old name", ("warning",)),
    "service.stopping": Happening("info", "Stopping: no new events are taken", ("reason",)),
    "drain.done": Happening(
        "info", "All taken events are settled", ("seconds",), (Update("drain_seconds", "seconds"),)
    ),
    "service.stopped": Happening(
        "info",
        "Relay stopped",
        ("abandoned_events",),
        (Update("abandoned_events_total", "abandoned_events"),),
        warn_if="abandoned_events",
    ),
    "http.started": Happening("info", "Serving /livez, /readyz and /metrics", ("host", "port")),
    "http.refused": Happening(
        "debug",
        "HTTP request refused: not HTTP, or too large",
        ("peer", "error", "requests"),
        (Update("http_refused_total"),),
        warn_if="requests",
    ),
    "http.cut": Happening(
        "debug",
        "HTTP connection cut: too slow, or too many connections",
        ("reason", "connections"),
        (Update("http_cut_total"),),
        warn_if="connections",
    ),
    "loop.delayed": Happening(
        None, "The event loop ran late", ("seconds",), (Update("loop_delay_seconds", "seconds"),)
    ),
    "loop.blocked": Happening("debug", "The event loop was blocked", ("seconds",), (Update("loop_blocked_total"),)),
    "loop.starved": Happening(
        "debug", "The event loop waited for a CPU", ("seconds",), (Update("loop_starved_total"),)
    ),
    "loop.stalled": Happening("warning", "The event loop stalled", ("seconds", "worked")),
    "state.unsteady": Happening(
        "warning", "A state keeps changing; it is logged again once it has held for 30 s", ("what",)
    ),
    # PostgreSQL
    "postgres.waiting": Happening(
        "warning",
        "Waiting for PostgreSQL",
        ("error",),
        (Update("postgres_up", 0.0),),
        state=("postgres", "down"),
    ),
    "postgres.connected": Happening(
        "info",
        "PostgreSQL connected",
        ("version", "connections"),
        (Update("postgres_up"),),
        state=("postgres", "up"),
    ),
    "postgres.lost": Happening(
        "warning",
        "PostgreSQL lost",
        ("error",),
        (Update("postgres_up", 0.0), Update("postgres_lost_total")),
        state=("postgres", "down"),
    ),
    # the flow as a whole
    "tenure.failed": Happening(
        "debug",
        "The flow failed with an unexpected error; it begins again",
        ("error", "again_in"),
        (Update("flow_failed_total"),),
    ),
    "tenure.failing": Happening(
        "error",
        "The flow fails with an unexpected error; it is tried again with growing pauses",
        ("error", "statement"),
        state=("tenure", "failing"),
    ),
    "tenure.works": Happening("info", "The flow works again", state=("tenure", "works")),
    # Kafka
    "kafka.waiting": Happening(
        "warning", "Waiting for Kafka", ("error",), (Update("kafka_up", 0.0),), state=("kafka", "down")
    ),
    "kafka.connected": Happening("info", "Kafka connected", (), (Update("kafka_up"),), state=("kafka", "up")),
    "kafka.lost": Happening(
        "warning",
        "Kafka lost",
        ("error",),
        (Update("kafka_up", 0.0), Update("kafka_lost_total")),
        state=("kafka", "down"),
    ),
    "producer.replaced": Happening(
        "debug",
        "Kafka producer replaced",
        ("producer", "reason", "first_time"),
        (Update("producers_replaced_total"),),
        warn_if="first_time",
    ),
    "producer.works": Happening(
        None, "A Kafka producer got a batch through, for the first time since one was discarded", ("producer",)
    ),
    # claim
    "lanes.claimed": Happening("info", "Lanes claimed", ("lanes",), (Update("lanes_claimed_total", "lanes"),)),
    "lanes.released": Happening("info", "Lanes released", ("lanes",), (Update("lanes_released_total", "lanes"),)),
    "lease.lost": Happening("warning", "Lease lost", ("reason",), (Update("leases_lost_total"),)),
    "hint.failed": Happening(
        "warning",
        "Hints between replicas (NOTIFY) fail; the replicas notice changes with their next heartbeat",
        ("error",),
        (Update("hints_failed_total"),),
        state=("hints", "failing"),
    ),
    "hint.sent": Happening(None, "Hint sent", state=("hints", "working")),
    "heartbeat.done": Happening(None, "Heartbeat", ("seconds",), (Update("heartbeat_seconds", "seconds"),)),
    # scan
    "scan.done": Happening(
        None,
        "Scanned",
        ("events", "bytes", "seconds"),
        (
            Update("scanned_events_total", "events"),
            Update("scanned_bytes_total", "bytes"),
            Update("scan_seconds", "seconds"),
        ),
    ),
    "sweep.started": Happening("info", "Long sweep started", ("lane", "ids")),
    "sweep.done": Happening(
        "info",
        "Long sweep done",
        ("lane", "seconds"),
        (Update("sweeps_total"), Update("sweep_seconds", "seconds")),
    ),
    # publish
    "publish.acknowledged": Happening(
        None,
        "Acknowledged",
        ("topic", "events", "bytes", "seconds"),
        (
            Update("published_events_total", "events", ("topic",)),
            Update("published_bytes_total", "bytes", ("topic",)),
            Update("publish_seconds", "seconds"),
        ),
    ),
    "publish.restamped": Happening(
        "debug",
        "Events published with the time of publishing: their topic does not take the time of writing",
        ("topic", "events", "first_time"),
        (Update("restamped_events_total", "events", ("topic",)),),
        warn_if="first_time",
    ),
    "publish.refused": Happening(
        "debug",
        "Kafka refused a record batch",
        ("topic", "partition", "events", "error"),
        (Update("refused_events_total", "events", ("topic",)),),
    ),
    "publish.fault": Happening(
        "error",
        "A part of publishing failed with an unexpected error; it begins again",
        ("error",),
        state=("publish", "faulty"),
    ),
    "topic.troubled": Happening("warning", "A topic does not take events; its events wait", ("topic", "error")),
    "topic.paused": Happening(
        "warning",
        "Topic paused: its events are held back, other topics continue",
        ("topic", "error"),
        (Update("topics_paused_total"),),
    ),
    "topic.resumed": Happening("info", "Topic works again", ("topic",)),
    "topic.troubled_too": Happening("debug", "Another topic does not take events", ("topic", "error")),
    "topic.paused_too": Happening(
        "debug", "Another topic paused", ("topic", "error"), (Update("topics_paused_total"),)
    ),
    "topic.resumed_too": Happening("debug", "Another topic works again", ("topic",)),
    "partition.stalled": Happening(
        "warning", "A partition makes no progress while others do", ("topic", "partition", "error")
    ),
    "partition.moves": Happening(None, "Something moves in a partition that had stalled", ("topic", "partition")),
    "event.retrying": Happening(
        "warning",
        "Kafka refused an event for an unknown reason; it is tried again later and holds back its key",
        ("topic", "id", "error"),
        (Update("retried_events_total", labels=("topic",)),),
    ),
    "event.failed": Happening(
        "error",
        "An event failed: see `relay failed list`",
        ("topic", "id", "policy", "error"),
        (Update("failed_events_total", labels=("topic",)),),
    ),
    "event.failed_too": Happening(
        "debug",
        "Another event failed",
        ("topic", "id", "policy", "error"),
        (Update("failed_events_total", labels=("topic",)),),
    ),
    "events.held": Happening(None, "Held back", ("events",), (Update("held_events_total", "events"),)),
    "event.unrecorded": Happening(
        "error",
        "The outcome of an event cannot be recorded; recording is tried again",
        ("topic", "id", "error"),
        (Update("refused_records_total"),),
    ),
    # settle
    "settle.done": Happening(
        None,
        "Settled",
        ("events", "duplicates", "seconds"),
        (
            Update("settled_events_total", "events"),
            Update("duplicate_events_total", "duplicates"),
            Update("settle_seconds", "seconds"),
        ),
    ),
    "settle.duplicates": Happening("warning", "Events are in Kafka more than once", ("events",)),
    # replays of delivered events
    "replay.started": Happening("info", "Replay of delivered events started", ("action", "topic", "lanes")),
    "replay.ended": Happening("info", "Replay of delivered events ended: finished or cancelled", ("action",)),
    "replay.settled": Happening(
        None,
        "Replayed",
        ("topic", "events", "refused"),
        (
            Update("replayed_events_total", "events", ("topic",)),
            Update("replay_refused_events_total", "refused", ("topic",)),
        ),
    ),
    "replay.refused": Happening(
        "warning",
        "Kafka refuses events of a replay; the replay counts them and goes on: see `relay replay show`",
        ("action", "topic", "error"),
    ),
    "replay.waiting": Happening("warning", "No connection to PostgreSQL for replays yet", ("error",)),
    # housekeeping
    "segment.created": Happening("info", "Segment created", ("segment",), (Update("segments_created_total"),)),
    "segment.dropped": Happening("info", "Segment dropped", ("segment",), (Update("segments_dropped_total"),)),
    "receipts.checked": Happening(
        None,
        "Looked for events that the relay has passed and not seen; the error names those that are known",
        ("events", "error"),
        (Update("unseen_events", "events"),),
    ),
    "events.unseen": Happening(
        "error",
        "The relay has passed events that it has not seen: they will not be published",
        ("events", "error"),
    ),
    "housekeeping.put_off": Happening(
        "warning",
        "Housekeeping postponed; the flow goes on",
        ("chore", "error"),
    ),
    "housekeeping.failed": Happening(
        None,
        "Housekeeping failed",
        ("chore", "overdue"),
        (
            Update("housekeeping_failures_total", labels=("chore",)),
            Update("housekeeping_overdue_seconds", "overdue", ("chore",)),
        ),
    ),
    "housekeeping.works_again": Happening(
        "info",
        "Postponed housekeeping is done",
        ("chore", "overdue"),
        (Update("housekeeping_overdue_seconds", "overdue", ("chore",)),),
    ),
}
