"""What cannot be published stops only its own key, is kept, and goes out in order once a person says so."""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from tests.support.kafka.consumer import read_topic
from tests.support.kafka.topics import admin, alter_topic, delete_topic
from tests.support.postgres.outbox import add_event
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.writers import fill
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place
    from tests.support.kafka.consumer import Record


MAX_EVENT_BYTES = 10_000_000


async def enqueue(here: Place, key: str, payload: bytes, topic: str | None = None) -> int:
    """Commit one event; returns its id."""
    id_: int = (await add_event(here.connection, key, topic or here.topic, payload))["id"]
    return id_


async def count(here: Place, what: str, *arguments: object) -> int:
    """The answer of `SELECT count(*) FROM <what>`."""
    number: int = await here.connection.fetchval(f"SELECT count(*) FROM {what}", *arguments)
    return number


async def reached(here: Place, what: str, number: int, *arguments: object, timeout: float = 60.0) -> None:
    """Wait until `SELECT count(*) FROM <what>` is `number`."""

    async def look() -> bool:
        return await count(here, what, *arguments) == number

    await until(f"{number} rows of {what}", look, timeout)


async def mark(here: Place, state: str) -> None:
    """What `relay failed replay` and `relay failed discard` do to all failures."""
    await here.connection.execute(
        "UPDATE outbox.failure SET state = $1, next_attempt_at = NULL WHERE state IN ('failed', 'retrying')", state
    )


def in_id_order_per_key(records: list[Record]) -> bool:
    """Whether the ids of each key only grow, and nothing is there twice."""
    last: dict[bytes | None, int] = defaultdict(int)
    for record in records:
        if record.id <= last[record.key]:
            return False
        last[record.key] = record.id
    return True


@pytest.fixture
async def roomy(here: Place) -> Place:
    """An outbox that takes larger events than Kafka's topics do by default."""
    await here.connection.execute("SELECT outbox.set_max_event_bytes($1)", MAX_EVENT_BYTES)
    return here


async def test_one_huge_event_fails_alone_and_holds_back_only_its_key_until_it_is_replayed(roomy: Place) -> None:
    await fill(roomy.connection, roomy.topic, 5_000, keys=200)
    huge = await enqueue(roomy, "backlog-7", b"26 " + b"x" * 5_000_000)
    await fill(roomy.connection, roomy.topic, 5_000, keys=200)
    behind = await count(roomy, "outbox.event WHERE key = 'backlog-7' AND id > $1", huge)
    async with roomy.relay() as relay:
        await reached(roomy, DELIVERIES, 10_000 - behind)
        await reached(roomy, "outbox.held", behind)
        # What waits behind a failure is recorded before the failure itself.
        await reached(roomy, "outbox.failure", 1)
        assert [line["id"] for line in relay.happened("event.failed")] == [huge]
        assert await roomy.connection.fetch("SELECT id, state, attempts FROM outbox.failure") == [(huge, "failed", 1)]
        before = await read_topic(roomy.bootstrap_servers, roomy.topic)
        assert not [record for record in before if record.key == b"backlog-7" and record.id > huge]

        await alter_topic(roomy.bootstrap_servers, roomy.topic, max_message_bytes=MAX_EVENT_BYTES)
        await mark(roomy, "replaying")
        await reached(roomy, DELIVERIES, 10_001)
        assert await count(roomy, "outbox.failure") == await count(roomy, "outbox.held") == 0
        # The key is open again.
        late = await enqueue(roomy, "backlog-7", b"late")
        await reached(roomy, f"{DELIVERIES} WHERE id = $1", 1, late)
        assert await count(roomy, "outbox.held") == 0
        await relay.stop()
    records = await read_topic(roomy.bootstrap_servers, roomy.topic)
    assert len(records) == 10_002
    assert in_id_order_per_key(records)


async def test_discard_lets_the_held_back_events_go_without_the_failed_one(roomy: Place) -> None:
    huge = await enqueue(roomy, "k", b"x" * 3_000_000)
    others = [await enqueue(roomy, "k", b"%d" % number) for number in range(5)]
    async with roomy.relay() as relay:
        await reached(roomy, "outbox.held", 5)
        await reached(roomy, "outbox.failure", 1)
        assert await count(roomy, DELIVERIES) == 0
        await mark(roomy, "discarded")
        await reached(roomy, DELIVERIES, 5)
        await relay.stop()
    assert [record.id for record in await read_topic(roomy.bootstrap_servers, roomy.topic)] == others
    assert await count(roomy, "outbox.failure WHERE id = $1 AND state = 'discarded'", huge) == 1


@pytest.mark.parametrize("policy", ["skip", "dead-letter"])
async def test_under_another_policy_the_key_goes_on_without_the_failed_event(roomy: Place, policy: str) -> None:
    dead_letters = f"{roomy.topic}.dead-letter"
    await create_topic(
        roomy.bootstrap_servers, dead_letters, partitions=1, configs={"max.message.bytes": MAX_EVENT_BYTES}
    )
    first = await enqueue(roomy, "k", b"first")
    huge = await enqueue(roomy, "k", b"x" * 3_000_000)
    last = await enqueue(roomy, "k", b"last")
    async with roomy.relay(failure_policies=f"{roomy.topic}={policy}") as relay:
        await reached(roomy, DELIVERIES, 2)
        await reached(roomy, "outbox.failure WHERE state = 'failed' AND policy = $1", 1, policy)
        assert await count(roomy, "outbox.held") == 0
        await relay.stop()
    assert [record.id for record in await read_topic(roomy.bootstrap_servers, roomy.topic)] == [first, last]
    dead = await read_topic(roomy.bootstrap_servers, dead_letters)
    if policy == "skip":
        assert dead == []
    else:
        (record,) = dead
        assert record.id == huge
        assert record.key == b"k"
        assert record.value == b"x" * 3_000_000
        assert record.headers["outbox-dead-letter-topic"] == roomy.topic
        assert re.search(r"3,000,0\d\d bytes", record.headers["outbox-dead-letter-error"])


async def test_a_policy_for_one_error_leaves_the_other_errors_of_its_topic_alone(roomy: Place) -> None:
    """Too large: the key goes on without it. Not allowed in a compacted topic: the policy of the topic."""
    await alter_topic(roomy.bootstrap_servers, roomy.topic, cleanup_policy="compact")
    huge = await enqueue(roomy, "k", b"x" * 3_000_000)
    last = await enqueue(roomy, "k", b"last")
    keyless = await roomy.connection.fetchval(
        "INSERT INTO outbox.event (topic, payload) VALUES ($1, 'x') RETURNING id", roomy.topic
    )
    policies = f"{roomy.topic}=block,{roomy.topic}:EventTooLarge=skip"
    async with roomy.relay(failure_policies=policies) as relay:
        await reached(roomy, "outbox.failure WHERE state = 'failed'", 2)
        await reached(roomy, DELIVERIES, 1)
        found = await roomy.connection.fetch("SELECT id, error, policy FROM outbox.failure ORDER BY id")
        assert [tuple(row) for row in found] == [
            (huge, "EventTooLarge", "skip"),
            (keyless, "InvalidRecordError", "block"),
        ]
        await relay.stop()
    assert [record.id for record in await read_topic(roomy.bootstrap_servers, roomy.topic)] == [last]


async def test_a_batch_refused_for_one_event_is_split_until_the_culprit_is_found(roomy: Place) -> None:
    # With compression the relay cannot tell the size of a record batch beforehand: the broker refuses it.
    await alter_topic(roomy.bootstrap_servers, roomy.topic, max_message_bytes=20_000)
    ids = [await enqueue(roomy, "k", b"%d" % number) for number in range(20)]
    huge = await enqueue(roomy, "other", secrets.token_bytes(40_000))
    ids += [await enqueue(roomy, "k", b"%d" % number) for number in range(20)]
    async with roomy.relay(kafka_compression="gzip") as relay:
        await reached(roomy, DELIVERIES, 40)
        await reached(roomy, "outbox.failure WHERE id = $1 AND state = 'failed'", 1, huge)
        assert len(relay.happened("event.failed")) == 1
        await relay.stop()
    records = await read_topic(roomy.bootstrap_servers, roomy.topic)
    assert [record.id for record in records if record.key == b"k"] == ids


async def test_a_missing_topic_is_paused_and_goes_on_in_order_once_it_exists(here: Place) -> None:
    missing = f"{here.topic}-missing"
    await fill(here.connection, missing, 2_000)
    await fill(here.connection, here.topic, 2_000)
    async with here.relay() as relay:
        await reached(here, DELIVERIES, 2_000)
        await relay.logged("topic.paused")
        await reached(here, "outbox.held WHERE topic = $1", 2_000, missing)
        _, answer = await relay.get("/readyz")
        assert list(answer["troubled_topics"]) == [missing]
        assert answer["ready"]
        await fill(here.connection, missing, 1_000)
        await fill(here.connection, here.topic, 1_000)
        await reached(here, "outbox.held WHERE topic = $1", 3_000, missing)
        await create_topic(here.bootstrap_servers, missing, partitions=3)
        await reached(here, DELIVERIES, 6_000)
        assert await count(here, "outbox.held") == await count(here, "outbox.failure") == 0
        assert len(relay.happened("topic.troubled")) == len(relay.happened("topic.paused")) == 1
        await relay.stop()
    records = await read_topic(here.bootstrap_servers, missing)
    assert len(records) == 3_000
    assert in_id_order_per_key(records)


@pytest.mark.slow
async def test_a_missing_topic_is_created_where_that_is_wanted(here: Place) -> None:
    missing = f"{here.topic}-created"
    await fill(here.connection, missing, 100)
    async with here.relay(topic_create="true", topic_partitions=5, topic_replication=1) as relay:
        await reached(here, DELIVERIES, 100)
        # Also when it is gone later.
        await delete_topic(here.bootstrap_servers, missing)
        await fill(here.connection, missing, 100)
        await reached(here, DELIVERIES, 200)
        await relay.stop()
    async with admin(here.bootstrap_servers) as client:
        (described,) = await client.describe_topics([missing])
    assert len(described["partitions"]) == 5


async def test_after_kill_9_amid_a_replay_every_failed_event_is_published_in_order(roomy: Place) -> None:
    # Event and topic limit the other way round: everything of the topic is too large until it is raised.
    await alter_topic(roomy.bootstrap_servers, roomy.topic, max_message_bytes=1_000)
    await fill(roomy.connection, roomy.topic, 3_000, keys=3_000, payload_bytes=2_000)
    behind = await count(roomy, "outbox.event")
    await fill(roomy.connection, roomy.topic, 3_000, keys=3_000, payload_bytes=50)
    async with roomy.relay(log_level="warning", publish_events_per_second=1_000) as relay:
        await reached(roomy, "outbox.failure", behind)
        await reached(roomy, "outbox.held", 3_000)
        await alter_topic(roomy.bootstrap_servers, roomy.topic, max_message_bytes=MAX_EVENT_BYTES)
        await mark(roomy, "replaying")

        async def some() -> bool:
            return await count(roomy, DELIVERIES) > 300

        await until("some are replayed", some)
        await relay.kill()
    await roomy.relay_is_gone()
    assert await count(roomy, DELIVERIES) < 6_000, "the kill came too late to be in the middle"
    await roomy.end_leases()
    async with roomy.relay() as relay:
        await reached(roomy, DELIVERIES, 6_000)
        assert await count(roomy, "outbox.failure") == await count(roomy, "outbox.held") == 0
        await relay.stop()
    records = await read_topic(roomy.bootstrap_servers, roomy.topic)
    assert len({record.id for record in records}) == 6_000
    first: dict[int, Record] = {}
    for record in records:
        first.setdefault(record.id, record)
    assert in_id_order_per_key(list(first.values()))


async def test_failures_and_held_keys_survive_a_restart(roomy: Place) -> None:
    await enqueue(roomy, "k", b"x" * 3_000_000)
    await enqueue(roomy, "k", b"behind")
    async with roomy.relay() as relay:
        await reached(roomy, "outbox.held", 1)
        await relay.stop()
    await enqueue(roomy, "k", b"after the restart")
    async with roomy.relay() as relay:
        await reached(roomy, "outbox.held", 2)
        assert await count(roomy, DELIVERIES) == 0
        await relay.stop()
    assert await read_topic(roomy.bootstrap_servers, roomy.topic) == []
