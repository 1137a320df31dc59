"""Whether this replica is alive and ready, decided from what happens; no I/O, no clock of its own.

Health listens to happenings (`listen_to`): the stages emit them and do not know it. What is not a happening but a
measure, as how long nothing has moved, the session, the restarts and the watchdog of the event loop report directly.

`now` is monotonic seconds everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

from relay.text import MAX_NAMED, one_line

if TYPE_CHECKING:
    from relay.settings import HealthSettings
    from relay.telemetry import Telemetry, Told

MAX_LOOP_STALL = 10.0
"""Seconds without a turn of the event loop after which a replica counts as dead: longer than a busy machine
makes anybody wait, shorter than the default lease."""


class Reason(StrEnum):
    """Why a replica is not ready: all the reasons that `/readyz` gives.

    The details follow after a colon, where there are any. The run book explains each reason, which a test holds.
    """

    POSTGRES_NOT_REACHED = "PostgreSQL has not been reached yet"
    KAFKA_NOT_REACHED = "Kafka has not been reached yet"
    POSTGRES_AWAY = "PostgreSQL has been away for {seconds:.0f} s"
    KAFKA_AWAY = "Kafka has been away for {seconds:.0f} s"
    STALLED = "there has been no progress for {seconds:.0f} s"
    FLOW_FAILED = "the flow failed"
    FLOW_KEEPS_FAILING = "the flow keeps failing"
    POSTGRES_KEEPS_BREAKING = "the connection to PostgreSQL keeps breaking"
    UNRECORDED = "the outcome of some events ({events:,}) cannot be recorded"
    UNSEEN = "the relay has passed events that it has not seen"
    DISCARDED = "{producers:,} Kafka producers in a row were discarded"
    STOPPING = "the relay is stopping"

    def say(self, detail: object = "", **numbers: float) -> str:
        """The reason as one line, with its numbers and details."""
        said = self.value.format(**numbers)
        return f"{said}: {one_line(detail)}" if detail else said


DISCARDS_IN_A_ROW = 3
"""Number of producers, discarded one after the other without having got anything through, that is not an accident."""


@dataclass(slots=True)
class _Server:
    """What is known about the connection to a server."""

    not_reached: Reason
    away: Reason
    reached: bool = False
    away_since: float | None = None
    error: str = ""

    def ok(self) -> None:
        self.reached, self.away_since, self.error = True, None, ""

    def lost(self, now: float, error: object) -> None:
        if self.away_since is None:
            self.away_since = now
        self.error = one_line(error)

    def reason(self, now: float, max_outage: float) -> str | None:
        if not self.reached:
            return self.not_reached.say(self.error)
        if self.away_since is not None and now - self.away_since >= max_outage:
            return self.away.say(self.error, seconds=now - self.away_since)
        return None


class Health:
    """Collects what happens and says what follows from it.

    Ready means **progress**: at least once in `max_stall` seconds this replica settles an event that it has in hand, or
    looks for more; and no server has been away for long. A replica with a backlog of hours is ready while the backlog
    moves, and so is a replica that owns no lane.
    """

    def __init__(self, settings: HealthSettings, now: float) -> None:
        self._settings = settings
        self._postgres = _Server(Reason.POSTGRES_NOT_REACHED, Reason.POSTGRES_AWAY)
        self._kafka = _Server(Reason.KAFKA_NOT_REACHED, Reason.KAFKA_AWAY)
        self._turned = now
        self._stalled: tuple[float, float] | None = None
        self._stopping = False
        self._topics: dict[str, str] = {}
        self._pauses: dict[str, str] = {}
        self._partitions: dict[str, dict[int, str]] = {}
        self._flow_fails: str | None = None
        self._discarded = 0
        self._discarded_for = ""
        self._unrecorded: str | None = None
        self._unseen: str | None = None
        self._lanes_wait: str | None = None

    def listen_to(self, telemetry: Telemetry) -> None:
        """Hear of what happens from now on."""
        telemetry.listen("postgres.", self._hear_of_postgres)
        telemetry.listen("kafka.", self._hear_of_kafka)
        telemetry.listen("producer.", self._hear_of_producers)
        telemetry.listen("topic.", self._hear_of_topics)
        telemetry.listen("partition.", self._hear_of_topics)
        telemetry.listen("pause.", self._hear_of_pauses)
        telemetry.listen("reconcile.", self._hear_of_reconciling)
        telemetry.listen("receipts.checked", lambda told: self.events_unseen(told.fields["error"]))
        telemetry.listen("service.stopping", lambda _: self.stopping())

    def _hear_of_postgres(self, told: Told) -> None:
        match told:
            case ("postgres.connected", _, _):
                self.postgres_ok()
            case ("postgres.waiting" | "postgres.lost", at, {"error": error}):
                self.postgres_lost(at, error)

    def _hear_of_kafka(self, told: Told) -> None:
        match told:
            # Comes with every acknowledged batch.
            case ("kafka.connected", _, _):
                self.kafka_ok()
            case ("kafka.waiting" | "kafka.lost", at, {"error": error}):
                self.kafka_lost(at, error)

    def _hear_of_producers(self, told: Told) -> None:
        # Each try with a suspect partition may cost the producer beside the main one. What is the matter then is its
        # topic's trouble, and shown as such: one topic without enough replicas does not make the replica unready.
        match told:
            case ("producer.replaced", _, {"producer": "main", "reason": str(reason)}):
                self.producer_discarded(reason)
            case ("producer.works", _, {"producer": "main"}):
                self.producer_works()

    def _hear_of_topics(self, told: Told) -> None:
        match told:
            case ("topic.troubled" | "topic.troubled_too", _, {"topic": str(topic), "error": error}):
                self.topic_troubled(topic, error)
            case ("topic.resumed" | "topic.resumed_too", _, {"topic": str(topic)}):
                self.topic_works(topic)
            case ("partition.stalled", _, {"topic": str(topic), "partition": int(number), "error": error}):
                self.partition_stalled(topic, number, error)
            case ("partition.moves", _, {"topic": str(topic), "partition": int(number)}):
                self.partition_moves(topic, number)

    def _hear_of_pauses(self, told: Told) -> None:
        match told:
            case ("pause.began", _, {"topic": str(topic), "until": until, "requested_by": who, "reason": why}):
                self._pauses[topic] = one_line(f"until {until}, by {who}" + (f": {why}" if why else ""))
            case ("pause.ended", _, {"topic": str(topic)}):
                self._pauses.pop(topic, None)

    def _hear_of_reconciling(self, told: Told) -> None:
        match told:
            case ("reconcile.held_up", _, {"replica": str(replica), "error": error}):
                self._lanes_wait = one_line(f"replica {replica}: {error}")
            case ("reconcile.waiting", _, {"error": error}):
                self._lanes_wait = one_line(error)
            case ("reconcile.done" | "reconcile.works", _, _):
                self._lanes_wait = None

    def postgres_ok(self) -> None:
        """Note that PostgreSQL answers."""
        self._postgres.ok()

    def postgres_lost(self, now: float, error: object) -> None:
        """Note that PostgreSQL does not answer; repeated reports count from the first."""
        self._postgres.lost(now, error)

    def kafka_ok(self) -> None:
        """Note that Kafka answers."""
        self._kafka.ok()

    @property
    def kafka_was_reached(self) -> bool:
        """Whether Kafka has ever answered this process."""
        return self._kafka.reached

    def kafka_lost(self, now: float, error: object) -> None:
        """Note that Kafka does not answer; repeated reports count from the first."""
        self._kafka.lost(now, error)

    def producer_discarded(self, reason: str) -> None:
        """Note that the main producer was discarded; several in a row, none of which worked, make a replica unready."""
        self._discarded += 1
        self._discarded_for = reason

    def producer_works(self) -> None:
        """Note that the main producer got something through."""
        self._discarded = 0

    def progress(self, now: float, stalled: float | None) -> None:
        """Note for how many seconds nothing has moved that could; None if something does.

        Until the next report that time goes on, so that a stage which hangs does not look healthy.
        """
        self._stalled = None if stalled is None else (now, stalled)

    def flow_fails(self, reason: Reason, error: object) -> None:
        """Note that the flow ended with `error` and begins again."""
        self._flow_fails = reason.say(error)

    def unrecorded(self, events: int, why: str) -> None:
        """Note of how many events the outcome cannot be recorded, and why."""
        self._unrecorded = Reason.UNRECORDED.say(why, events=events) if events else None

    def events_unseen(self, error: object) -> None:
        """Note that events were found that the relay has passed, or that there are none any more."""
        self._unseen = None if error is None else Reason.UNSEEN.say(error)

    def flow_works(self) -> None:
        """Note that the flow has lasted."""
        self._flow_fails = None

    def topic_troubled(self, topic: str, error: object) -> None:
        """Note that a topic takes no events. Others go on, so this alone does not make the replica unready."""
        self._topics[topic] = one_line(error)

    def topic_works(self, topic: str) -> None:
        """Note that a topic takes events again. A partition that still makes no progress is reported anew."""
        self._topics.pop(topic, None)
        self._partitions.pop(topic, None)

    def partition_stalled(self, topic: str, partition: int, error: object) -> None:
        """Note that one partition of a topic takes no events, while others do."""
        self._partitions.setdefault(topic, {})[partition] = one_line(error)

    def partition_moves(self, topic: str, partition: int) -> None:
        """Note that it takes events again."""
        stalled = self._partitions.get(topic, {})
        stalled.pop(partition, None)
        if not stalled:
            self._partitions.pop(topic, None)

    def troubled_topics(self) -> dict[str, str]:
        """Topics of which at least a partition takes no events, and why: the first of them."""
        stalled = {topic: next(iter(errors.values())) for topic, errors in self._partitions.items()}
        # The topic's own trouble says more than what it does to a partition.
        return dict(islice((stalled | self._topics).items(), MAX_NAMED))

    def more_troubled_topics(self) -> int:
        """The number of the others."""
        return max(0, len(self._topics.keys() | self._partitions.keys()) - MAX_NAMED)

    def paused_topics(self) -> dict[str, str]:
        """Topics that people paused, with until when, who and why: the first of them. This is no trouble."""
        return dict(islice(self._pauses.items(), MAX_NAMED))

    def lanes_wait(self) -> str | None:
        """Return why the lanes of a replica that ended wait until this one finds out what that one had published.

        None if none do. This one does what it can, so it is no reason to be unready.
        """
        return self._lanes_wait

    def loop_turned(self, now: float) -> None:
        """Note that the event loop turns."""
        self._turned = now

    def stopping(self) -> None:
        """Note that the relay drains: from now on it is not ready."""
        self._stopping = True

    def stalled(self, now: float) -> float:
        """Return for how many seconds nothing has moved that could; 0 if something does."""
        if self._stalled is None:
            return 0.0
        reported, seconds = self._stalled
        return seconds + (now - reported)

    def alive(self, now: float) -> bool:
        """Whether the event loop turned lately."""
        return now - self._turned < MAX_LOOP_STALL

    def ready(self, now: float) -> list[str]:
        """Say why this replica is not ready; nothing if it is."""
        reasons = [server.reason(now, self._settings.max_outage) for server in (self._postgres, self._kafka)]
        if self.stalled(now) >= self._settings.max_stall:
            reasons.append(Reason.STALLED.say(seconds=self.stalled(now)))
        reasons += [self._flow_fails, self._unrecorded, self._unseen]
        if self._discarded >= DISCARDS_IN_A_ROW:
            reasons.append(Reason.DISCARDED.say(self._discarded_for, producers=self._discarded))
        if self._stopping:
            reasons.append(Reason.STOPPING.say())
        return [reason for reason in reasons if reason is not None]
