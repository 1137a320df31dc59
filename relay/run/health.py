"""Whether this replica is alive and ready, decided from what the stages report; no I/O, no clock of its own.

`now` is monotonic seconds everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from relay.text import one_line

if TYPE_CHECKING:
    from relay.settings import HealthSettings

MOST_TOPICS = 20
"""Topics in trouble that are named; thousands would be no answer to a probe."""

MAX_STALL = 10.0
"""Seconds without a turn of the event loop after which a replica counts as dead: longer than a busy machine
makes anybody wait, shorter than the default lease."""


DISCARDS_IN_A_ROW = 3
"""So many producers that were discarded one after the other, none of which got anything through, are no accident."""


@dataclass(slots=True)
class _Server:
    """What is known about the connection to a server."""

    name: str
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
        because = f": {self.error}" if self.error else ""
        if not self.reached:
            return f"{self.name} has not been reached yet{because}"
        if self.away_since is not None and now - self.away_since >= max_outage:
            return f"{self.name} has been away for {now - self.away_since:.0f} s{because}"
        return None


class Health:
    """Collects what the stages report and says what follows from it.

    Ready means **progress**: of what this replica has in hand something is settled, or it looks for more, at least once
    in `max_lag`, and no server has been away for long. A backlog of hours that moves is ready, and so is a replica that
    owns no lane.
    """

    def __init__(self, settings: HealthSettings, now: float) -> None:
        self._settings = settings
        self._postgres = _Server("PostgreSQL")
        self._kafka = _Server("Kafka")
        self._turned = now
        self._stalled: tuple[float, float] | None = None
        self._stopping = False
        self._topics: dict[str, str] = {}
        self._flow_fails: str | None = None
        self._discarded: tuple[int, str] | None = None
        self._unrecorded: str | None = None
        self._unseen: str | None = None

    def postgres_ok(self, now: float) -> None:  # noqa: ARG002 reports have one form
        """Note that PostgreSQL answers."""
        self._postgres.ok()

    def postgres_lost(self, now: float, error: object) -> None:
        """Note that PostgreSQL does not answer; repeated reports count from the first."""
        self._postgres.lost(now, error)

    def kafka_ok(self, now: float) -> None:  # noqa: ARG002
        """Note that Kafka answers."""
        self._kafka.ok()

    @property
    def kafka_was_reached(self) -> bool:
        """Whether Kafka has ever answered this process."""
        return self._kafka.reached

    def kafka_lost(self, now: float, error: object) -> None:
        """Note that Kafka does not answer; repeated reports count from the first."""
        self._kafka.lost(now, error)

    def producer_discarded(self, reason: str, in_a_row: int) -> None:
        """Note that the main producer was discarded, for the `in_a_row`th time since it got anything through."""
        self._discarded = (in_a_row, " ".join(reason.split()))

    def producer_works(self) -> None:
        """Note that the main producer got something through."""
        self._discarded = None

    def progress(self, now: float, stalled: float | None) -> None:
        """Note for how many seconds nothing has moved that could; None if something does.

        Until the next report that time goes on, so that a stage which hangs does not look healthy.
        """
        self._stalled = None if stalled is None else (now, stalled)

    def flow_fails(self, why: str) -> None:
        """Note that the flow ended for `why`, and begins anew."""
        self._flow_fails = " ".join(why.split())

    def unrecorded(self, events: int, why: str) -> None:
        """Note of how many events the outcome cannot be recorded, and why."""
        self._unrecorded = f"what became of {events} events cannot be recorded: {why}" if events else None

    def events_unseen(self, error: Exception | None) -> None:
        """Note that events were found that the relay has passed, or that there are none any more."""
        self._unseen = None if error is None else one_line(error)

    def flow_works(self) -> None:
        """Note that the flow has lasted."""
        self._flow_fails = None

    def topic_troubled(self, topic: str, error: str) -> None:
        """Note that a topic takes no events. Others go on, so this alone does not make the replica unready."""
        self._topics[topic] = one_line(error)

    def topic_works(self, topic: str) -> None:
        """Note that a topic takes events again."""
        self._topics.pop(topic, None)

    def troubled_topics(self) -> dict[str, str]:
        """Topics that take no events, and why: the first of them."""
        return dict(islice(self._topics.items(), MOST_TOPICS))

    def more_troubled_topics(self) -> int:
        """The number of the others."""
        return max(0, len(self._topics) - MOST_TOPICS)

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
        return now - self._turned < MAX_STALL

    def ready(self, now: float) -> list[str]:
        """Say why this replica is not ready; nothing if it is."""
        reasons = [server.reason(now, self._settings.max_outage) for server in (self._postgres, self._kafka)]
        if self.stalled(now) >= self._settings.max_lag:
            reasons.append(f"there has been no progress for {self.stalled(now):.0f} s")
        reasons += [self._flow_fails, self._unrecorded, self._unseen]
        if self._discarded is not None and self._discarded[0] >= DISCARDS_IN_A_ROW:
            in_a_row, reason = self._discarded
            reasons.append(f"{in_a_row} Kafka producers in a row were discarded: {reason}")
        if self._stopping:
            reasons.append("the relay is stopping")
        return [reason for reason in reasons if reason is not None]
