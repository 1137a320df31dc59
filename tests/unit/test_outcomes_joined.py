"""Record batches that follow one another in their partition share a receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relay.decide.receipts import MOST_PLACES
from relay.stages.settle.outcomes import Delivered, joined
from tests.support.events import event, ids

if TYPE_CHECKING:
    from relay.stages.tenure import Tenure

TENURE = cast("Tenure", None)


def delivered(first: int, events: int, partition: int, base: int, topic: str = "orders") -> Delivered:
    return Delivered(TENURE, [event(first + i, topic=topic) for i in range(events)], partition, base)


def told(deliveries: list[Delivered]) -> list[tuple[int, int, list[int]]]:
    return [(each.partition, each.base_offset, ids(each.events)) for each in deliveries]


def test_what_follows_in_the_partition_is_put_together_though_others_came_between() -> None:
    batches = [delivered(1, 2, 0, 10), delivered(3, 1, 1, 50), delivered(4, 1, 0, 12), delivered(5, 2, 0, 13)]
    assert sorted(told(joined(batches))) == [(0, 10, [1, 2, 4, 5, 6]), (1, 50, [3])]
    assert ids(batches[0].events) == [1, 2], "the outcome itself is another one"


def test_what_does_not_follow_or_is_of_another_topic_or_has_no_place_stays_apart() -> None:
    batches = [
        delivered(1, 2, 0, 10),
        delivered(3, 1, 0, 13),
        delivered(4, 1, 0, 12, "payments"),
        delivered(5, 1, 0, -1),
        delivered(6, 1, 0, -1),
    ]
    assert told(joined(batches)) == told(batches)


def test_no_more_is_put_together_than_a_receipt_holds() -> None:
    whole = delivered(1, MOST_PLACES, 0, 0)
    assert told(joined([whole, delivered(9_000, 1, 0, MOST_PLACES)])) == told(
        [whole, delivered(9_000, 1, 0, MOST_PLACES)]
    )
