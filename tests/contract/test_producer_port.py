"""What publishing may rely on: topics, batches in order, one outcome each, and whose fault a refusal is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.decide.limits import ANY_TIME, NO_TIME
from relay.outcome import Acknowledged, BatchOutcome, FailureKind, PublishError, Refused
from tests.contract.clusters import sent
from tests.support.events import event, events

if TYPE_CHECKING:
    from tests.contract.clusters import Cluster

MISSING = "nobody-has-made-this-topic"


class TestTopics:
    async def test_the_partitions_of_a_topic_are_known_once_they_were_asked_for(self, cluster: Cluster) -> None:
        topic = cluster.make_topic(3)
        assert cluster.producer.known_partition_count(topic) == 0
        assert await cluster.producer.partition_count(topic) == 3
        assert cluster.producer.known_partition_count(topic) == 3
        assert not any(cluster.producer.leaderless(topic, partition) for partition in range(3))
        await cluster.producer.refresh_topic(topic)
        assert cluster.producer.known_partition_count(topic) == 3

    async def test_a_missing_topic_is_the_topics_fault(self, cluster: Cluster) -> None:
        for ask in (cluster.producer.partition_count, cluster.producer.refresh_topic):
            with pytest.raises(PublishError, match=f"topic {MISSING} does not exist; create it") as raised:
                await ask(MISSING)
            assert raised.value.kind is FailureKind.TOPIC
            assert cluster.producer.known_partition_count(MISSING) == 0
            cluster.producer.forget_topic(MISSING)

    async def test_of_many_topics_those_that_exist_are_named_in_order(self, cluster: Cluster) -> None:
        first, second = cluster.make_topic(), cluster.make_topic()
        assert await cluster.producer.existing([second, MISSING, first]) == [second, first]

    async def test_the_limit_of_a_topic_is_told(self, cluster: Cluster) -> None:
        topic = cluster.make_topic(max_bytes=2_000)
        assert (await cluster.producer.limits(topic)).max_bytes == 2_000


class TestBatches:
    async def test_a_batch_has_the_first_events_in_order_and_at_most_as_many_as_asked(self, cluster: Cluster) -> None:
        waiting = events(1, 2, 3, size=10)
        batch = cluster.producer.pack(waiting, 2, None, ANY_TIME)
        assert batch.events == waiting[:2]
        assert (batch.size, batch.restamped) == (20, 0)

    async def test_a_batch_has_at_least_one_event_whatever_the_limit(self, cluster: Cluster) -> None:
        assert cluster.producer.pack(events(1, 2), 2, 1, ANY_TIME).events == events(1)

    async def test_events_with_times_that_the_topic_does_not_take_are_counted(self, cluster: Cluster) -> None:
        assert cluster.producer.pack(events(1, 2), 2, None, NO_TIME).restamped == 2


class TestSending:
    async def test_each_batch_is_acknowledged_with_the_offset_of_its_first_event(self, cluster: Cluster) -> None:
        topic = cluster.make_topic(2)
        await cluster.producer.partition_count(topic)
        assert await sent(cluster, topic, events(1, 2)) == Acknowledged(0)
        assert await sent(cluster, topic, events(3)) == Acknowledged(2)
        assert await sent(cluster, topic, events(4), partition=1) == Acknowledged(0)

    async def test_a_batch_that_is_not_allowed_any_more_is_not_sent(self, cluster: Cluster) -> None:
        topic = cluster.make_topic()
        await cluster.producer.partition_count(topic)
        refused = await sent(cluster, topic, events(1), allowed=False)
        assert isinstance(refused, Refused)
        assert refused.error.kind is FailureKind.CLUSTER

    async def test_an_event_above_the_topics_limit_is_at_fault(self, cluster: Cluster) -> None:
        topic = cluster.make_topic(max_bytes=2_000)
        await cluster.producer.partition_count(topic)
        large = event(1, payload=b"x" * 5_000, size=5_000)
        refused = await sent(cluster, topic, [large])
        assert isinstance(refused, Refused)
        assert refused.error.kind is FailureKind.EVENT

    async def test_a_partition_that_there_is_not_is_the_topics_fault_and_nothing_is_queued(
        self, cluster: Cluster
    ) -> None:
        topic = cluster.make_topic()
        await cluster.producer.partition_count(topic)
        outcomes: list[BatchOutcome] = []
        batch = cluster.producer.pack(events(1), 1, None, ANY_TIME)
        with pytest.raises(PublishError) as raised:
            await cluster.producer.send(batch, topic, 1, lambda: True, outcomes.append)
        assert (raised.value.kind, outcomes) == (FailureKind.TOPIC, [])


async def test_a_producer_that_works_is_in_no_trouble(cluster: Cluster) -> None:
    assert cluster.producer.trouble() is None
    assert not cluster.producer.died.done()
