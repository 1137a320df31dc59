"""The main producer and the one beside it: which of them a partition, an acknowledgement, a refusal is about."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import pytest

from relay.retry import Backoff
from relay.stages.publish.partition import Partition
from relay.stages.publish.producers import Keeper, Pair
from relay.telemetry import Telemetry
from tests.support.producers import MAIN, SIDE, producer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from relay.outcome import PublishError
    from relay.stages.publish.ports import Producer

FORMER = producer("a former one")


class NotingKeeper:
    """Notes what it is told."""

    def __init__(self, current: Producer) -> None:
        self.current = current
        self.told: list[str] = []

    def works(self) -> None:
        self.told.append("works")

    def discard(self, producer: Producer | None, reason: str) -> None:
        if producer is self.current:
            self.told.append(reason)


@pytest.fixture
def keepers() -> tuple[NotingKeeper, NotingKeeper]:
    return NotingKeeper(MAIN), NotingKeeper(SIDE)


@pytest.fixture
def producers(keepers: tuple[NotingKeeper, NotingKeeper]) -> Pair:
    main, side = (cast("Keeper", keeper) for keeper in keepers)
    return Pair(main, side)


def test_a_suspect_partition_goes_through_the_one_beside(producers: Pair) -> None:
    partition = Partition("orders", 0, Backoff(lambda: 0.0))
    assert producers.of(partition) is producers.main
    partition.suspect = True
    assert producers.of(partition) is producers.side


@pytest.mark.parametrize(("producer", "told"), [(MAIN, (1, 0)), (SIDE, (0, 1)), (FORMER, (1, 0))])
def test_an_acknowledgement_is_the_keepers_whose_producer_it_came_through(
    producers: Pair, keepers: tuple[NotingKeeper, NotingKeeper], producer: Producer, told: tuple[int, int]
) -> None:
    producers.works(producer)
    assert (len(keepers[0].told), len(keepers[1].told)) == told


def test_either_producer_is_discarded_or_both(producers: Pair, keepers: tuple[NotingKeeper, NotingKeeper]) -> None:
    main, side = keepers
    producers.discard(SIDE, "refused")
    producers.discard(FORMER, "late")
    assert (main.told, side.told) == ([], ["refused"])
    producers.discard_both("the lease was lost")
    assert (main.told, side.told) == (["the lease was lost"], ["refused", "the lease was lost"])


class ClosableProducer:
    """A producer that notes its end in `order`."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name = name
        self.order = order
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def close(self, timeout: float) -> None:
        self.order.append(f"{self.name} closed")


class Kept:
    """A keeper at work, and in which order it does what."""

    def __init__(
        self, replace_after: float | None = None, outdated: Callable[[Producer], Awaitable[None]] | None = None
    ) -> None:
        self.order: list[str] = []
        self.telemetry = Telemetry()
        self.replaced: list[object] = []
        self.telemetry.listen("producer.", lambda told: self.replaced.append((told.happening, *told.fields.values())))
        backoff = Backoff(lambda: 0.0, first=0.0)
        self.keeper = Keeper(
            name="main",
            connect=self._connect,
            backoff=backoff,
            telemetry=self.telemetry,
            replace_after=replace_after,
            outdated=outdated,
        )
        self.connected = 0

    async def _connect(self, on_failure: Callable[[PublishError], None]) -> Producer:
        self.connected += 1
        self.order.append(f"{self.connected} connected")
        return cast("Producer", ClosableProducer(str(self.connected), self.order))

    async def quiesce(self, producer: Producer) -> None:
        assert self.keeper.current is None, "a discarded producer is given no batches"
        self.order.append("waited for what is in flight")

    def abandon(self, producer: Producer) -> None:
        self.order.append("given up the rest")

    async def next(self, former: Producer | None = None) -> Producer:
        """Wait for the producer after this one."""
        async with asyncio.timeout(30):
            while (producer := await self.keeper.ready()) is former:  # noqa: ASYNC110 the keeper has no event for that
                await asyncio.sleep(0)
        return producer


async def test_an_old_producer_is_replaced_when_its_batches_have_landed_and_nobody_is_told() -> None:
    kept = Kept(replace_after=0.01)
    await replaced_quietly(kept)


async def test_a_producer_is_replaced_in_the_same_way_when_a_better_one_can_be_had() -> None:
    async def outdated(producer: Producer) -> None:
        assert producer is its.keeper.current
        if producer.name != "1":
            await asyncio.Event().wait()

    its = Kept(outdated=outdated)
    await replaced_quietly(its)
    assert its.connected == 2


async def replaced_quietly(kept: Kept) -> None:
    """Wait until the first producer is replaced."""
    keeping = asyncio.create_task(kept.keeper.run(kept.quiesce, kept.abandon))
    first = await kept.next()
    await kept.next(first)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert kept.order[:4] == ["1 connected", "waited for what is in flight", "given up the rest", "1 closed"]
    assert kept.replaced == []


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    kept = Kept()
    keeping = asyncio.create_task(kept.keeper.run(kept.quiesce, kept.abandon))
    yield kept
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    assert kept.order[-1] == f"{kept.connected} closed"


async def test_a_discarded_producer_is_waited_for_given_up_and_closed_before_another_is_connected(kept: Kept) -> None:
    first = await kept.next()
    kept.keeper.discard(first, "refused")
    await kept.next(first)
    what = ["1 connected", "waited for what is in flight", "given up the rest", "1 closed", "2 connected"]
    assert kept.order == what
    assert kept.replaced == [("producer.replaced", "main", "refused", True)]


async def test_a_producer_that_died_is_not_waited_for_and_its_cause_is_told(kept: Kept) -> None:
    first = await kept.next()
    cast("ClosableProducer", first).died.set_result("its sender task ended")
    await kept.next(first)
    assert kept.order == ["1 connected", "given up the rest", "1 closed", "2 connected"]
    assert kept.replaced == [("producer.replaced", "main", "its sender task ended", True)]


async def test_the_same_reason_is_told_once_and_that_a_producer_works_once_after_a_discard(kept: Kept) -> None:
    producer = await kept.next()
    kept.keeper.works()
    for _ in range(2):
        kept.keeper.discard(producer, "refused")
        producer = await kept.next(producer)
    for _ in range(2):
        kept.keeper.works()
    assert kept.replaced == [
        ("producer.replaced", "main", "refused", True),
        ("producer.replaced", "main", "refused", False),
        ("producer.works", "main"),
    ]


async def test_a_producer_that_is_not_the_current_one_is_not_replaced(kept: Kept) -> None:
    first = await kept.next()
    kept.keeper.discard(FORMER, "late")
    assert kept.keeper.current is first
