"""What publish and its main producer know of a topic, as the watch shows it to those who decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from relay.decide.stuck import Obstacle, PartitionView, TopicView, Unanswered, Unknown, Unnoted

if TYPE_CHECKING:
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.topic import Topic


class Metadata(Protocol):
    """What a producer knows of Kafka without asking."""

    def trouble(self) -> str | None:
        """Why brokers cannot be reached just now, as far as that is known."""

    def known_partition_count(self, topic: str) -> int:
        """Number of the topic's partitions; 0 when not known."""

    def leaderless(self, topic: str, partition: int) -> bool:
        """Whether it is known that no broker leads the partition."""


def obstacle_of(partition: Partition) -> Obstacle | None:
    """Return what the partition waits for before more can be sent; None if nothing is in flight, and more may be."""
    if partition.flights:
        first = partition.flights[0]
        if first.lost is not None:
            return Unknown(first.lost.since, first.lost.refused.error, first.lost.waits)
        return Unanswered(first.sent_at)
    if partition.waiting and partition.unnoted_since is not None:
        return Unnoted(partition.unnoted_since)
    return None


def view_of(topic: Topic, metadata: Metadata | None) -> TopicView:
    """Return what there is to see of a topic; `metadata` is what the main producer knows, if there is one."""
    name = topic.name
    partitions = []
    for partition in topic.partitions:
        leaderless = metadata is not None and metadata.leaderless(name, partition.number)
        waiting = len(partition.waiting)
        if topic.pace is not None and not partition.flights:
            # What waits for its time under a limit does not stand still.
            waiting = 0
        if waiting or partition.flights or leaderless:
            partitions.append(
                PartitionView(
                    partition.number,
                    waiting,
                    obstacle_of(partition),
                    partition.progress,
                    leaderless,
                    partition.suspect,
                )
            )
    return TopicView(
        name,
        topic.router.partitions if topic.router is not None else None,
        metadata.known_partition_count(name) if metadata is not None else None,
        partitions,
    )
