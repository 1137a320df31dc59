"""One topic in trouble: it waits, it is shown, the others go on, and it goes on by itself, in order."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import TopicAlreadyExistsError
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest

from relay.local import create_topic
from tests.acceptance.conftest import Place, place
from tests.support.kafka.consumer import read_topic
from tests.support.kafka.topics import admin, alter_topic
from tests.support.postgres.outbox import connected
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.writers import Writers
from tests.support.promises import check_everything, first_occurrences
from tests.support.servers import shared as servers
from tests.support.servers.second_broker import FIRST, SECOND, SecondBroker, create_topic_on, in_sync
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relay.local import KafkaServer
    from tests.support.relay.process import RelayProcess

LOGGER = logging.getLogger(__name__)

BUFFER_EVENTS = 4_000
"""Small, so that a topic which kept its events in the buffer would soon fill it."""


@pytest.fixture
def second_broker(own_folder: Path, own_kafka: KafkaServer) -> Iterator[SecondBroker]:
    """A second broker of `own_kafka`'s cluster."""
    folder = own_folder / "second"
    with SecondBroker(folder, own_kafka) as server:
        yield server
        server.resume()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("brokers", "ending"),
    [([FIRST, SECOND], "broker back"), ([FIRST, SECOND], "limit lowered"), ([SECOND], "broker back")],
    ids=["replica-back", "limit-lowered", "leader-back"],
)
async def test_a_topic_without_enough_replicas_waits_and_disturbs_no_other(
    database: str, own_kafka: KafkaServer, second_broker: SecondBroker, brokers: list[int], ending: str
) -> None:
    """Too few in sync, or not even a leader; what waits for it is more than the buffer holds, and comes first."""
    lame, plain = f"lame-{secrets.token_hex(4)}", f"plain-{secrets.token_hex(4)}"
    bootstrap_servers = own_kafka.bootstrap_servers
    await create_topic_on(own_kafka, lame, brokers, configs={"min.insync.replicas": str(len(brokers))})
    await create_topic_on(own_kafka, plain, [FIRST])
    async with (
        place(database, bootstrap_servers, plain) as here,
        here.relay(buffer_max_events=BUFFER_EVENTS, kafka_request_timeout=4) as relay,
    ):
        await fill_on(here, lame, 1_000)
        await fill_on(here, plain, 1_000)
        await here.settled()
        before = await seconds_to_deliver(here, plain, 20_000)

        await asyncio.to_thread(second_broker.kill)
        if ending == "limit lowered":
            await in_sync(own_kafka, lame, 1)
        await fill_on(here, lame, 10_000)
        during = await seconds_to_deliver(here, plain, 20_000)
        assert during < 3 * before + NOTICED_WITHIN
        assert (await relay.logged("topic.paused"))["topic"] == lame
        assert await troubled_topics(relay) == [lame]
        # All but what is in the producer's hands, at most one batch of each partition.
        await until("its events are held", lambda: held(here, lame, 8_000))
        after = min([await seconds_to_deliver(here, plain, 20_000) for _ in range(2)])
        assert after < 3 * before + 2

        async def buffer_has_room() -> bool:
            return await relay.metric("buffer_events") < BUFFER_EVENTS / 2

        await until("the buffer has room", buffer_has_room)
        assert await receipts(here, lame) == 1_000

        if ending == "broker back":
            await asyncio.to_thread(second_broker.start)
        else:
            await alter_topic(bootstrap_servers, lame, min_insync_replicas=1)
        await fill_on(here, lame, 1_000)
        await here.receipts_reach(93_000, 90)
        await until("no topic is in trouble", lambda: works(relay))
        assert await failures_and_held(here) == (0, 0)
        LOGGER.info("others: %.2f s before, %.2f s while it is noticed, %.2f s later", before, during, after)
        await relay.stop()
        repeats = await check_everything(here.connection, bootstrap_servers, lame)
        # What was on its way when the broker died may be there twice.
        assert len(repeats) <= MOST_IN_FLIGHT
        assert await check_everything(here.connection, bootstrap_servers, plain) == []


@pytest.mark.slow
async def test_a_topic_half_of_which_has_no_leader_waits_as_a_whole_and_disturbs_no_other(
    database: str, own_kafka: KafkaServer, second_broker: SecondBroker
) -> None:
    """That its other half takes events must not hide what is wrong; nor is it a reason to call the replica unready."""
    lame, plain = f"lame-{secrets.token_hex(4)}", f"plain-{secrets.token_hex(4)}"
    await create_topic_on(own_kafka, lame, [FIRST], [SECOND])
    await create_topic_on(own_kafka, plain, [FIRST])
    async with (
        place(database, own_kafka.bootstrap_servers, plain) as here,
        here.relay(buffer_max_events=BUFFER_EVENTS, kafka_request_timeout=4, health_max_stall=10) as relay,
    ):
        for topic in (lame, plain):
            await fill_on(here, topic, 1_000)
        await here.settled()

        await asyncio.to_thread(second_broker.kill)
        filling = asyncio.create_task(fill_steadily(here, lame))
        await relay.logged("topic.paused")
        for least in range(10_000, 40_000, 10_000):
            await until(f"{least:,} events are held", lambda: held(here, lame, least))  # noqa: B023
            assert await troubled_topics(relay) == [lame]
            await seconds_to_deliver(here, plain, 2_000)
        filling.cancel()
        await asyncio.wait([filling])
        assert await troubled_topics(relay) == [lame]

        await asyncio.to_thread(second_broker.start)
        await here.settled(120)
        await until("no topic is in trouble", lambda: works(relay))
        assert await failures_and_held(here) == (0, 0)
        await relay.stop()
        repeats = await check_everything(here.connection, own_kafka.bootstrap_servers, lame)
        assert len(repeats) <= MOST_IN_FLIGHT
        assert await check_everything(here.connection, own_kafka.bootstrap_servers, plain) == []


@pytest.fixture
def guarded_kafka(own_folder: Path) -> Iterator[KafkaServer]:
    """A running Kafka that heeds ACLs; what has none is open to everybody."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with servers.own_kafka_server(own_folder, properties) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("left", ["describe", "nothing"])
async def test_a_topic_that_must_not_be_written_to_waits_and_goes_on_when_it_may(
    database: str, guarded_kafka: KafkaServer, left: str
) -> None:
    closed, plain = f"closed-{secrets.token_hex(4)}", f"plain-{secrets.token_hex(4)}"
    bootstrap_servers = guarded_kafka.bootstrap_servers
    for topic in (closed, plain):
        await create_topic(bootstrap_servers, topic, partitions=4)
    async with place(database, bootstrap_servers, plain) as here, here.relay() as relay:
        for topic in (closed, plain):
            await fill_on(here, topic, 1_000)
        await here.receipts_reach(2_000)

        await add_acl(bootstrap_servers, closed, *((DESCRIBE, ALLOW) if left == "describe" else (ALL, DENY)))
        for topic in (closed, plain):
            await fill_on(here, topic, 3_000)
        await here.receipts_reach(5_000)
        assert (await relay.logged("topic.paused"))["topic"] == closed
        await until("its events are held", lambda: held(here, closed, 3_000))
        assert await troubled_topics(relay) == [closed]
        assert "uthoriz" in relay.happened("topic.troubled")[0]["error"]
        assert await receipts(here, closed) == 1_000

        await remove_acls(bootstrap_servers, closed)
        await fill_on(here, closed, 1_000)
        await here.receipts_reach(9_000, 90)
        await until("no topic is in trouble", lambda: works(relay))
        assert await failures_and_held(here) == (0, 0)
        assert relay.happened("event.failed") == relay.happened("event.retrying") == []
        await relay.stop()
        for topic in (closed, plain):
            assert await check_everything(here.connection, bootstrap_servers, topic) == []


@pytest.mark.slow
async def test_a_topic_that_is_deleted_and_made_anew_under_load_gets_later_events_in_order(here: Place) -> None:
    async with Writers(here.dsn, here.topic) as writers, here.relay() as relay:
        await here.receipts_reach(500)
        async with admin(here.bootstrap_servers) as client:
            await client.delete_topics([here.topic])
        await writers.commit(1_000)
        await create_again(here)
        await writers.commit(500)
        await writers.end()
        await here.receipts_reach(writers.committed, 90)
        assert await failures_and_held(here) == (0, 0)
        await until("no topic is in trouble", lambda: works(relay))
        await relay.stop()
    records = first_occurrences(await read_topic(here.bootstrap_servers, here.topic))
    by_key: dict[bytes | None, list[int]] = defaultdict(list)
    for record in records:
        assert record.value is not None
        by_key[record.key].append(int(record.value.split()[0]))
    # What Kafka had acknowledged is gone with the old topic; from there on nothing is missing.
    for numbers in by_key.values():
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert sum(map(len, by_key.values())) >= 500


TOPIC, LITERAL, ANY = 2, 3, 1
ALL, DESCRIBE = 2, 8
DENY, ALLOW = 2, 3
"""Kafka's numbers for ACLs."""


async def add_acl(bootstrap_servers: str, topic: str, operation: int, permission: int) -> None:
    """Add an ACL to a topic, for everybody."""
    async with admin(bootstrap_servers) as client:
        acl = (TOPIC, topic, LITERAL, "User:*", "*", operation, permission)
        answer: Any = await client._send_request(CreateAclsRequest(*acl))
        assert [code for code, _ in answer.creation_responses] == [0], answer

        async def in_force() -> bool:
            # The controller has answered; the broker hears of it a moment later.
            found: Any = await client._send_request(DescribeAclsRequest(*acl))
            assert found.error_code == 0, found
            return bool(found.resources)

        await until(f"the ACL of {topic} is in force", in_force)


async def remove_acls(bootstrap_servers: str, topic: str) -> None:
    """Remove the topic's ACLs."""
    everybody: Any = None
    async with admin(bootstrap_servers) as client:
        request = DeleteAclsRequest(TOPIC, topic, LITERAL, everybody, everybody, ANY, ANY)
        answer: Any = await client._send_request(request)
        assert [code for code, *_ in answer.filter_responses] == [0], answer


async def create_again(here: Place) -> None:
    """Create the topic, once Kafka has deleted the former one."""

    async def created() -> bool:
        try:
            await create_topic(here.bootstrap_servers, here.topic, partitions=4)
        except TopicAlreadyExistsError:
            return False
        return True

    await until("the topic is created again", created)


NOTICED_WITHIN = 15.0
"""Seconds in which a topic that does not move is found, and its events are moved out of the others' way."""

MOST_IN_FLIGHT = 4_000


async def fill_on(here: Place, topic: str, events: int) -> None:
    """Commit more events, whose payloads go on numbering each key's."""
    await here.connection.execute(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT $1, convert_to('key-' || i % $3::bigint, 'UTF8'),"
        "        convert_to(rpad((i / $3::bigint + 1) || ' ', 200, 'x'), 'UTF8')"
        " FROM (SELECT count(*) AS before FROM outbox.event WHERE topic = $1) AS so_far,"
        "      generate_series(before, before + $2::bigint - 1) AS i",
        topic,
        events,
        KEYS,
    )


KEYS = 100


async def fill_steadily(here: Place, topic: str) -> None:
    """Commit 2,000 events a second, more or less, until cancelled."""
    async with connected(here.dsn) as connection:
        other = replace(here, connection=connection)
        while True:
            await fill_on(other, topic, 200)
            await asyncio.sleep(0.1)


async def seconds_to_deliver(here: Place, topic: str, events: int) -> float:
    """Commit so many events and wait until the topic's all have receipts."""
    await fill_on(here, topic, events)
    began = time.monotonic()
    total: int = await here.connection.fetchval("SELECT count(*) FROM outbox.event WHERE topic = $1", topic)

    async def all_there() -> bool:
        return await receipts(here, topic) == total

    await until(f"all of {topic} are delivered", all_there, 60)
    return time.monotonic() - began


async def receipts(here: Place, topic: str) -> int:
    """How many of a topic's events have a receipt."""
    found: int = await here.connection.fetchval(
        f"SELECT count(*) FROM {DELIVERIES} JOIN outbox.event USING (id) WHERE topic = $1", topic
    )
    return found


async def held(here: Place, topic: str, least: int) -> bool:
    """Whether at least so many of a topic's events are held."""
    found: int = await here.connection.fetchval("SELECT count(*) FROM outbox.held WHERE topic = $1", topic)
    return found >= least


async def failures_and_held(here: Place) -> tuple[int, int]:
    """How many failures and held events there are."""
    row = await here.connection.fetchrow(
        "SELECT (SELECT count(*) FROM outbox.failure) AS failures, (SELECT count(*) FROM outbox.held) AS held"
    )
    return row["failures"], row["held"]


async def troubled_topics(relay: RelayProcess) -> list[str]:
    """The topics that `/readyz` says are in trouble; they alone do not make a replica unready."""
    status, answer = await relay.get("/readyz")
    assert (status, answer["reasons"]) == (200, [])
    return list(answer["troubled_topics"])


async def works(relay: RelayProcess) -> bool:
    """Whether no topic is in trouble."""
    return await troubled_topics(relay) == []
