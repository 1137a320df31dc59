"""Topics that do not move: found, paused so that they take nobody's room, tried again, resumed.

And the difference between a topic's trouble and Kafka's: an idempotent batch does not fail for a broker that is away.
Its age tells; that *others* are acknowledged meanwhile, or that the partition has no leader, tells whose trouble it is.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from relay.outcome import FailureKind, PublishError
from relay.stages.publish.topic import Topic, Trouble
from relay.stages.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.retry import Backoff
    from relay.stages.hold.gate import Gate
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.publish import Publish
    from relay.telemetry import Telemetry

WATCH_INTERVAL = 0.25
"""Seconds between looks while something is in flight or in trouble."""

IDLE_INTERVAL = 1.0
"""Seconds between looks at other times, at whether topics have other partitions."""

STUCK_AFTER = 3.0
"""Seconds for which a batch may stay unacknowledged while Kafka acknowledges others."""

PAUSE_AFTER = 2.0
"""Seconds of trouble after which a topic's events are held back and its lanes go on."""

MOST_OF_ROOM = 1 / 8
"""Part of the buffer that the events of a topic may take that is not there: with more, it is paused at once. The others
would stand still until it is."""

LOOK_UP_INTERVAL = 2.0
"""Seconds between questions to Kafka about a paused topic. What it answers shows whether a try is worth it: one that
hangs fills the buffer with what was held back, and stops the other topics meanwhile."""

WATCHED_AT_ONCE = 200
"""Topics that are looked at before others have their turn; a writer may have named thousands."""

STALLED_AFTER = 30.0
"""Seconds for which a partition may neither take nor refuse an event that waits for it, while others do."""

ALIVE_FOR = 1.0
"""Seconds without any acknowledgement after which Kafka does not count as working for the others."""


class Troubles:
    """Watches what publish has in flight."""

    def __init__(
        self,
        gate: Gate,
        new_backoff: Callable[[], Backoff],
        request_timeout: float,
        telemetry: Telemetry,
    ) -> None:
        self._gate = gate
        self._new_backoff = new_backoff
        self._request_timeout = request_timeout
        self._telemetry = telemetry
        self._backoffs: dict[str, Backoff] = {}
        self._alive_since: float | None = None
        self._leaderless_since: dict[Partition, float] = {}
        self._progress: dict[Partition, tuple[int, float]] = {}
        self._stalled: set[Partition] = set()
        self._telling_troubles = Telling()
        self._telling_pauses = Telling()
        self._telling_ends = Telling()

    def begin_tenure(self, publish: Publish) -> None:
        """What is paused is so for the new tenure too."""
        for topic in publish.topics.values():
            if topic.trouble is not None and topic.trouble.paused:
                self._gate.close(topic.name, topic.withdraw())

    def begin(self, topic: Topic, error: PublishError, partition: Partition | None = None) -> None:
        """A topic, or one `partition` of it, does not move, for `error`."""
        now = time.monotonic()
        trouble = topic.trouble
        if trouble is None or str(trouble.error) != str(error):
            self._tell_trouble(topic.name, error)
        # Not the frames that it came by: there may be thousands of such.
        error = error.with_traceback(None)
        if trouble is None:
            trouble = topic.trouble = Trouble(error, now)
        else:
            trouble.error = error
            if trouble.probe_at:
                # It was resumed to see whether it works again. It does not.
                self._pause(topic, trouble)
        if partition is not None:
            trouble.partitions.add(partition)

    def end(self, topic: Topic) -> None:
        """It moves again."""
        trouble, topic.trouble = topic.trouble, None
        self._backoffs.pop(topic.name, None)
        if trouble is not None:
            self._tell_end(topic.name)
            self._gate.open(topic.name)

    def acknowledged(self, topic: Topic, partition: Partition, now: float) -> None:
        """Kafka took a batch of this partition."""
        trouble = topic.trouble
        if trouble is not None and partition in trouble.partitions:
            trouble.partitions.discard(partition)
            if trouble.idle:
                self.end(topic)
        if self._alive_since is None:
            self._alive_since = now
        self._telemetry.emit("kafka.connected")

    def given_back(self, topic: Topic) -> None:
        """Events that were in flight wait again: of a paused topic they are held back like the others."""
        if topic.trouble is not None and topic.trouble.paused:
            self._gate.close(topic.name, topic.withdraw())

    async def run(self, publish: Publish) -> None:
        """Watch until cancelled."""
        while True:
            in_trouble = sum(topic.trouble is not None for topic in publish.topics.values())
            await asyncio.sleep(WATCH_INTERVAL if publish.topics.in_flight or in_trouble else IDLE_INTERVAL)
            now = time.monotonic()
            self._telemetry.gauge("inflight_events", publish.topics.in_flight)
            self._telemetry.gauge("troubled_topics", in_trouble)
            self._watch_kafka(publish, now)
            self._watch_room(publish)
            # There may be thousands that are not there, and are being asked for: nothing else is to be seen of them.
            watched = [topic for topic in publish.topics.values() if not topic.missing]
            for number, topic in enumerate(watched, 1):
                self._watch_topic(publish, topic, now)
                publish.forget_if_idle(topic, now)
                if number % WATCHED_AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _watch_kafka(self, publish: Publish, now: float) -> None:
        # A topic's own trouble explains its silence.
        topics = [topic for topic in publish.topics.values() if topic.trouble is None]
        sent = [flight.sent_at for topic in topics for each in topic.partitions for flight in each.flights]
        if now - publish.last_acknowledged > ALIVE_FOR:
            self._alive_since = None
        if sent and now - min(sent) > self._request_timeout and self._alive_since is None:
            producer = publish.producers.main.current
            known = producer.trouble() if producer is not None else None
            error = f"no acknowledgement for {self._request_timeout:g} s" + (f": {known}" if known else "")
            self._telemetry.emit("kafka.lost", error=error)

    def forget(self, topic: Topic) -> None:
        """Nothing is to be known of it any more."""
        for partition in topic.partitions:
            self._leaderless_since.pop(partition, None)
            self._progress.pop(partition, None)
            self._stalled.discard(partition)

    def _tell_trouble(self, topic: str, error: PublishError) -> None:
        if self._telling_troubles.worth_a_line(time.monotonic()):
            self._telemetry.emit("topic.troubled", topic=topic, error=error)
        else:
            self._telemetry.emit("topic.troubled_too", topic=topic, error=error)

    def _tell_pause(self, topic: str, error: PublishError) -> None:
        if self._telling_pauses.worth_a_line(time.monotonic()):
            self._telemetry.emit("topic.paused", topic=topic, error=error)
        else:
            self._telemetry.emit("topic.paused_too", topic=topic, error=error)

    def _tell_end(self, topic: str) -> None:
        if self._telling_ends.worth_a_line(time.monotonic()):
            self._telemetry.emit("topic.resumed", topic=topic)
        else:
            self._telemetry.emit("topic.resumed_too", topic=topic)

    def _watch_room(self, publish: Publish) -> None:
        """Thousands of topics that are not there take the others' room together, though each has but a few events."""
        waiting = [topic for topic in publish.topics.values() if topic.trouble and topic.unrouted]
        if publish.share_of_room(*waiting) > MOST_OF_ROOM:
            for topic in waiting:
                if topic.trouble is not None and not topic.trouble.paused:
                    self._pause(topic, topic.trouble)

    def _watch_progress(self, topic: Topic, now: float) -> None:
        """Name a partition in which nothing moves, for whatever reason: what waits for it is seen nowhere else."""
        for partition in topic.partitions:
            seen = self._progress.get(partition)
            others_move = self._alive_since is not None and topic.trouble is None
            if partition.idle or not others_move or seen is None or seen[0] != partition.progress:
                self._progress[partition] = (partition.progress, now)
                if partition in self._stalled:
                    self._stalled.discard(partition)
                    if topic.trouble is None:
                        self._telemetry.emit("partition.moves", topic=topic.name, partition=partition.number)
            elif now - seen[1] > STALLED_AFTER and partition not in self._stalled:
                self._stalled.add(partition)
                error = (
                    f"partition {partition.number} makes no progress, and {len(partition.waiting)} events wait for it"
                )
                self._telemetry.emit("partition.stalled", topic=topic.name, partition=partition.number, error=error)

    def _watch_topic(self, publish: Publish, topic: Topic, now: float) -> None:
        self._watch_metadata(publish, topic)
        self._watch_partitions(publish, topic, now)
        self._watch_progress(topic, now)
        trouble = topic.trouble
        if trouble is None:
            return
        if not trouble.paused and not trouble.probe_at:
            if now - trouble.since > PAUSE_AFTER:
                self._pause(topic, trouble)
        elif trouble.paused and topic.router is not None:
            if now >= trouble.look_up_at:
                trouble.look_up_at = now + LOOK_UP_INTERVAL
                publish.look_up(topic)
            if now >= trouble.probe_at and topic.idle and _may_work(publish, topic, trouble):
                trouble.paused = False
                trouble.probe_at = now
                self._gate.open(topic.name)
        elif not trouble.paused and trouble.probe_at and now - trouble.probe_at > PAUSE_AFTER + STUCK_AFTER:
            # What was resumed to see whether it works again hangs, or there was nothing to resume.
            if topic.router is not None and trouble.idle:
                self.end(topic)
            else:
                self._pause(topic, trouble)

    def _watch_partitions(self, publish: Publish, topic: Topic, now: float) -> None:
        producer = publish.producers.main.current
        for partition in topic.partitions:
            leaderless = producer is not None and producer.leaderless(topic.name, partition.number)
            if not leaderless:
                self._leaderless_since.pop(partition, None)
            if not partition.flights:
                continue
            oldest = partition.flights[0]
            if leaderless:
                # To know that takes no other's acknowledgement: what waits for this topic may have all the room.
                since, what = self._leaderless_since.setdefault(partition, now), "has no leader; bring its brokers back"
            elif self._alive_since is not None:
                since = max(oldest.sent_at, self._alive_since)
                what = "acknowledges nothing while others do; check whether its replicas are in sync"
            else:
                continue
            if now - since > STUCK_AFTER:
                text = f"partition {partition.number} of topic {topic.name} {what}"
                error = PublishError(FailureKind.TOPIC, text, "NotAcknowledged")
                if not partition.suspect:
                    # aiokafka makes a broker's other partitions wait for the retries of this one: not in our midst.
                    partition.suspect = True
                    publish.producers.discard(oldest.producer, str(error))
                if topic.trouble is None:
                    self.begin(topic, error, partition)
                else:
                    # Nothing new is to be told.
                    topic.trouble.partitions.add(partition)

    def _pause(self, topic: Topic, trouble: Trouble) -> None:
        """Hold its events back; look again after a while."""
        if not trouble.paused:
            trouble.paused = True
            self._tell_pause(topic.name, trouble.error)
        backoff = self._backoffs.setdefault(topic.name, self._new_backoff())
        trouble.probe_at = time.monotonic() + backoff.next_delay()
        self._gate.close(topic.name, topic.withdraw())

    def _watch_metadata(self, publish: Publish, topic: Topic) -> None:
        producer = publish.producers.main.current
        if producer is None or topic.router is None:
            return
        count = producer.known_partition_count(topic.name)
        if count == topic.router.partitions:
            return
        for partition in topic.partitions:
            partition.chill()
        # 0: not known at the moment, perhaps deleted, perhaps a new producer: what is routed waits there.
        if count:
            publish.resolve_anew(topic)


def _may_work(publish: Publish, topic: Topic, trouble: Trouble) -> bool:
    """Whether Kafka has the topic, and a leader for each partition that took no events."""
    producer = publish.producers.main.current
    return (
        producer is not None
        and producer.known_partition_count(topic.name) > 0
        and not any(producer.leaderless(topic.name, partition.number) for partition in trouble.partitions)
    )
