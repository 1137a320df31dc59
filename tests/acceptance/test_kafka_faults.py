"""Every request that the relay sends to Kafka, answered with every error code, also with ones that nobody knows.

The relay lives, nothing is lost or out of order, and everything is delivered when the faults end. By default the codes
are those that some client or broker treats in a way of its own, and some that no table has; RELAY_TEST_ALL_CODES=1 has
all of them.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from relay.kafka.producer import KafkaProducer
from relay.local import create_topic
from relay.outcome import PublishError
from relay.settings.flow import TopicSettings
from relay.settings.servers import KafkaSettings
from tests.acceptance.conftest import place
from tests.support.proxies.delayed_kafka import DelayedKafka
from tests.support.proxies.faulty_kafka import (
    API_VERSIONS,
    CREATE_TOPICS,
    DESCRIBE_CONFIGS,
    INIT_PRODUCER_ID,
    METADATA,
    PRODUCE,
    Fault,
    FaultyKafka,
)
from tests.support.servers.shared import server_folder
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.acceptance.conftest import Place
    from tests.support.relay.process import RelayProcess

ALL = bool(os.environ.get("RELAY_TEST_ALL_CODES"))
UNKNOWN_TO_ALL = (134, 999, 12_345, -7)

DUPLICATE = 46
"""Means that the broker has the batch already and forgot where: a success to any client, with a receipt that says no
offset. No broker gives it to a producer with one request under way, whose last batches it remembers."""

EVERY_CODE = (*(code for code in range(-1, 134) if code not in (0, DUPLICATE)), *UNKNOWN_TO_ALL)

OF_PRODUCE = EVERY_CODE if ALL else (-1, 2, 3, 5, 6, 7, 10, 13, 17, 19, 29, 31, 45, 47, 56, 59, 74, 76, 87, 89, 999)
MAYBE_APPENDED = (-1, 7, 13, 20, 56, 12_345)
"""Codes that a broker may give for what it has, or has in part."""
OF_OTHERS = EVERY_CODE if ALL else (-1, 3, 5, 7, 17, 29, 31, 35, 41, 51, 89, 999)

UNSUPPORTED_COMPRESSION = 76

OUT_OF_ORDER = 45
"""A refusal after which a producer has to be made anew."""

TIMES = 2
"""So often a code is given."""

KEYS, PER_KEY = 12, 2
SECONDS = 90.0


@pytest.fixture(scope="module")
def broker() -> Iterator[DelayedKafka]:
    with server_folder() as folder, DelayedKafka(folder / "kafka") as server:
        yield server


@asynccontextmanager
async def faulty(broker: DelayedKafka) -> AsyncIterator[FaultyKafka]:
    async with FaultyKafka(broker.behind_proxy, broker.proxy_port) as proxy:
        yield proxy


@asynccontextmanager
async def relaying(
    broker: DelayedKafka, database: str, topic: str, **settings: object
) -> AsyncIterator[tuple[Place, RelayProcess]]:
    """A relay that reaches Kafka through the proxy; who looks at the records does not."""
    async with place(database, broker.bootstrap_servers, topic) as here:
        given = {
            "kafka_bootstrap_servers": broker.delayed_servers,
            "kafka_request_timeout": 3,
            "failure_first_delay": 0.2,
            "replica_reconcile": "auto",
        }
        async with here.relay(**given, **settings) as relay:
            yield here, relay
            assert not relay.ended, relay
            assert not relay.texts(), relay
            await relay.stop()


@pytest.mark.slow
@pytest.mark.timeout(3600 if ALL else 900)
@pytest.mark.parametrize("appended", [False, True], ids=["refused", "appended"])
async def test_every_answer_to_a_produce_request_is_lived_through_in_order(
    broker: DelayedKafka, database: str, appended: bool
) -> None:
    topic = f"produce-{appended}"
    await create_topic(broker.bootstrap_servers, topic, partitions=4)
    async with faulty(broker) as proxy, relaying(broker, database, topic) as (here, relay):
        for number, code in enumerate(MAYBE_APPENDED if appended else OF_PRODUCE):
            # What the broker has is found after the first time, and not sent again.
            fault = proxy.fault(PRODUCE, code, times=1 if appended else TIMES, appended=appended)
            await write(here, topic, first=number * PER_KEY + 1)
            await used_up(fault, relay)
            proxy.end_faults()
            await delivered(here, relay, f"code {code}")
        repeats = await here.check_everything()
    # Neither the refused batch nor what the discarded producer had in flight beside it.
    assert repeats == []


@pytest.mark.slow
@pytest.mark.timeout(3600 if ALL else 900)
@pytest.mark.parametrize("api", [METADATA, DESCRIBE_CONFIGS, CREATE_TOPICS])
async def test_every_answer_about_a_topic_is_lived_through(broker: DelayedKafka, database: str, api: int) -> None:
    """Each code is about a topic of its own, because it is asked about once."""
    topics = []
    settings = {"topic_create": "true", "topic_partitions": 2, "topic_replication": 1} if api == CREATE_TOPICS else {}
    async with faulty(broker) as proxy, relaying(broker, database, "about-none", **settings) as (here, relay):
        await relay.logged("lanes.claimed")
        for code in OF_OTHERS:
            topic = f"about-{api}-{code}".replace("--", "-minus-")
            topics.append(topic)
            if api != CREATE_TOPICS:
                await create_topic(broker.bootstrap_servers, topic, partitions=2)
            fault = proxy.fault(api, code, TIMES if api == METADATA else 1)
            await write(here, topic)
            await used_up(fault, relay)
            proxy.end_faults()
            await delivered(here, relay, f"code {code}")
        for here.topic in topics:
            assert await here.check_everything() == []


@pytest.mark.slow
@pytest.mark.timeout(3600 if ALL else 900)
@pytest.mark.parametrize("api", [API_VERSIONS, INIT_PRODUCER_ID])
async def test_every_answer_to_a_new_connection_or_producer_is_lived_through(
    broker: DelayedKafka, database: str, api: int
) -> None:
    topic = f"anew-{api}"
    await create_topic(broker.bootstrap_servers, topic, partitions=4)
    async with faulty(broker) as proxy, relaying(broker, database, topic) as (here, relay):
        await write(here, topic)
        await delivered(here, relay, "the first events")
        for number, code in enumerate(OF_OTHERS, 1):
            fault = proxy.fault(api, code, TIMES)
            if api == API_VERSIONS:
                await proxy.cut()
            else:
                proxy.fault(PRODUCE, OUT_OF_ORDER)
            await write(here, topic, first=number * PER_KEY + 1)
            await used_up(fault, relay)
            proxy.end_faults()
            await delivered(here, relay, f"code {code}")
        await here.check_everything()


async def test_a_partition_that_alone_is_refused_for_ever_is_shown_as_its_topics_trouble(
    broker: DelayedKafka, database: str
) -> None:
    """The code blames the cluster, and the cluster takes what is in the other partitions."""
    topic = "alone"
    await create_topic(broker.bootstrap_servers, topic, partitions=4)
    async with faulty(broker) as proxy, relaying(broker, database, topic) as (here, relay):
        await relay.logged("lanes.claimed")
        proxy.fault(PRODUCE, UNSUPPORTED_COMPRESSION, times=1_000_000, partition=0)
        for number in range(3):
            await write(here, topic, first=number * PER_KEY + 1)

        async def shown() -> bool:
            _, answer = await relay.get("/readyz")
            return "partition 0 of topic alone refuses events while others take them" in str(answer["troubled_topics"])

        await until("the topic is shown", shown, SECONDS)
        assert "UnsupportedCompressionTypeError" in (await relay.logged("topic.troubled"))["error"]
        proxy.end_faults()
        await delivered(here, relay, "the end of the fault")
        await here.check_everything()


@pytest.mark.parametrize("api", [API_VERSIONS, METADATA, INIT_PRODUCER_ID])
async def test_every_answer_to_one_that_connects_is_an_error_of_publishing_or_waited_out(
    broker: DelayedKafka, api: int
) -> None:
    """So cheap that it has all codes."""
    settings = KafkaSettings(bootstrap_servers=broker.delayed_servers, request_timeout=2)
    async with faulty(broker) as proxy:
        for code in EVERY_CODE:
            fault = proxy.fault(api, code)
            try:
                producer = await KafkaProducer.connect(settings, TopicSettings())
            except PublishError as error:
                assert str(error), code  # noqa: PT017 it may as well be waited out
            else:
                await producer.close(1)
            assert fault.given, code
            proxy.end_faults()


async def used_up(fault: Fault, relay: RelayProcess) -> None:
    """Wait until it was given as often as it should be."""
    try:
        async with asyncio.timeout(SECONDS):
            await fault.used_up.wait()
    except TimeoutError:
        raise AssertionError(f"{fault} was not asked for: {relay!r}") from None


async def write(here: Place, topic: str, first: int = 1) -> None:
    """Each key's next events, numbered on."""
    await here.connection.execute(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT $1, convert_to('key-' || k, 'UTF8'), convert_to(n::text, 'UTF8')"
        " FROM generate_series($2::int, $2::int + $3::int - 1) AS n, generate_series(1, $4::int) AS k ORDER BY n, k",
        topic,
        first,
        PER_KEY,
        KEYS,
    )


async def delivered(here: Place, relay: RelayProcess, after: str) -> None:
    """Wait until everything is; what Kafka refused for itself is replayed, as a person would."""

    async def done() -> bool:
        assert not relay.ended, f"{after}: {relay!r}"
        await here.connection.execute(
            "UPDATE outbox.failure SET state = 'replaying', next_attempt_at = NULL"
            " WHERE state IN ('failed', 'retrying')"
        )
        return await here.unsettled() == 0

    try:
        await until(f"everything is delivered after {after}", done, SECONDS, interval=0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}: {relay!r}") from None
