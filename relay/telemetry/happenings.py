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
    "settings.unsafe": Happening("warning", "A setting is not safe", ("warning",)),
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
    "loop.debug": Happening("warning", "The event loop is in debug mode, which takes CPU", ("slow_callback",)),
    "loop.slow": Happening("warning", "A step of the event loop took too long", ("seconds", "where")),
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
        (Update("postgres_up", 0.0), Update("postgres_connections", 0.0)),
        state=("postgres", "down"),
    ),
    "postgres.connected": Happening(
        "info",
        "PostgreSQL connected",
        ("version", "connections"),
        (Update("postgres_up"), Update("postgres_connections", "connections")),
        state=("postgres", "up"),
    ),
    "postgres.lost": Happening(
        "warning",
        "PostgreSQL lost",
        ("error",),
        (Update("postgres_up", 0.0), Update("postgres_connections", 0.0), Update("postgres_lost_total")),
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
    "trace.failed": Happening(
        "warning", "Spans cannot be made; events are published all the same", ("error",), state=("tracing", "failing")
    ),
    "publish.delivered": Happening(
        None, "The oldest event of a record batch was delivered", ("age",), (Update("delivery_seconds", "age"),)
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
    "topic.limited": Happening(
        None,
        "Held back because the topic's rate is limited",
        ("topic", "events", "limit"),
        (Update("limited_events_total", "events", ("topic",)),),
    ),
    "pause.began": Happening(
        "info",
        "A person paused a topic: its events are held back until the time given",
        ("topic", "until", "requested_by", "reason"),
    ),
    "pause.ended": Happening("info", "A pause that a person asked for has ended: held events go on", ("topic",)),
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
    # reconcile
    "reconcile.unfenced": Happening(
        "warning",
        "Producers cannot be fenced: a crash may repeat events that arrive at Kafka late",
        ("error",),
        state=("fences", "missing"),
    ),
    "reconcile.fenced": Happening(None, "A producer can be fenced", state=("fences", "there")),
    "reconcile.started": Happening(
        "info", "A replica ended without handing over: asking Kafka what it had published", ("replica", "partitions")
    ),
    "reconcile.found": Happening(
        None, "Found in Kafka", ("events",), (Update("reconcile_found_events_total", "events"),)
    ),
    "reconcile.gave_up": Happening(
        "warning",
        "Events of a replica that ended may be published again",
        ("topic", "partition", "reason", "error"),
        (Update("reconcile_gave_up_total", labels=("reason",)),),
    ),
    "reconcile.waiting": Happening(
        "warning",
        "What a replica had published that ended cannot be found out yet; its lanes wait",
        ("error",),
        state=("reconcile", "waiting"),
    ),
    "reconcile.held_up": Happening(
        "warning",
        "What a replica had published that ended cannot be found out yet in some partitions; its lanes wait",
        ("replica", "error"),
    ),
    "batches.unknown": Happening(
        "warning",
        "Whether Kafka has some record batches cannot be found out yet; their partitions wait",
        ("error",),
        state=("batches", "unknown"),
    ),
    "batches.known": Happening(None, "What became of record batches is known", state=("batches", "known")),
    "reconcile.works": Happening(None, "Kafka says what replicas had published", state=("reconcile", "works")),
    "reconcile.done": Happening(
        "info",
        "What a replica had published is found out; its lanes are free",
        ("replica", "partitions", "found", "bytes", "seconds"),
        (
            Update("reconcile_total"),
            Update("reconcile_bytes_total", "bytes"),
            Update("reconcile_seconds", "seconds"),
        ),
    ),
    # settle
    "settle.done": Happening(
        None,
        "Settled",
        ("events", "seconds"),
        (
            Update("settled_events_total", "events"),
            Update("settle_seconds", "seconds"),
        ),
    ),
    "settle.duplicates": Happening(
        "warning", "Events are in Kafka more than once", ("events",), (Update("duplicate_events_total", "events"),)
    ),
    "duplicates.uncounted": Happening(
        "warning", "Whether events are in Kafka more than once cannot be read", ("error",)
    ),
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
    # timers
    "timers.moved": Happening(
        None, "Scheduled events entered the outbox", ("events",), (Update("scheduled_moved_total", "events"),)
    ),
    "timers.put_off": Happening(
        "error",
        "The outbox does not take a scheduled event that is due; it is tried again, and its key's later ones wait",
        ("topic", "id", "error"),
        (Update("scheduled_put_off_total"),),
    ),
    "timers.failing": Happening(
        "warning",
        "Scheduled events that are due cannot be moved into the outbox; this is tried again",
        ("error",),
        state=("timers", "failing"),
    ),
    "timers.working": Happening(None, "Scheduled events are moved when they are due", state=("timers", "working")),
    # housekeeping
    "segment.created": Happening("info", "Segment created", ("segment",), (Update("segments_created_total"),)),
    "segment.dropped": Happening("info", "Segment dropped", ("segment",), (Update("segments_dropped_total"),)),
    "segment.retired": Happening(
        "info",
        "Segment dropped but for what is still needed, which is in a small one in its place",
        ("segment", "kept"),
        (Update("segments_dropped_total"), Update("kept_events_total", "kept")),
    ),
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
