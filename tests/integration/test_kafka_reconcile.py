"""Fencing producers and reading what they left, on a real broker."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from relay.kafka.reconcile import fence as fences
from relay.kafka.reconcile import reading
from relay.outcome import Acknowledged, PublishError, Refused
from relay.stages.reconcile.ports import Place, ProducerId, TroubleKind, UnfenceableError
from tests.integration.test_kafka_producer import event
from tests.support.kafka.consumer import read_topic
from tests.support.kafka.tails import SECONDS, as_found, enlisted, read, reconciling, sent
from tests.support.kafka.topics import delete_topic
from tests.support.servers import shared as servers
from tests.support.servers.second_broker import FIRST, SECOND, SecondBroker, create_topic_on
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from relay.local import KafkaServer
    from tests.conftest import MakeTopic


def new_name() -> str:
    """A transactional id that was never used before."""
    return f"outbox-{secrets.token_hex(6)}"


async def test_a_producer_with_the_id_of_a_transactional_id_publishes_plainly_and_is_noted(
    kafka: servers.Kafka, topic: str
) -> None:
    name = new_name()
    async with enlisted(kafka, name) as (producer, noted):
        assert noted.enlisted == [(name, ProducerId(noted.producer.id, 0))]
        assert producer.name == name
        assert await sent(producer, Place(topic, 0), event(1), event(2)) == Acknowledged(0)
    assert [record.id for record in await read_topic(kafka.bootstrap_servers, topic)] == [1, 2]


async def test_a_producer_without_a_transactional_id_is_noted_with_the_id_that_kafka_gave_it(
    kafka: servers.Kafka,
) -> None:
    async with enlisted(kafka, None) as (producer, noted):
        ((name, id_),) = noted.enlisted
        assert name is None
        assert id_.id >= 0
        assert producer.name == f"producer-{id_.id}"


async def test_behind_a_fence_warm_partitions_and_never_written_ones_take_nothing(
    kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    topic, name = make_topic(3), new_name()
    warm, cold, left_out = (Place(topic, number) for number in range(3))
    async with enlisted(kafka, name) as (producer, noted), reconciling(kafka) as port:
        assert await sent(producer, warm, event(1)) == Acknowledged(0)
        fenced = await port.fence(name, [warm, cold], SECONDS)
        assert fenced == (ProducerId(noted.producer.id, noted.producer.epoch + 1), {})
        # One more than there are records: the marker.
        assert await port.ends({topic: 3}) == {topic: [2, 1, 0]}
        for place in (warm, cold):
            async with enlisted(kafka, None) as (other, _):
                refused = await sent(producer, place, event(2))
                assert isinstance(refused, Refused)
                assert refused.error.name == "ProducerFenced"
                # Nobody else is refused.
                assert isinstance(await sent(other, place, event(3)), Acknowledged)
        assert isinstance(await sent(producer, left_out, event(4)), Acknowledged)


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
async def test_consumers_do_not_see_the_marker(kafka: servers.Kafka, topic: str, isolation: str) -> None:
    name, place = new_name(), Place(topic, 0)
    async with enlisted(kafka, name) as (producer, _), reconciling(kafka) as port:
        await sent(producer, place, event(1))
        await port.fence(name, [place], SECONDS)
        async with enlisted(kafka, None) as (other, _):
            await sent(other, place, event(2))
        await port.fence(name, [place], SECONDS)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, isolation_level=isolation)
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning()
        records = []
        async with asyncio.timeout(SECONDS):
            while await consumer.position(partition) < 4:
                for some in (await consumer.getmany(timeout_ms=500)).values():
                    records += some
    finally:
        await consumer.stop()
    assert [record.offset for record in records] == [0, 2]


async def test_what_a_fenced_producer_left_is_read_up_to_the_marker(
    kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    topic, name = make_topic(2), new_name()
    first, second = Place(topic, 0), Place(topic, 1)
    mine = [event(number, key=b"k%d" % number) for number in range(6)]
    async with enlisted(kafka, name, compression="zstd") as (producer, _), reconciling(kafka) as port:
        await sent(producer, first, *mine[:2])
        await sent(producer, first, *mine[2:4])
        await sent(producer, second, event(9, key=None))
        fenced = await port.fence(name, [first, second], SECONDS)
        ends = {fenced.producer.id: fenced.producer.epoch}
        found, ended = await read(port, {first: 0, second: 0}, ends)
        assert found[first] == as_found(mine[:4])
        assert [(offset, each and each.id) for offset, each in found[second]] == [(0, 9)]
        assert [each.trouble for each in ended.values()] == [None, None]
        assert all(each.bytes > 0 for each in ended.values())
        # From the middle of a batch: what is below has its receipt.
        found, _ = await read(port, {first: 3, second: 1}, ends)
        assert found == {first: as_found(mine[3:4], 3), second: []}


async def test_records_of_others_with_the_relays_headers_and_true_ids_are_not_found(
    kafka: servers.Kafka, topic: str
) -> None:
    name, place = new_name(), Place(topic, 0)
    mine = [event(1), event(2)]
    async with (
        enlisted(kafka, name) as (producer, _),
        enlisted(kafka, new_name()) as (other, _),
        enlisted(kafka, None) as (third, _),
        reconciling(kafka) as port,
    ):
        await sent(other, place, mine[1])
        await sent(producer, place, mine[0])
        await sent(third, place, mine[1])
        fenced = await port.fence(name, [place], SECONDS)
        found, _ = await read(port, {place: 0}, dict([fenced.producer]))
    assert found[place] == as_found(mine[:1], 1)


async def test_a_writers_headers_do_not_stand_for_the_relays(kafka: servers.Kafka, topic: str) -> None:
    name, place = new_name(), Place(topic, 0)
    written = event(7, headers={"outbox-id": "999", "outbox-event-id": "mine", "z": "y"})
    async with enlisted(kafka, name) as (producer, _), reconciling(kafka) as port:
        await sent(producer, place, written)
        fenced = await port.fence(name, [place], SECONDS)
        found, _ = await read(port, {place: 0}, dict([fenced.producer]))
    assert found[place] == as_found([written])


async def test_the_fence_of_a_fenced_id_reads_to_either_marker(kafka: servers.Kafka, topic: str) -> None:
    name, place = new_name(), Place(topic, 0)
    mine = event(1)
    async with enlisted(kafka, name) as (producer, _), reconciling(kafka) as port:
        await sent(producer, place, mine)
        first = await port.fence(name, [place], SECONDS)
        second = await port.fence(name, [place], SECONDS)
        assert second.producer == ProducerId(first.producer.id, first.producer.epoch + 1)
        for fenced in (first, second):
            found, ended = await read(port, {place: 0}, dict([fenced.producer]))
            assert found[place] == as_found([mine])
            assert ended[place].trouble is None


async def test_of_those_who_fence_an_id_at_the_same_time_one_succeeds_and_others_hear_of_it(
    kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    topic, name = make_topic(4), new_name()
    places = [Place(topic, number) for number in range(4)]
    async with enlisted(kafka, name) as (producer, _), reconciling(kafka) as port:
        await sent(producer, places[0], event(1))
        results = await asyncio.gather(*(port.fence(name, places, SECONDS) for _ in range(4)), return_exceptions=True)
        lost = [each for each in results if isinstance(each, BaseException)]
        assert len(lost) < len(results)
        assert all(isinstance(each, PublishError) and each.name == "ProducerFenced" for each in lost), lost
        assert isinstance(await sent(producer, places[3], event(2)), Refused)


async def test_more_partitions_than_a_transaction_takes_are_all_fenced(
    kafka: servers.Kafka, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "MOST_PARTITIONS", 2)
    monkeypatch.setattr(reading, "MOST_PARTITIONS", 2)
    topic, name = make_topic(7), new_name()
    places = [Place(topic, number) for number in range(7)]
    async with enlisted(kafka, name) as (producer, _), reconciling(kafka) as port:
        fenced = await port.fence(name, places, SECONDS)
        assert fenced.unfenced == {}
        _, ended = await read(port, dict.fromkeys(places, 0), dict([fenced.producer]))
        assert {each.trouble for each in ended.values()} == {None}
        for place in places:
            assert isinstance(await sent(producer, place, event(1)), Refused)


async def test_of_a_topic_that_is_gone_nothing_is_fenced_and_nothing_waited_for(
    kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    gone, there, name = Place(make_topic(), 0), Place(make_topic(), 0), new_name()
    beyond = Place(there.topic, 1)
    mine = event(1)
    async with enlisted(kafka, name) as (producer, _), reconciling(kafka) as port:
        await sent(producer, gone, event(9))
        await sent(producer, there, mine)
        await delete_topic(kafka.bootstrap_servers, gone.topic)
        fenced = await port.fence(name, [gone, there, beyond], SECONDS)
        assert {place: trouble.kind for place, trouble in fenced.unfenced.items()} == {
            gone: TroubleKind.GONE,
            beyond: TroubleKind.GONE,
        }
        found, ended = await read(port, {gone: 0, there: 0}, dict([fenced.producer]))
        assert found == {gone: [], there: as_found([mine])}
        trouble = ended[gone].trouble
        assert trouble is not None
        assert trouble == (TroubleKind.GONE, f"topic {gone.topic} does not exist")
        assert (await port.ends({gone.topic: 1, there.topic: 1})) == {gone.topic: trouble, there.topic: [2]}


async def test_nothing_is_found_of_a_topic_that_was_made_again(kafka: servers.Kafka, make_topic: MakeTopic) -> None:
    topic, name = make_topic(), new_name()
    place = Place(topic, 0)
    async with enlisted(kafka, name) as (producer, _), reconciling(kafka) as port:
        await sent(producer, place, *(event(number) for number in range(5)))
        await delete_topic(kafka.bootstrap_servers, topic)
        await asyncio.to_thread(servers.create_topic_now, kafka, topic, 1, {})
        fenced = await port.fence(name, [place], SECONDS)
        assert fenced.unfenced == {}
        found, ended = await read(port, {place: 3}, dict([fenced.producer]))
        assert found[place] == []
        trouble = ended[place].trouble
        assert trouble is not None
        assert trouble.kind is TroubleKind.HOLE


async def test_behind_deleted_records_nothing_is_found(kafka: servers.Kafka, topic: str) -> None:
    name, place = new_name(), Place(topic, 0)
    async with enlisted(kafka, name) as (producer, _), reconciling(kafka) as port:
        for number in range(4):
            await sent(producer, place, event(number))
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=2)})
        finally:
            await admin.close()
        fenced = await port.fence(name, [place], SECONDS)
        found, ended = await read(port, {place: 1}, dict([fenced.producer]))
        assert found[place] == []
        trouble = ended[place].trouble
        assert trouble is not None
        assert trouble.kind is TroubleKind.HOLE
        # Nothing is missing from there on.
        found, ended = await read(port, {place: 2}, dict([fenced.producer]))
        assert [offset for offset, _ in found[place]] == [2, 3]
        assert ended[place].trouble is None


async def test_reading_stops_at_the_limit_and_what_was_found_holds(kafka: servers.Kafka, topic: str) -> None:
    name, place = new_name(), Place(topic, 0)
    async with enlisted(kafka, name) as (producer, _), reconciling(kafka) as port:
        for number in range(4):
            await sent(producer, place, event(number, payload=b"x" * 1_000))
        fenced = await port.fence(name, [place], SECONDS)
        found, ended = await read(port, {place: 0}, dict([fenced.producer]), most_bytes=2_000)
        trouble = ended[place].trouble
        assert trouble is not None
        assert trouble.kind is TroubleKind.BYTES
        # Whole answers are taken, and never less than the limit.
        assert [offset for offset, _ in found[place]][:2] == [0, 1]


async def test_without_a_marker_reading_goes_on_to_the_last_sequence_that_the_leader_knows(
    kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    topic = make_topic(3)
    some, settled, none = (Place(topic, number) for number in range(3))
    mine = [event(number) for number in range(4)]
    async with enlisted(kafka, None) as (producer, noted), reconciling(kafka) as port:
        await sent(producer, some, *mine[:2])
        await sent(producer, some, *mine[2:])
        await sent(producer, settled, *mine[:2])
        found, ended = await read(port, {some: 0, settled: 2, none: 0}, {noted.producer.id: None})
        assert found == {some: as_found(mine), settled: [], none: []}
        assert {each.trouble for each in ended.values()} == {None}


async def test_a_marker_that_never_comes_is_given_up_with_a_reason(
    kafka: servers.Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.3)
    name, place = new_name(), Place(topic, 0)
    mine = event(1)
    async with enlisted(kafka, name) as (producer, noted), reconciling(kafka) as port:
        await sent(producer, place, mine)
        found, ended = await read(port, {place: 0}, {noted.producer.id: noted.producer.epoch + 1})
    assert found[place] == as_found([mine])
    trouble = ended[place].trouble
    assert trouble is not None
    assert trouble.kind is TroubleKind.WAITS


async def test_the_ends_of_many_topics_are_told_in_one_answer(kafka: servers.Kafka, make_topic: MakeTopic) -> None:
    topics = {make_topic(count): count for count in (1, 2, 3)}
    async with reconciling(kafka) as port:
        assert await port.ends(topics) == {topic: [0] * count for topic, count in topics.items()}
        assert await port.ends({}) == {}
        asked_for_too_many = await port.ends({next(iter(topics)): 2})
        (trouble,) = asked_for_too_many.values()
        assert not isinstance(trouble, list)
        assert trouble.kind is TroubleKind.GONE


async def test_a_question_after_a_long_time_opens_a_new_client(kafka: servers.Kafka, topic: str) -> None:
    async with reconciling(kafka) as port:
        assert await port.ends({topic: 1}) == {topic: [0]}
        port._drop()
        assert await port.ends({topic: 1}) == {topic: [0]}


async def test_kafka_that_is_away_is_said(kafka: servers.Kafka) -> None:
    async with reconciling(kafka, bootstrap_servers="127.0.0.1:1", request_timeout=2) as port:
        with pytest.raises(PublishError, match=r"^127.0.0.1:1: nothing listens on this port"):
            await port.fence("any", [Place("any", 0)], SECONDS)


@pytest.mark.slow
async def test_a_cluster_that_has_no_coordinator_gives_a_producer_without_a_transactional_id_in_bounded_time() -> None:
    properties = {"transaction.state.log.replication.factor": 3, "transaction.state.log.min.isr": 2}
    with servers.server_folder() as folder, servers.own_kafka_server(folder, properties) as kafka:
        topic, name = f"test-{secrets.token_hex(6)}", new_name()
        await asyncio.to_thread(servers.create_topic_now, kafka, topic, 1, {})
        place = Place(topic, 0)
        async with asyncio.timeout(SECONDS), enlisted(kafka, name) as (producer, noted):
            (trouble,) = noted.troubles
            assert trouble.kind is TroubleKind.UNSUPPORTED
            assert "transaction.state.log.replication.factor" in trouble.said
            assert noted.enlisted == [(None, noted.producer)]
            mine = event(1)
            assert await sent(producer, place, mine) == Acknowledged(0)
            async with reconciling(kafka) as port:
                with pytest.raises(UnfenceableError) as raised:
                    await port.fence(name, [place], 1.0)
                assert raised.value.trouble.kind is TroubleKind.WAITS
                found, ended = await read(port, {place: 0}, {noted.producer.id: None})
                assert found[place] == as_found([mine])
                assert ended[place].trouble is None


@pytest.mark.slow
async def test_a_partition_without_a_leader_waits_alone_and_is_fenced_when_it_has_one_again(
    own_folder: Path, own_kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, name = f"test-{secrets.token_hex(6)}", new_name()
    (own_folder / "second").mkdir()
    with SecondBroker(own_folder / "second", own_kafka) as second:
        # Partitions 0 and 2 are the first broker's, 1 and 3 the second's.
        await create_topic_on(own_kafka, topic, [FIRST], [SECOND])
        places = [Place(topic, number) for number in range(4)]
        mine = [event(number) for number in range(4)]
        async with enlisted(own_kafka, name) as (producer, _), reconciling(own_kafka) as port:
            for place, each in zip(places, mine, strict=True):
                assert await sent(producer, place, each) == Acknowledged(0)
            await asyncio.to_thread(second.kill)

            async def leaderless() -> bool:
                with suppress(PublishError):
                    await producer.refresh_topic(topic)
                return producer.leaderless(topic, 1) and producer.leaderless(topic, 3)

            await until("half of the partitions have no leader", leaderless)
            fenced = await port.fence(name, places, SECONDS)
            assert {place: trouble.kind for place, trouble in fenced.unfenced.items()} == {
                places[1]: TroubleKind.WAITS,
                places[3]: TroubleKind.WAITS,
            }
            # Only here: a broker that starts may well say nothing for a second.
            with monkeypatch.context() as patched:
                patched.setattr(reading, "PATIENCE", 1.0)
                found, ended = await read(port, dict.fromkeys(places, 0), dict([fenced.producer]))
            for number, place in enumerate(places):
                trouble = ended[place].trouble
                assert (trouble and trouble.kind) == (TroubleKind.WAITS if number % 2 else None)
                assert found[place] == ([] if number % 2 else as_found([mine[number]]))

            await asyncio.to_thread(second.start)

            async def fenced_now() -> bool:
                try:
                    return not (await port.fence(name, places, 5.0)).unfenced
                except (PublishError, UnfenceableError):
                    # The markers of the former transaction are not written yet.
                    return False

            await until("all partitions are fenced", fenced_now, 60)
            again = await port.fence(name, places, SECONDS)
            found, ended = await read(port, dict.fromkeys(places, 0), dict([again.producer]))
            assert {each.trouble for each in ended.values()} == {None}
            assert {place: len(some) for place, some in found.items()} == dict.fromkeys(places, 1)
