"""All topics that there were events for, and what publish has of them in its hands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.stages.publish.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.event import PendingEvent
    from relay.stages.publish.partition import Flight, Partition
    from relay.stages.tenure import Tenure


class Topics(dict[str, Topic]):
    """Topics by name. No I/O: publish acts on them."""

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

    def in_flight_beside(self, tenure: Tenure | None) -> int:
        """Those of other tenures than this one."""
        return sum(len(flight.events) for flight in self.flights() if flight.tenure is not tenure)

    def oldest_age(self, now: float) -> float:
        """Seconds since the oldest event in hand was enqueued, at unix time `now`; 0 when there is none."""
        heads = [partition.waiting[0] for partition in self.partitions() if partition.waiting]
        heads += [flight.events[0] for flight in self.flights()]
        heads += [queue[0] for topic in self.values() for queue in (topic.unrouted, topic.refused) if queue]
        return max(0.0, now - min(event[8] for event in heads) / 1000) if heads else 0.0

    def withdraw(self, which: Callable[[PendingEvent], bool] | None = None) -> list[PendingEvent]:
        """Take out `which` events that are not in flight, all by default; returns those to hold back or to drop."""
        return [event for topic in self.values() for event in topic.withdraw(which)]
