"""When a partition may send, and what it remembers between a refusal and the next try."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from relay.decide.room import Room
from relay.outcome import Acknowledged, FailureKind, PublishError, Refused
from relay.retry import Backoff
from relay.stages.publish.partition import COLD_AFTER, MOST_PER_BATCH, Flight, Partition
from relay.stages.tenure import Tenure
from tests.support.events import event, events, ids
from tests.support.producers import MAIN, SIDE

if TYPE_CHECKING:
    import pytest

    from relay.event import PendingEvent
    from relay.stages.publish.ports import Producer

EVENT = event(1, size=2)
REFUSAL = PublishError(FailureKind.EVENT, "too large")


async def test_after_its_pause_a_refused_partition_may_send_however_early_the_loops_timer_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # uvloop's timers count whole milliseconds and fire up to 1.3 ms before their time (measured): one that wakes
    # the partition and then finds by the clock that it is too early leaves it asleep for ever.
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda _, callback, *arguments: loop.call_soon(callback, *arguments))
    partition = Partition("orders", 0, Backoff(lambda: 0.0))
    partition.add([EVENT])
    assert partition.may_send(MAIN, time.monotonic())

    partition.back_off()
    assert not partition.may_send(MAIN, time.monotonic())

    partition.wake_up.clear()
    await partition.wake_up.wait()
    assert partition.may_send(MAIN, time.monotonic())


class Packed(NamedTuple):
    """A record batch."""

    events: list[PendingEvent]


def new_partition() -> Partition:
    partition = Partition("orders", 0, Backoff(lambda: 0.0))
    partition.add(events(1, 2, 3, 4))
    return partition


def send(partition: Partition, producer: Producer, now: float = 0.0) -> Flight:
    """A full batch, though of one event."""
    return send_some(partition, producer, 1, now)


def send_some(partition: Partition, producer: Producer, number: int, now: float = 0.0) -> Flight:
    """A batch of so many events."""
    flight = Flight(Tenure(Room(1, 1)), producer, take(partition, number), now)
    partition.flights.append(flight)
    return flight


def take(partition: Partition, number: int) -> list[PendingEvent]:
    """The events of a batch of so many."""
    return partition.take_batch(lambda waiting, most: Packed(list(islice(waiting, min(number, most))))).events


def acknowledge(partition: Partition, now: float) -> None:
    flight = partition.flights.popleft()
    flight.outcome = Acknowledged(0)
    partition.acknowledged(flight, now)


def test_the_first_batch_of_a_producer_goes_alone_until_it_is_acknowledged() -> None:
    """A broker that has no sequence to compare with would take the second although it refused the first."""
    partition = new_partition()
    assert partition.may_send(MAIN, 0.0)
    send(partition, MAIN)
    assert not partition.may_send(MAIN, 0.0)
    acknowledge(partition, 0.0)
    assert partition.may_send(MAIN, 0.0)


def test_a_producer_that_was_answered_has_one_batch_in_flight_and_one_queued_behind_it() -> None:
    partition = new_partition()
    send(partition, MAIN)
    acknowledge(partition, 0.0)
    send(partition, MAIN)
    assert partition.may_send(MAIN, 1.0)
    send(partition, MAIN)
    assert not partition.may_send(MAIN, 1.0)


def test_nothing_is_queued_behind_a_batch_until_there_is_enough_to_fill_one() -> None:
    partition = new_partition()
    send(partition, MAIN)
    acknowledge(partition, 0.0)
    partition.add(events(5, 6))
    # Three of five fill a batch.
    send_some(partition, MAIN, 3)
    assert not partition.may_send(MAIN, 1.0)
    partition.add(events(7))
    assert partition.may_send(MAIN, 1.0)


def test_a_batch_that_took_all_there_was_says_nothing_about_what_fills_one() -> None:
    partition = new_partition()
    send(partition, MAIN)
    acknowledge(partition, 0.0)
    send_some(partition, MAIN, 3)
    assert not partition.waiting
    partition.add(events(5))
    assert partition.may_send(MAIN, 1.0), "one event filled a batch before"


def flights(partition: Partition) -> tuple[Flight, Flight]:
    """Two batches in flight."""
    return send(partition, MAIN), send(partition, MAIN)


def test_an_acknowledged_batch_is_acted_on_once_those_before_it_are_acknowledged() -> None:
    partition = new_partition()
    first, second = flights(partition)
    assert partition.ended(second, Acknowledged(1)) == []
    assert partition.ended(first, Acknowledged(0)) == [(first, Acknowledged(0)), (second, Acknowledged(1))]
    assert not partition.flights


def test_a_refused_batch_is_acted_on_together_with_those_behind_it() -> None:
    partition = new_partition()
    first, second = flights(partition)
    refused = Refused(REFUSAL)
    assert partition.ended(first, refused) == []
    assert partition.ended(second, Acknowledged(1)) == [(first, refused), (second, Acknowledged(1))]
    assert not partition.flights


def test_an_acknowledged_batch_does_not_wait_for_those_behind_it() -> None:
    partition = new_partition()
    first, second = flights(partition)
    assert partition.ended(first, Acknowledged(0)) == [(first, Acknowledged(0))]
    assert list(partition.flights) == [second]
    refused = Refused(REFUSAL)
    assert partition.ended(second, refused) == [(second, refused)]


def test_another_producer_begins_with_a_single_batch_again() -> None:
    partition = new_partition()
    send(partition, MAIN)
    acknowledge(partition, 0.0)
    send(partition, SIDE)
    assert not partition.may_send(SIDE, 0.0)


def test_a_new_producer_waits_for_what_the_former_one_has_in_flight() -> None:
    partition = new_partition()
    send(partition, MAIN)
    assert not partition.may_send(SIDE, 0.0)


def test_a_partition_begins_with_a_single_batch_after_long_idleness_and_after_a_change_of_the_topic() -> None:
    partition = new_partition()
    send(partition, MAIN)
    acknowledge(partition, 0.0)
    send(partition, MAIN)
    assert partition.may_send(MAIN, COLD_AFTER - 0.1)
    assert not partition.may_send(MAIN, COLD_AFTER)
    partition.chill()
    assert not partition.may_send(MAIN, 1.0)


def test_nothing_is_sent_behind_a_batch_whose_refusal_has_not_been_acted_on() -> None:
    partition = new_partition()
    send(partition, MAIN)
    acknowledge(partition, 0.0)
    send(partition, MAIN).outcome = Refused(REFUSAL)
    assert not partition.may_send(MAIN, 0.0)


def test_what_is_put_back_goes_before_all_others_in_its_order() -> None:
    partition = new_partition()
    partition.put_back(take(partition, 2))
    assert ids(list(partition.waiting)) == [1, 2, 3, 4]


async def test_a_refused_batch_is_halved_until_the_culprit_goes_alone_and_nothing_is_pipelined_meanwhile() -> None:
    partition = new_partition()
    send(partition, MAIN)
    acknowledge(partition, 0.0)
    partition.add(events(5, 6, 7, 8))
    partition.split(7)
    assert partition.most == 3
    send(partition, MAIN)
    assert not partition.may_send(MAIN, 1.0)
    acknowledge(partition, 1.0)
    assert partition.most == 3, "the culprit is still ahead"
    partition.split(2)
    assert partition.most == 1
    partition.culprit_found()
    assert partition.most == 1, "the next one may be no better"
    sizes = []
    while partition.most < MOST_PER_BATCH:
        send(partition, MAIN)
        acknowledge(partition, 1.0)
        partition.add(events(9))
        sizes.append(partition.most)
    assert sizes == [4, 16, 64, 256, 1024, 4096, MOST_PER_BATCH]


def test_what_the_broker_named_is_kept_out_of_batches_until_it_has_come_to_the_head() -> None:
    partition = new_partition()
    first, second, third, fourth = partition.waiting
    partition.condemn([(second, REFUSAL), (fourth, REFUSAL)])
    assert (partition.head_condemned(), partition.batch_bound()) == (None, 1)
    send(partition, MAIN)
    acknowledge(partition, 0.0)
    assert partition.head_condemned() is REFUSAL
    assert partition.pop_head() is second
    assert (partition.head_condemned(), partition.batch_bound()) == (None, 1)
    flight = send(partition, MAIN)
    assert flight.events == [third]
    assert not partition.may_send(MAIN, 0.0), "one that fails must find nothing in flight"
    acknowledge(partition, 0.0)
    assert partition.pop_head() is fourth
    partition.add([first])
    assert partition.batch_bound() == partition.most


def test_what_the_broker_named_fails_at_once_unless_an_earlier_event_of_its_key_waits() -> None:
    partition = Partition("orders", 0, Backoff(lambda: 0.0))
    keys = (b"a", None, b"b", b"a", None, b"b", b"c", b"d")
    line = [event(number, key=key) for number, key in enumerate(keys, 1)]
    partition.add(line)
    partition.condemn([(line[at - 1], REFUSAL) for at in (2, 3, 4, 5, 6, 7)])

    def taken(most: int) -> list[int]:
        return [culprit.id for culprit, why in partition.take_condemned(most) if why is REFUSAL]

    assert taken(2) == [2, 3]
    assert ids(list(partition.waiting)) == [1, 4, 5, 6, 7, 8]
    # 4 waits for 1. What 3 has done to its key is done by now, so 6 has nothing before it.
    assert taken(9) == [5, 6, 7]
    assert taken(9) == []
    assert (ids(list(partition.waiting)), partition.batch_bound()) == ([1, 4, 8], 1)
    assert partition.progress == 5
    assert ids(take(partition, 9)) == [1]
    assert taken(9) == [4]
    assert (ids(list(partition.waiting)), partition.batch_bound()) == ([8], partition.most)


def test_of_one_key_named_twice_the_later_event_waits_for_what_becomes_of_the_earlier_one() -> None:
    partition = new_partition()
    first, second, third, _ = partition.waiting
    partition.condemn([(first, REFUSAL), (second, REFUSAL)])
    assert partition.take_condemned(9) == [(first, REFUSAL)]
    assert ids(list(partition.waiting)) == [2, 3, 4]
    partition.withdraw(lambda event: event is second)
    assert partition.take_condemned(9) == []
    assert partition.waiting[0] is third


def test_what_was_named_and_then_taken_out_is_asked_about_anew_when_it_comes_back() -> None:
    """Somebody may have put right what it was refused for."""
    partition = new_partition()
    pulled = list(partition.waiting)
    partition.condemn([(pulled[0], REFUSAL), (pulled[1], REFUSAL)])
    assert partition.withdraw(lambda event: event is pulled[0]) == pulled[:1]
    assert partition.head_condemned() is REFUSAL
    partition.withdraw()
    partition.add(pulled)
    assert partition.head_condemned() is None
    assert partition.batch_bound() == partition.most


def test_the_head_of_the_queue_stays_under_suspicion_until_all_that_was_refused_is_acknowledged() -> None:
    partition = new_partition()
    partition.suspect = True
    partition.split(2)
    send(partition, SIDE)
    acknowledge(partition, 0.0)
    suspected = [partition.suspect]
    send(partition, SIDE)
    acknowledge(partition, 0.0)
    suspected.append(partition.suspect)
    assert suspected == [True, False]
    assert partition.most == 4


def test_a_producer_gets_nothing_while_another_one_has_something_in_flight() -> None:
    partition = new_partition()
    send(partition, SIDE)
    assert not partition.may_send(MAIN, 0.0)
    acknowledge(partition, 0.0)
    assert partition.may_send(MAIN, 0.0)


def test_the_events_of_a_key_are_withdrawn_in_order_and_the_others_stay() -> None:
    partition = new_partition()
    others = [event(5, key=b"other"), event(6, key=b"other")]
    key = partition.waiting[0].key
    partition.add(others)
    assert key is not None
    assert ids(partition.withdraw(lambda event: event.key == key)) == [1, 2, 3, 4]
    assert ids(list(partition.waiting)) == [5, 6]
    assert partition.withdraw(lambda event: event.key == key) == []


def test_refusals_of_one_partition_alone_are_its_own_trouble_and_those_beside_an_outage_are_not() -> None:
    partition = Partition("orders", 0, Backoff(lambda: 0.0))
    assert [partition.refused_alone(now, now) for now in (1.0, 2.0, 3.0)] == [False, False, True]
    outage = Partition("orders", 1, Backoff(lambda: 0.0))
    assert [outage.refused_alone(now, 1.0) for now in (1.0, 2.0, 3.0, 4.0)] == [False] * 4
