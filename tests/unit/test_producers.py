"""The main producer and the one beside it: which of them a partition, an acknowledgement, a refusal is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from relay.retry import Backoff
from relay.stages.publish.partition import Partition
from relay.stages.publish.producers import Pair

if TYPE_CHECKING:
    from relay.stages.publish.ports import Producer
    from relay.stages.publish.producers import Keeper


class NotingKeeper:
    """Notes what it is told."""

    def __init__(self, current: str) -> None:
        self.current = current
        self.told: list[str] = []

    def works(self) -> None:
        self.told.append("works")

    def discard(self, producer: object, reason: str) -> None:
        if producer is self.current:
            self.told.append(reason)


@pytest.fixture
def keepers() -> tuple[NotingKeeper, NotingKeeper]:
    return NotingKeeper("main"), NotingKeeper("side")


@pytest.fixture
def producers(keepers: tuple[NotingKeeper, NotingKeeper]) -> Pair:
    main, side = (cast("Keeper", keeper) for keeper in keepers)
    return Pair(main, side)


def test_a_suspect_partition_goes_through_the_one_beside(producers: Pair) -> None:
    partition = Partition("orders", 0, Backoff(lambda: 0.0))
    assert producers.of(partition) is producers.main
    partition.suspect = True
    assert producers.of(partition) is producers.side


@pytest.mark.parametrize(("producer", "told"), [("main", (1, 0)), ("side", (0, 1)), ("a former one", (1, 0))])
def test_an_acknowledgement_is_the_keepers_whose_producer_it_came_through(
    producers: Pair, keepers: tuple[NotingKeeper, NotingKeeper], producer: str, told: tuple[int, int]
) -> None:
    producers.works(producer)
    assert (len(keepers[0].told), len(keepers[1].told)) == told


def test_one_is_discarded_whichever_it_is_or_both(producers: Pair, keepers: tuple[NotingKeeper, NotingKeeper]) -> None:
    main, side = keepers
    producers.discard(cast("Producer", "side"), "refused")
    producers.discard(cast("Producer", "a former one"), "late")
    assert (main.told, side.told) == ([], ["refused"])
    producers.discard_both("the lease was lost")
    assert (main.told, side.told) == (["the lease was lost"], ["refused", "the lease was lost"])
