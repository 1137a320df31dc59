"""Delivered events are published again when a person asks for it, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from relay.postgres.admin.replays import Replays
from tests.acceptance.conftest import place
from tests.acceptance.test_failures import enqueue
from tests.support.kafka.consumer import read_topic
from tests.support.kafka.topics import alter_topic, delete_topic
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.replays import (
    ask,
    check_replay,
    finished,
    insert_action,
    live,
    look,
    of_replay,
    receipts_reach,
)
from tests.support.postgres.writers import Writers, fill
from tests.support.promises import check_everything, first_occurrences
from tests.support.waiting import until

if TYPE_CHECKING:
    from relay.local import KafkaServer, PostgresServer
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers

EVENTS = 20_000
MOST_IN_FLIGHT = 16 * 256
RATE = 4_000
"""Of a replay in whose middle something happens."""


@pytest.mark.slow
async def test_a_replay_publishes_everything_once_more_while_live_events_flow(here: Place) -> None:
    await fill(here.connection, here.topic, EVENTS)
    async with here.relay() as relay:
        await here.settled()
        before = await here.connection.fetch(f"SELECT * FROM {DELIVERIES}")
        async with Writers(here.dsn, here.topic) as writers:
            await writers.commit(50)
            action = await ask(here.connection, here.topic)
            asked_at = writers.committed
            replay = await finished(here.connection, action)
            assert writers.committed > asked_at, "no live event flowed meanwhile"
        await here.settled()
        assert await relay.metric("replayed_events_total") == replay.published
        await relay.stop()
    await check_everything(here.connection, here.bootstrap_servers, here.topic)
    records = await read_topic(here.bootstrap_servers, here.topic)
    await check_replay(here.connection, action, records)
    assert len(live(records)) == await here.receipts(), "a live event is there twice"
    assert EVENTS <= replay.events <= replay.published <= EVENTS + asked_at
    # Receipts of the first delivery stay what they were.
    after = {row["id"]: row for row in await here.connection.fetch(f"SELECT * FROM {DELIVERIES}")}
    assert all(after[row["id"]] == row for row in before)


@pytest.mark.slow
async def test_after_kill_9_amid_a_replay_the_next_start_goes_on_and_repeats_only_what_was_in_flight(
    here: Place,
) -> None:
    await fill(here.connection, here.topic, EVENTS)
    async with here.relay() as relay:
        await here.settled()
        action = await ask(here.connection, here.topic, rate=RATE)
        await receipts_reach(here.connection, action, EVENTS // 4)
        await relay.kill()
    await here.relay_is_gone()
    receipts = await receipts_reach(here.connection, action, 1)
    assert receipts < EVENTS, "the kill came too late to be in the middle"
    published = of_replay(await read_topic(here.bootstrap_servers, here.topic), action)
    in_flight = len({record.id for record in published}) - receipts

    await here.end_leases()
    async with here.relay() as relay:
        await finished(here.connection, action)
        await relay.stop()

    records = await read_topic(here.bootstrap_servers, here.topic)
    await check_replay(here.connection, action, records, most_repeats=in_flight)
    assert in_flight <= MOST_IN_FLIGHT


@pytest.mark.slow
async def test_replicas_share_a_replay_and_one_that_is_killed_is_stood_in_for(here: Place) -> None:
    await fill(here.connection, here.topic, EVENTS)
    settings = {"kafka_request_timeout": 3, "replica_lease": 10}
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(here.relay(**settings)) for _ in range(2)]
        await here.settled()

        async def shared() -> bool:
            return [await relay.metric("lanes_owned") for relay in (one, two)] == [8, 8]

        await one.ready()
        await two.ready()
        await until("both own half of the lanes", shared)
        action = await ask(here.connection, here.topic, rate=4_000)
        await one.logged("replay.started")
        await two.logged("replay.started")
        await receipts_reach(here.connection, action, EVENTS // 4)
        await two.kill()
        assert (await look(here.connection, action)).finished_at is None
        await finished(here.connection, action)
        await one.stop()
    records = await read_topic(here.bootstrap_servers, here.topic)
    await check_replay(here.connection, action, records, most_repeats=MOST_IN_FLIGHT // 2)


async def test_a_replay_asked_for_while_no_relay_runs_is_done_by_the_next_one(here: Place) -> None:
    await fill(here.connection, here.topic, 100)
    async with here.relay() as relay:
        await here.settled()
        await relay.stop()
    action = await ask(here.connection, here.topic)
    async with here.relay(scan_wake_up="false") as relay:
        await finished(here.connection, action)
        await relay.logged("replay.ended")
        await relay.stop()
    await check_replay(here.connection, action, await read_topic(here.bootstrap_servers, here.topic))


async def test_a_cancelled_replay_stops_and_what_is_in_kafka_is_counted(here: Place) -> None:
    await fill(here.connection, here.topic, 2_000)
    async with here.relay() as relay:
        await here.settled()
        action = await ask(here.connection, here.topic, rate=100)
        await receipts_reach(here.connection, action, 50)
        assert await Replays(here.connection, "outbox").cancel(action, "me@here")
        await relay.logged("replay.ended")
        late = await enqueue(here, "late", b"live")
        await here.settled()
        await relay.stop()
    replay = await look(here.connection, action)
    records = await read_topic(here.bootstrap_servers, here.topic)
    assert replay.state == "cancelled"
    assert 50 <= replay.published == len(of_replay(records, action)) < 2_000
    assert records[-1].id == late or any(record.id == late for record in live(records))


@pytest.mark.slow
async def test_a_rate_is_kept_by_all_replicas_together(here: Place) -> None:
    rate, events = 40, 120
    await fill(here.connection, here.topic, events)
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(here.relay()) for _ in range(2)]
        await here.settled()
        for relay in relays:
            await relay.logged("lanes.claimed")
        action = await ask(here.connection, here.topic, rate=rate)
        await finished(here.connection, action)
        for relay in relays:
            await relay.stop()
    records = of_replay(await read_topic(here.bootstrap_servers, here.topic), action)
    assert len(records) == events
    # The timestamps say when an event was let go: none of these depends on how fast this machine is.
    times = sorted(record.timestamp for record in records)
    for begin in times:
        assert len([time for time in times if begin <= time < begin + 1_000]) <= rate * 1.5 + 2


async def test_only_the_key_that_was_asked_for_is_replayed(here: Place) -> None:
    await fill(here.connection, here.topic, 1_000, keys=50)
    async with here.relay() as relay:
        await here.settled()
        action = await ask(here.connection, here.topic, key=b"backlog-7")
        replay = await finished(here.connection, action)
        await relay.stop()
    records = await read_topic(here.bootstrap_servers, here.topic)
    assert {record.key for record in of_replay(records, action)} == {b"backlog-7"}
    assert replay.events == 20
    await check_replay(here.connection, action, records)


@pytest.mark.slow
async def test_events_that_kafka_refuses_now_are_counted_and_stop_nothing(here: Place) -> None:
    await enqueue(here, "k", b"first")
    large = await enqueue(here, "k", b"x" * 20_000)
    last = await enqueue(here, "k", b"last")
    async with here.relay() as relay:
        await here.settled()
        await alter_topic(here.bootstrap_servers, here.topic, max_message_bytes=8_000)
        await here.connection.execute("SELECT pg_sleep(5)")  # the limit is believed for so long
        action = await ask(here.connection, here.topic)
        replay = await finished(here.connection, action)
        assert (replay.state, replay.published, replay.failed) == ("finished", 2, 1)
        ((error, events, example),) = await Replays(here.connection, "outbox").errors(action, 10)
        assert ("EventTooLarge" in error or "MessageSizeTooLarge" in error, events, example) == (True, 1, large)
        assert (await relay.logged("replay.refused"))["action"] == action
        assert not await here.connection.fetch("SELECT FROM outbox.failure UNION ALL SELECT FROM outbox.held")
        # The key is open.
        later = await enqueue(here, "k", b"later")
        await here.settled()
        await relay.stop()
    records = await read_topic(here.bootstrap_servers, here.topic)
    assert [record.id for record in of_replay(records, action)] == [large - 1, last]
    assert [record.id for record in live(records)] == [large - 1, large, last, later]


@pytest.mark.slow
async def test_a_replay_of_a_topic_that_is_gone_waits_holds_nothing_back_and_goes_on_when_it_is_there(
    here: Place, make_topic: MakeTopic
) -> None:
    other = make_topic()
    await fill(here.connection, here.topic, 3_000)
    async with here.relay() as relay:
        await here.settled()
        await delete_topic(here.bootstrap_servers, here.topic)
        action = await ask(here.connection, here.topic)
        await relay.logged("topic.paused", timeout=60)
        await enqueue(here, "k", b"live", other)
        await here.settled()
        assert not await here.connection.fetch("SELECT FROM outbox.held UNION ALL SELECT FROM outbox.failure")
        assert (await look(here.connection, action)).state == "open"
        await create_topic(here.bootstrap_servers, here.topic, partitions=4)
        replay = await finished(here.connection, action)
        await relay.stop()
    records = of_replay(await read_topic(here.bootstrap_servers, here.topic), action)
    assert {record.id for record in records} == set(range(1, 3_001))
    assert (replay.published, replay.failed) == (3_000, 0)
    last: dict[bytes | None, int] = {}
    for record in first_occurrences(records):
        assert record.id > last.get(record.key, 0)
        last[record.key] = record.id


async def test_a_replay_to_another_topic_goes_there_alone_and_keeps_the_order_of_each_key(
    here: Place, make_topic: MakeTopic
) -> None:
    """With another number of partitions, and marked for a group; a topic that is not allowed gets nothing."""
    target = make_topic(3)
    await fill(here.connection, here.topic, 2_000)
    async with here.relay(topic_deny="forbidden,__*") as relay:
        await here.settled()
        refused = await finished(here.connection, await ask(here.connection, here.topic, to_topic="forbidden"))
        assert (refused.published, refused.failed) == (0, 2_000)
        action = await ask(here.connection, here.topic, to_topic=target, group="billing")
        replay = await finished(here.connection, action)
        assert (replay.state, replay.published, replay.failed) == ("finished", 2_000, 0)
        await relay.stop()
    assert await here.check_everything() == [], "its own topic got it again"
    records = await read_topic(here.bootstrap_servers, target)
    last: dict[bytes | None, int] = {}
    for record in records:
        assert record.id > last.get(record.key, 0)
        last[record.key] = record.id
        told = {name: value for name, value in record.headers.items() if name.startswith("outbox-replay")}
        assert told == {
            "outbox-replay": str(action),
            "outbox-replay-topic": here.topic,
            "outbox-replay-group": "billing",
        }
    places = {(record.id, record.partition, record.offset) for record in records}
    receipts = await here.connection.fetch(
        "SELECT id, kafka_partition, kafka_offset FROM outbox.replay_receipt WHERE action = $1", action
    )
    assert {tuple(row) for row in receipts} == places
    assert len(places) == 2_000


async def test_a_request_that_cannot_be_read_is_ended_and_the_relay_goes_on(here: Place) -> None:
    async with here.relay() as relay:
        await relay.logged("lanes.claimed")
        action = await insert_action(here.connection, {"topic": "a"}, {})
        replay = await finished(here.connection, action)
        assert replay.state == "invalid"
        await enqueue(here, "k", b"live")
        await here.settled()
        await relay.stop()


@pytest.mark.slow
async def test_after_a_drain_amid_a_replay_nothing_is_repeated(here: Place) -> None:
    await fill(here.connection, here.topic, EVENTS)
    async with here.relay() as relay:
        await here.settled()
        action = await ask(here.connection, here.topic, rate=RATE)
        await receipts_reach(here.connection, action, EVENTS // 4)
        await relay.stop()
    assert await receipts_reach(here.connection, action, 1) < EVENTS, "the stop came too late to be in the middle"
    async with here.relay() as relay:
        await finished(here.connection, action)
        await relay.stop()
    await check_replay(here.connection, action, await read_topic(here.bootstrap_servers, here.topic))


@pytest.mark.slow
async def test_a_replay_survives_kill_9_of_postgres(
    own_postgres: PostgresServer, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    async with place(own_postgres.dsn, kafka.bootstrap_servers, make_topic(4)) as here, here.relay() as relay:
        await fill(here.connection, here.topic, EVENTS)
        await here.settled()
        action = await ask(here.connection, here.topic, rate=RATE)
        await receipts_reach(here.connection, action, EVENTS // 4)
        await asyncio.to_thread(own_postgres.kill)
        await relay.logged("postgres.lost")
        await asyncio.to_thread(own_postgres.start)
        await here.reconnect()
        assert (await look(here.connection, action)).finished_at is None
        await finished(here.connection, action)
        await relay.stop()
        records = await read_topic(here.bootstrap_servers, here.topic)
        await check_replay(here.connection, action, records, most_repeats=MOST_IN_FLIGHT)


@pytest.mark.slow
async def test_a_replay_survives_kill_9_of_kafka(fragile_here: Place, fragile_kafka: KafkaServer) -> None:
    here = fragile_here
    await fill(here.connection, here.topic, EVENTS)
    async with here.relay() as relay:
        await here.settled()
        action = await ask(here.connection, here.topic, rate=RATE)
        await receipts_reach(here.connection, action, EVENTS // 4)
        await asyncio.to_thread(fragile_kafka.kill)
        late = await enqueue(here, "late", b"live")
        await relay.logged("kafka.lost")
        assert (await look(here.connection, action)).finished_at is None
        await asyncio.to_thread(fragile_kafka.start)
        await finished(here.connection, action)
        await here.settled()
        await relay.stop()
    records = await read_topic(here.bootstrap_servers, here.topic)
    assert late in {record.id for record in live(records)}
    await check_replay(here.connection, action, records, most_repeats=MOST_IN_FLIGHT)
