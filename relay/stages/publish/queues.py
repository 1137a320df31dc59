"""All topics that there were events for, and what publish has of them in its hands.

Events of the current tenure wait in three kinds of line: `Topic.unrouted`, `Topic.refused` and `Partition.waiting`.
Events in flight may be of former tenures. The only way out of a line, but for sending an event or failing it, is
`withdraw`, of all topics, of one, or of a partition: it tells the events' origins (`Line`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from relay.decide.routing import KnownKeys
from relay.event import created_ms_of
from relay.outcome import FailureKind, PublishError
from relay.retry import Backoff
from relay.stages.publish.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relay.decide.admission import Admission
    from relay.decide.cloud_events import CloudEvents
    from relay.decide.topic_rates import Rates
    from relay.event import PendingEvent
    from relay.stages.publish.partition import Flight, Partition
    from relay.stages.tenure import Tenure


class Topics(dict[str, Topic]):
    """Topics by name. No I/O: publish acts on them."""

    def __init__(
        self,
        *,
        hash_keys: Callable[[Sequence[bytes]], Sequence[int]],
        random: Callable[[], float],
        admission: Admission,
        cloud_events: CloudEvents | None = None,
        rates: Rates | None = None,
    ) -> None:
        super().__init__()
        self._hash_keys = hash_keys
        self._known_keys = KnownKeys()
        self._new_backoff = partial(Backoff, random, first=0.2, most=15.0)
        self._admission = admission
        self._cloud_events = cloud_events
        self._rates = rates
        self.tenure: Tenure | None = None
        """The tenure whose events wait; None between two."""

    def new(self, name: str) -> Topic:
        """Add a topic that there were no events for, and say whether there may be any."""
        topic = self[name] = Topic(name, self._new_backoff, self._hash_keys, self._known_keys)
        if self._cloud_events is not None and (made := self._cloud_events.of(name)) is not None:
            topic.limits.added_bytes = made.added_bytes
        if self._rates:
            topic.pace = self._rates.pace_of(name)
        refusal = self._admission.refusal(name)
        if refusal is not None:
            text = f"no event may go to topic {name}: {refusal}"
            topic.refusal = PublishError(FailureKind.EVENT, text, "TopicNotAllowed")
        return topic

    @property
    def limited(self) -> bool:
        """Whether the settings limit the rate of any topic."""
        return bool(self._rates)

    def partitions(self) -> Iterator[Partition]:
        """All partitions of all topics."""
        for topic in self.values():
            yield from topic.partitions

    def flights(self) -> Iterator[Flight]:
        """What is in the producers' hands."""
        for partition in self.partitions():
            yield from partition.flights

    @property
    def in_flight(self) -> int:
        """Events in the producers' hands."""
        return self.in_flight_beside(None)

    def places_in_flight(self) -> set[tuple[str, int]]:
        """The partitions, by topic and number, of which a batch is in the producers' hands."""
        return {(each.topic, each.number) for each in self.partitions() if each.flights}

    def in_flight_beside(self, tenure: Tenure | None) -> int:
        """Those of other tenures than this one."""
        return sum(len(flight.events) for flight in self.flights() if flight.tenure is not tenure)

    def oldest_age(self, now: float) -> float:
        """Seconds since the oldest event in hand was enqueued, at unix time `now`; 0 when there is none."""
        heads = [partition.waiting[0] for partition in self.partitions() if partition.waiting]
        heads += [flight.events[0] for flight in self.flights()]
        heads += [queue[0] for topic in self.values() for queue in (topic.unrouted, topic.refused) if queue]
        return max(0.0, now - min(map(created_ms_of, heads)) / 1000) if heads else 0.0

    def withdraw(self, which: Callable[[PendingEvent], bool] | None = None) -> list[PendingEvent]:
        """Take out `which` events that are not in flight, all by default; returns those to hold back or to drop."""
        return [event for topic in self.values() for event in topic.withdraw(which)]
