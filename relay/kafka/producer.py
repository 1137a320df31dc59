"""One aiokafka producer, idempotent and with acks=all, behind the port of the publish stage."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from aiokafka.structs import TopicPartition

from relay.decide.limits import ANY_TIME
from relay.kafka.administration import Administration
from relay.kafka.closings import Closings
from relay.kafka.connections import Connections
from relay.kafka.enlisting import start
from relay.kafka.errors import refused, translate, unreachable
from relay.kafka.lookup import TopicLookup
from relay.kafka.options import Security, client_options
from relay.kafka.packing import KafkaBatch, Packer
from relay.kafka.recall import NotSentError, allow_unless, refuse_unallowed
from relay.kafka.sending import BehindRefusedError, Refusals, may_be_in_kafka
from relay.outcome import Acknowledged, BatchOutcome, FailureKind, PublishError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from aiokafka.structs import RecordMetadata

    from relay.decide.cloud_events import CloudEvents
    from relay.decide.limits import TopicLimits
    from relay.event import PendingEvent
    from relay.settings import KafkaSettings, TopicSettings
    from relay.stages.publish.ports import RecordBatch
    from relay.stages.reconcile.ports import Enlistment


UNKNOWN_TOPIC, UNAUTHORIZED_TOPIC = 3, 29
"""Kafka's error codes."""


class KafkaProducer:
    """A producer of aiokafka. After `close`, or once it has `died`, a new one has to be made."""

    def __init__(
        self,
        *,
        settings: KafkaSettings,
        topics: TopicSettings,
        security: Security,
        options: Mapping[str, Any],
        cloud_events: CloudEvents | None = None,
    ) -> None:
        self._administration = Administration(settings, topics, security)
        self._create_topics = topics.create
        self._compressed = settings.compression != "none"
        self._request_timeout = settings.request_timeout
        self._producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            max_batch_size=settings.record_batch_bytes,
            compression_type=None if settings.compression == "none" else settings.compression,
            **options,
        )
        self._packer = Packer(
            self._producer.create_batch,
            batch_bytes=settings.record_batch_bytes,
            created=settings.timestamp == "created",
            cloud_events=cloud_events,
        )
        self._connections = Connections(self._producer.client, settings, security)
        self._died: asyncio.Task[str] | None = None
        self.name: str | None = None
        """Under what it was enlisted; None if nobody takes note of producers."""
        refuse_unallowed(self._producer)
        self._lookup = TopicLookup(self._producer.client, self._request_timeout)
        self._closings = Closings(self._producer)
        self._refusals = Refusals(self._producer, self._closings)

    @classmethod
    async def connect(
        cls,
        settings: KafkaSettings,
        topics: TopicSettings,
        security: Security | None = None,
        cloud_events: CloudEvents | None = None,
        enlistment: Enlistment | None = None,
    ) -> KafkaProducer:
        """Connect and get a producer id, which `enlistment` is told, if there is one, before the producer can be used.

        Raises PublishError, which says why that cannot be done now.
        """
        security = security or Security(settings)
        try:
            options = await client_options(settings, security)
            producer = cls(
                settings=settings, topics=topics, security=security, options=options, cloud_events=cloud_events
            )
        except Exception as error:
            raise unreachable(error) from error
        try:
            async with asyncio.timeout(settings.request_timeout + 2):
                producer.name = await start(producer._producer, enlistment, settings.request_timeout)
        except BaseException as error:
            await producer.close(1.0)
            if isinstance(error, Exception):
                raise producer._unreachable(error, settings) from error
            raise
        producer._died = asyncio.create_task(producer._watch())
        return producer

    def _unreachable(self, error: Exception, settings: KafkaSettings) -> PublishError:
        causes = self._connections.causes()
        if not isinstance(error, (TimeoutError, KafkaConnectionError)):
            # Kafka was reached, and said so itself.
            return unreachable(error)
        if causes:
            return PublishError(FailureKind.CLUSTER, causes, type(error).__name__)
        return PublishError(
            FailureKind.CLUSTER,
            f"no answer from {settings.bootstrap_servers} within {settings.request_timeout:g} s; "
            "check whether the brokers hang, and whether a firewall is in the way",
            type(error).__name__,
        )

    @property
    def died(self) -> asyncio.Future[str]:
        """A future that is done, with the reason, when this producer will never send again."""
        if self._died is None:
            raise RuntimeError("the producer was not connected")
        return self._died

    async def _watch(self) -> str:
        """Wait until one of aiokafka's two tasks has ended, without which no batch is sent or no leader found."""
        # Not shown otherwise (#907).
        sender: Any = self._producer._sender.sender_task  # noqa: SLF001
        metadata: Any = self._producer.client._sync_task  # noqa: SLF001
        tasks = {sender: "its sender task", metadata: "the task that keeps its metadata"}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        error: BaseException | None = None if task.cancelled() else task.exception()
        while error is not None and error.__cause__ is not None:
            error = error.__cause__
        return f"{tasks[task]} ended" + (f": {translate(error)}" if error is not None else "")

    def trouble(self) -> str | None:
        """Return why brokers cannot be reached now, as far as that is known."""
        return self._connections.trouble()

    async def partition_count(self, topic: str) -> int:
        """Return the number of partitions of `topic`; ask the cluster if it is not known yet.

        Raises PublishError of kind TOPIC when the topic does not exist, within the request timeout.
        """
        client = self._producer.client
        known = self.known_partition_count(topic)
        if known:
            # It may have been forgotten, and is not any more.
            client.add_topic(topic)
            return known
        try:
            code = await self._lookup.code(topic)
            if code not in (UNKNOWN_TOPIC, UNAUTHORIZED_TOPIC):
                async with asyncio.timeout(self._request_timeout):
                    # `partitions_for` of a missing topic does not return: ask for the metadata and look ourselves.
                    await client.add_topic(topic)
                    if not self.known_partition_count(topic):
                        await client.force_metadata_update()
                    known = self.known_partition_count(topic)
        except Exception as error:
            raise translate(error) from error
        if known:
            return known
        unauthorized = code == UNAUTHORIZED_TOPIC or topic in client.cluster.unauthorized_topics
        if self._create_topics and not unauthorized:
            await self._administration.create_topic(topic)
        if unauthorized:
            raise PublishError(
                FailureKind.TOPIC,
                f"not authorized for topic {topic}; grant the relay WRITE and DESCRIBE on it",
            )
        raise PublishError(FailureKind.TOPIC, f"topic {topic} does not exist; create it")

    async def existing(self, topics: Sequence[str]) -> list[str]:
        """Return those of the topics that exist. Raises PublishError when Kafka does not answer."""
        try:
            codes = await self._lookup.codes(topics)
        except Exception as error:
            raise translate(error) from error
        return [topic for topic in topics if codes.get(topic, UNKNOWN_TOPIC) not in (UNKNOWN_TOPIC, UNAUTHORIZED_TOPIC)]

    def known_partition_count(self, topic: str) -> int:
        """Return the number of partitions by the metadata at hand; 0 if it does not have the topic."""
        return len(self._producer.client.cluster.partitions_for_topic(topic) or ())

    def leaderless(self, topic: str, partition: int) -> bool:
        """Return whether, by the metadata at hand, no broker leads this partition now."""
        return bool(self._producer.client.cluster.leader_for_partition(TopicPartition(topic, partition)) == -1)

    async def refresh_topic(self, topic: str) -> None:
        """Ask the cluster again for the topic's partitions; create the topic if it is gone and the settings say so.

        Raises PublishError when Kafka does not answer or has no such topic.
        """
        try:
            async with asyncio.timeout(self._request_timeout):
                # Named, because a client that knows no name asks for the metadata of all topics there are.
                await self._producer.client.add_topic(topic)
                await self._producer.client.force_metadata_update()
        except Exception as error:
            raise translate(error) from error
        try:
            await self.partition_count(topic)
        except PublishError:
            self.forget_topic(topic)
            raise

    def forget_topic(self, topic: str) -> None:
        """Stop asking for the metadata of a topic that does not exist."""
        self._producer.client._topics.discard(topic)  # noqa: SLF001 there is no public way

    async def limits(self, topic: str) -> TopicLimits:
        """Return the topic's limits. Raises PublishError when Kafka cannot be asked now.

        With compression `max.message.bytes` says nothing about a batch that is not compressed yet.
        """
        limits = await self._administration.limits(topic)
        if self._compressed:
            return limits._replace(max_bytes=None)
        self._closings.request_bytes = request_bytes = await self._administration.request_bytes()
        return limits._replace(request_bytes=request_bytes)

    def pack(
        self,
        waiting: Collection[PendingEvent],
        most: int,
        max_bytes: int | None,
        times: tuple[int, int] = ANY_TIME,
    ) -> KafkaBatch:
        """Pack the first waiting events into a record batch until it is full: at least one event, at most `most`.

        `max_bytes` is the topic's limit of a record batch, `times` the earliest and the latest time (ms) that it takes.
        """
        return self._packer.pack(waiting, most, max_bytes, times)

    async def send(
        self,
        batch: RecordBatch,
        topic: str,
        partition: int,
        allowed: Callable[[], bool],
        done: Callable[[BatchOutcome], None],
    ) -> None:
        """Hand a batch to the producer; `done` is called once with the batch's outcome.

        The batch is refused if `allowed` says no when the batch would be sent for the first time. Returns when the
        producer has queued the batch, which takes as long as another batch is queued for the partition.
        Raises PublishError when the producer does not take the batch; then it is not in Kafka and `done` is not called.
        """
        builder = _builder(batch)
        where = TopicPartition(topic, partition)
        refusals = self._refusals
        heard = refusals.heard(where)

        def why_not() -> KafkaError | None:
            if refusals.overtakes(where, heard):
                return BehindRefusedError()
            return None if allowed() else NotSentError()

        allow_unless(builder, why_not)
        while True:
            try:
                future = await self._producer.send_batch(builder, topic, partition=partition)
            except KafkaTimeoutError:
                # The partition's place is still taken: nothing was lost, it is the same batch that goes in again.
                continue
            except AssertionError as error:
                # aiokafka's word for it.
                raise PublishError(
                    FailureKind.TOPIC, f"topic {topic} has no partition {partition}", "NoSuchPartition"
                ) from error
            except Exception as error:
                raise translate(error) from error
            break

        def finish(future: asyncio.Future[RecordMetadata]) -> None:
            if future.cancelled():
                closed = PublishError(FailureKind.CLUSTER, "the producer was closed")
                done(Refused(closed, unknown=may_be_in_kafka(builder)))
            elif (error := future.exception()) is not None:
                refusals.hear(where)
                done(refused(error, unknown=may_be_in_kafka(builder)))
            else:
                done(Acknowledged(future.result().offset))

        future.add_done_callback(finish)

    async def close(self, timeout: float) -> None:
        """Close within `timeout` seconds, whatever the broker does; batches without acknowledgement are abandoned."""
        if self._died is not None:
            self._died.cancel()
        self._lookup.close()
        await self._administration.close(timeout)
        try:
            await self._stop(timeout)
        finally:
            await self._connections.cut()

    async def _stop(self, timeout: float) -> None:
        # stop() waits for every batch, for ever when the broker is away (#1101): only after a bounded try.
        producer = self._producer
        with suppress(Exception):
            async with asyncio.timeout(timeout):
                await producer.stop()
                return
        producer._closed = True  # noqa: SLF001 or its destructor complains
        task = producer._sender.sender_task  # noqa: SLF001
        if task is not None:
            task.cancel()
        with suppress(Exception):
            async with asyncio.timeout(1.0):
                await producer.client.close()
        if task is not None:
            # Once cancelled it waits for its requests; those wait for news of a cluster that nobody asks any more.
            task.cancel()
            await asyncio.wait([task], timeout=1.0)


def _builder(batch: RecordBatch) -> Any:
    if not isinstance(batch, KafkaBatch):
        raise TypeError(f"{batch!r} was not packed by a KafkaProducer")
    return batch.builder
