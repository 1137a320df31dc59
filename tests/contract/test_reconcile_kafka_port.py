"""What reconciling may rely on: fences, what is read up to them, and where reading stops."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from relay.stages.reconcile.ports import Fenced, Place, ProducerId, TroubleKind
from tests.contract.logs import Cluster, RealCluster, SimulatedCluster
from tests.support.events import event
from tests.support.kafka.tails import SECONDS, as_found, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.stages.reconcile.ports import Finished
    from tests.contract.logs import Writer

MISSING = "nobody-has-made-this-topic"


@pytest.fixture(params=["fake", "real"])
async def logs(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """A cluster, and the port."""
    if request.param == "fake":
        yield SimulatedCluster()
        return
    async with AsyncExitStack() as stack:
        kafka, make_topic = request.getfixturevalue("kafka"), request.getfixturevalue("make_topic")
        yield await RealCluster(kafka, make_topic, stack).connect()


async def fence(logs: Cluster, writer: Writer, *places: Place) -> Fenced:
    """Fence a writer over these partitions."""
    assert writer.name is not None
    return await logs.port.fence(writer.name, places, SECONDS)


def kind(finished: Finished) -> TroubleKind | None:
    """Why a partition ended before its end."""
    return finished.trouble.kind if finished.trouble is not None else None


class TestFence:
    async def test_behind_it_the_producer_is_refused_in_each_of_its_partitions_and_nobody_else_is(
        self, logs: Cluster
    ) -> None:
        topic = logs.make_topic(3)
        warm, cold, left_out = (Place(topic, number) for number in range(3))
        writer, other = await logs.writer(), await logs.writer()
        assert await writer.send(warm, event(1)) == 0
        fenced = await fence(logs, writer, warm, cold)
        assert fenced == (ProducerId(writer.id.id, writer.id.epoch + 1), {})
        assert await other.send(warm, event(2)) == 2
        assert await logs.port.ends({topic: 3}) == {topic: [3, 1, 0]}
        assert await writer.send(left_out, event(3)) == 0
        assert await writer.send(warm, event(4)) is None

    async def test_a_partition_that_was_never_written_to_takes_nothing_either(self, logs: Cluster) -> None:
        cold = Place(logs.make_topic(), 0)
        writer = await logs.writer()
        await fence(logs, writer, cold)
        assert await writer.send(cold, event(1)) is None

    async def test_each_has_a_higher_epoch_of_the_same_producer(self, logs: Cluster) -> None:
        place = Place(logs.make_topic(), 0)
        writer = await logs.writer()
        first, second = await fence(logs, writer, place), await fence(logs, writer, place)
        assert first.producer == ProducerId(writer.id.id, 1)
        assert second.producer == ProducerId(writer.id.id, 2)

    async def test_whether_a_producer_could_be_fenced_is_known(self, logs: Cluster) -> None:
        assert await logs.port.can_fence(f"outbox-{secrets.token_hex(6)}", SECONDS)

    async def test_partitions_that_are_gone_are_named_and_the_others_fenced(self, logs: Cluster) -> None:
        place = Place(logs.make_topic(), 0)
        writer = await logs.writer()
        fenced = await fence(logs, writer, Place(MISSING, 0), place, Place(place.topic, 7))
        assert {each: trouble.kind for each, trouble in fenced.unfenced.items()} == {
            Place(MISSING, 0): TroubleKind.GONE,
            Place(place.topic, 7): TroubleKind.GONE,
        }
        assert await logs.port.ends({place.topic: 1}) == {place.topic: [1]}


class TestReading:
    async def test_what_the_producer_wrote_is_found_up_to_the_marker(self, logs: Cluster) -> None:
        topic = logs.make_topic(2)
        first, second = Place(topic, 0), Place(topic, 1)
        writer, other = await logs.writer(), await logs.writer(named=False)
        mine = [event(number) for number in range(1, 5)]
        await writer.send(first, *mine[:2])
        await other.send(first, mine[3])
        await writer.send(first, mine[2])
        await writer.send(second, mine[3])
        fenced = await fence(logs, writer, first, second)
        await other.send(first, event(9))
        found, ended = await read(logs.port, {first: 0, second: 0}, dict([fenced.producer]))
        assert found == {first: [*as_found(mine[:2]), *as_found(mine[2:3], 3)], second: as_found(mine[3:])}
        assert list(map(kind, ended.values())) == [None, None]

    async def test_it_begins_where_it_is_told_to(self, logs: Cluster) -> None:
        place = Place(logs.make_topic(), 0)
        writer = await logs.writer()
        mine = [event(number) for number in range(1, 4)]
        await writer.send(place, *mine)
        fenced = await fence(logs, writer, place)
        for begin in range(4):
            found, ended = await read(logs.port, {place: begin}, dict([fenced.producer]))
            assert found == {place: as_found(mine[begin:], begin)}
            assert kind(ended[place]) is None

    async def test_all_the_markers_are_waited_for(self, logs: Cluster) -> None:
        place = Place(logs.make_topic(), 0)
        first, second = await logs.writer(), await logs.writer()
        ends: dict[int, int | None] = {}
        await first.send(place, event(1))
        ends |= dict([(await fence(logs, first, place)).producer])
        await second.send(place, event(2))
        ends |= dict([(await fence(logs, second, place)).producer])
        found, _ = await read(logs.port, {place: 0}, ends)
        assert [each and each.id for _, each in found[place]] == [1, 2]

    async def test_without_a_marker_it_goes_on_to_the_end(self, logs: Cluster) -> None:
        topic = logs.make_topic(2)
        place, never_written = Place(topic, 0), Place(topic, 1)
        writer = await logs.writer(named=False)
        mine = [event(1), event(2)]
        await writer.send(place, *mine)
        found, ended = await read(logs.port, {place: 0, never_written: 0}, {writer.id.id: None})
        assert found == {place: as_found(mine), never_written: []}
        assert list(map(kind, ended.values())) == [None, None]

    async def test_behind_records_that_are_gone_nothing_is_found(self, logs: Cluster) -> None:
        place = Place(logs.make_topic(), 0)
        writer = await logs.writer()
        for number in range(4):
            await writer.send(place, event(number))
        await logs.delete_records(place, 2)
        fenced = await fence(logs, writer, place)
        found, ended = await read(logs.port, {place: 1}, dict([fenced.producer]))
        assert (found[place], kind(ended[place])) == ([], TroubleKind.HOLE)

    async def test_offsets_of_an_earlier_topic_of_that_name_are_a_hole(self, logs: Cluster) -> None:
        place = Place(logs.make_topic(), 0)
        writer = await logs.writer()
        fenced = await fence(logs, writer, place)
        found, ended = await read(logs.port, {place: 5}, dict([fenced.producer]))
        assert (found[place], kind(ended[place])) == ([], TroubleKind.HOLE)

    async def test_a_topic_that_is_gone_ends_and_the_others_are_read(self, logs: Cluster) -> None:
        place, gone = Place(logs.make_topic(), 0), Place(logs.make_topic(), 0)
        writer = await logs.writer()
        await writer.send(place, event(1))
        await logs.delete_topic(gone.topic)
        fenced = await fence(logs, writer, place)
        found, ended = await read(logs.port, {place: 0, gone: 0}, dict([fenced.producer]))
        assert found == {place: as_found([event(1)]), gone: []}
        assert (kind(ended[place]), kind(ended[gone])) == (None, TroubleKind.GONE)

    async def test_what_was_found_before_the_limit_holds(self, logs: Cluster) -> None:
        place = Place(logs.make_topic(), 0)
        writer = await logs.writer()
        await writer.send(place, event(1))
        fenced = await fence(logs, writer, place)
        found, ended = await read(logs.port, {place: 0}, dict([fenced.producer]), most_bytes=1)
        assert found == {place: as_found([event(1)])}
        assert kind(ended[place]) in (TroubleKind.BYTES, None)
        assert ended[place].bytes >= 1


class TestEnds:
    async def test_each_topic_has_as_many_as_were_asked_for(self, logs: Cluster) -> None:
        topics = {logs.make_topic(3): 2, logs.make_topic(): 1}
        assert await logs.port.ends(topics) == {topic: [0] * count for topic, count in topics.items()}
        assert await logs.port.ends({}) == {}

    async def test_a_missing_topic_or_partition_is_said(self, logs: Cluster) -> None:
        topic = logs.make_topic()
        answer = await logs.port.ends({MISSING: 1, topic: 2})
        for trouble in answer.values():
            assert not isinstance(trouble, list)
            assert trouble.kind is TroubleKind.GONE
