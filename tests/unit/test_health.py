"""Health: ready means progress, alive means the event loop turns."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from relay.run import watchdog
from relay.run.health import DISCARDS_IN_A_ROW, MAX_LOOP_STALL, Health, Reason
from relay.settings import HealthSettings
from relay.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable


def healthy(now: float = 0.0) -> Health:
    """A replica that has reached both servers."""
    health = Health(HealthSettings(max_stall=60.0, max_outage=60.0), now)
    health.postgres_ok()
    health.kafka_ok()
    return health


def test_a_replica_is_not_ready_before_it_has_reached_both_servers() -> None:
    health = Health(HealthSettings(), now=0.0)
    assert [reason.split()[0] for reason in health.ready(0.0)] == ["PostgreSQL", "Kafka"]

    health.postgres_ok()
    health.kafka_lost(1.0, "connection\nrefused")
    assert health.ready(1.0) == ["Kafka has not been reached yet: connection refused"]

    health.kafka_ok()
    assert health.ready(2.0) == []


def test_a_short_outage_does_not_make_a_replica_unready() -> None:
    health = healthy()
    health.kafka_lost(100.0, "reset")
    assert health.ready(159.9) == []


@pytest.mark.parametrize("server", ["postgres", "kafka"])
def test_a_long_outage_does_and_counts_from_its_first_report(server: str) -> None:
    health = healthy()
    lost, ok = getattr(health, f"{server}_lost"), getattr(health, f"{server}_ok")
    lost(100.0, "reset")
    lost(150.0, "refused")

    (reason,) = health.ready(160.0)
    assert reason.endswith("has been away for 60 s: refused")

    ok()
    assert health.ready(161.0) == []
    lost(170.0, "reset")
    assert health.ready(229.0) == []


def test_an_old_event_makes_a_replica_unready_until_there_is_progress() -> None:
    health = healthy()
    health.progress(10.0, 59.0)
    assert health.ready(10.0) == []

    health.progress(12.0, 61.0)
    assert health.ready(12.0) == ["there has been no progress for 61 s"]

    health.progress(13.0, 0.5)
    assert health.ready(13.0) == []


def test_an_event_ages_while_a_stage_hangs_and_reports_nothing() -> None:
    health = healthy()
    health.progress(10.0, 1.0)
    assert health.ready(68.0) == []
    assert health.stalled(68.0) == 59.0
    assert len(health.ready(69.0)) == 1


def test_a_replica_without_lanes_is_ready_for_ever() -> None:
    health = healthy()
    health.progress(10.0, 100.0)
    health.progress(11.0, None)
    assert health.ready(100_000.0) == []
    assert health.stalled(100_000.0) == 0.0


def test_a_stopping_replica_is_not_ready_and_still_alive() -> None:
    health = healthy()
    health.stopping()
    assert health.ready(1.0) == ["the relay is stopping"]
    assert health.alive(1.0)


def test_a_replica_is_alive_while_its_event_loop_turns() -> None:
    health = healthy(now=0.0)
    assert health.alive(MAX_LOOP_STALL - 0.1)
    assert not health.alive(MAX_LOOP_STALL)
    health.loop_turned(50.0)
    assert health.alive(50.0 + MAX_LOOP_STALL - 0.1)


def test_an_outage_does_not_make_a_replica_dead() -> None:
    health = Health(HealthSettings(), now=0.0)
    health.kafka_lost(0.0, "refused")
    health.loop_turned(10_000.0)
    assert health.alive(10_000.0)
    assert health.ready(10_000.0)


class Looks(Telemetry):
    """Telemetry that says when the watchdog has looked."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = asyncio.Event()

    def emit(self, name: str, /, **fields: object) -> None:
        super().emit(name, **fields)
        if name == "loop.delayed":
            self.looked.set()


def work(seconds: float) -> None:
    """Use the CPU for so long."""
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass


@pytest.mark.parametrize(("fault", "counted"), [(work, "blocked"), (time.sleep, "starved")])
async def test_the_watchdog_reports_turns_and_sees_what_keeps_the_event_loop(
    fault: Callable[[float], None], counted: str
) -> None:
    loop = asyncio.get_running_loop()
    telemetry = Looks()
    health = Health(HealthSettings(), now=loop.time() - 2 * MAX_LOOP_STALL)
    assert not health.alive(loop.time())

    async with asyncio.timeout(30):
        watching = asyncio.create_task(watchdog.watch_loop(health, telemetry, lambda: True, telemetry.tell_what_lasts))
        await telemetry.looked.wait()
        assert health.alive(loop.time())

        before = telemetry.value(f"loop_{counted}_total") or 0.0
        fault(0.05)
        telemetry.looked.clear()
        await telemetry.looked.wait()
        watching.cancel()
    assert telemetry.value(f"loop_{counted}_total") == before + 1
    assert (telemetry.value("loop_delay_seconds_sum") or 0.0) >= watchdog.BLOCKED


def test_producers_that_are_discarded_one_after_the_other_make_a_replica_unready_until_one_works() -> None:
    health = healthy()
    for _ in range(1, DISCARDS_IN_A_ROW):
        health.producer_discarded("orders-0: refused")
        assert health.ready(1.0) == []
    health.producer_discarded("orders-0:\nrefused")
    assert health.ready(1.0) == ["3 Kafka producers in a row were discarded: orders-0: refused"]
    health.producer_works()
    assert health.ready(2.0) == []


def sick(flow: Reason, *, reached: bool) -> Health:
    """A replica with which everything is wrong at 100 s that can be wrong at the same time."""
    health = healthy() if reached else Health(HealthSettings(), 0.0)
    health.postgres_lost(1.0, "reset")
    health.kafka_lost(1.0, "reset")
    health.progress(1.0, 0.0)
    health.flow_fails(flow, "a bug")
    health.unrecorded(1_234, "a trigger")
    health.events_unseen("id 7")
    for _ in range(DISCARDS_IN_A_ROW):
        health.producer_discarded("refused")
    health.stopping()
    return health


def test_every_reason_of_the_table_is_given_and_no_other() -> None:
    flows = (Reason.FLOW_FAILED, Reason.FLOW_KEEPS_FAILING, Reason.POSTGRES_KEEPS_BREAKING)
    given = [text for reached in (False, True) for flow in flows for text in sick(flow, reached=reached).ready(100.0)]
    begins = {reason: reason.value.format(seconds=99, events=1_234, producers=DISCARDS_IN_A_ROW) for reason in Reason}

    of = [[reason for reason, begin in begins.items() if text.split(": ")[0] == begin] for text in given]
    assert all(len(reasons) == 1 for reasons in of), given
    assert {reason for (reason,) in of} == set(Reason)
    assert "the outcome of some events (1,234) cannot be recorded: a trigger" in given


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Listening:
    """A healthy replica's health, which hears what telemetry is told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.telemetry = Telemetry(clock=self.clock)
        self.health = healthy()
        self.health.listen_to(self.telemetry)

    def reasons(self) -> list[str]:
        return self.health.ready(self.clock.now)


def test_health_hears_of_servers_that_are_lost_and_counts_from_the_first_report() -> None:
    here = Listening()
    for server, name in (("postgres", "PostgreSQL"), ("kafka", "Kafka")):
        for what, seconds in (("lost", 0), ("waiting", 59)):
            here.clock.now += seconds
            here.telemetry.emit(f"{server}.{what}", error=f"it is {what}")
            assert here.reasons() == []
        here.clock.now += 1
        assert here.reasons() == [f"{name} has been away for 60 s: it is waiting"]
        fields = {"version": "18.4", "connections": 6} if server == "postgres" else {}
        here.telemetry.emit(f"{server}.connected", **fields)
        assert here.reasons() == []


def test_health_hears_of_discarded_producers_and_not_of_the_one_for_suspects() -> None:
    here = Listening()
    for _ in range(DISCARDS_IN_A_ROW):
        here.telemetry.emit("producer.replaced", producer="side", reason="orders-0: refused", first_time=False)
    assert here.reasons() == []
    for _ in range(DISCARDS_IN_A_ROW):
        here.telemetry.emit("producer.replaced", producer="main", reason="orders-0: refused", first_time=False)
    here.telemetry.emit("producer.works", producer="side")
    assert here.reasons() == ["3 Kafka producers in a row were discarded: orders-0: refused"]
    here.telemetry.emit("producer.works", producer="main")
    assert here.reasons() == []


def test_health_hears_of_topics_that_take_no_events_also_of_those_that_no_line_is_written_of() -> None:
    here = Listening()
    here.telemetry.emit("topic.troubled", topic="orders", error="no leader")
    here.telemetry.emit("topic.troubled_too", topic="bills", error="it does\nnot exist")
    here.telemetry.emit("partition.stalled", topic="carts", partition=1, error="nothing moves")
    troubled = {"orders": "no leader", "bills": "it does not exist", "carts": "nothing moves"}
    assert here.health.troubled_topics() == troubled
    here.telemetry.emit("topic.resumed", topic="orders")
    here.telemetry.emit("topic.resumed_too", topic="bills")
    here.telemetry.emit("partition.moves", topic="carts", partition=1)
    assert here.health.troubled_topics() == {}
    assert here.reasons() == []


def test_a_topic_is_named_until_the_last_of_its_stalled_partitions_moves() -> None:
    here = Listening()
    here.telemetry.emit("partition.stalled", topic="carts", partition=1, error="nothing moves in 1")
    here.telemetry.emit("partition.stalled", topic="carts", partition=2, error="nothing moves in 2")
    here.telemetry.emit("partition.moves", topic="carts", partition=1)
    assert here.health.troubled_topics() == {"carts": "nothing moves in 2"}
    here.telemetry.emit("partition.moves", topic="carts", partition=2)
    assert here.health.troubled_topics() == {}


def test_a_topic_in_trouble_stays_named_when_a_partition_of_it_moves_and_for_its_own_reason() -> None:
    here = Listening()
    here.telemetry.emit("partition.stalled", topic="carts", partition=1, error="nothing moves")
    here.telemetry.emit("topic.troubled", topic="carts", error="no leader")
    assert here.health.troubled_topics() == {"carts": "no leader"}
    here.telemetry.emit("partition.moves", topic="carts", partition=1)
    assert here.health.troubled_topics() == {"carts": "no leader"}
    here.telemetry.emit("topic.resumed", topic="carts")
    assert here.health.troubled_topics() == {}


def test_a_topic_that_works_again_has_no_stalled_partition_of_before() -> None:
    here = Listening()
    here.telemetry.emit("partition.stalled", topic="carts", partition=1, error="nothing moves")
    here.telemetry.emit("topic.troubled", topic="carts", error="no leader")
    here.telemetry.emit("topic.resumed", topic="carts")
    assert here.health.troubled_topics() == {}


def test_health_hears_of_events_that_were_passed_and_of_the_stop() -> None:
    here = Listening()
    here.telemetry.emit("receipts.checked", events=1, error=ValueError("1 event without a receipt"))
    assert here.reasons() == ["the relay has passed events that it has not seen: 1 event without a receipt"]
    here.telemetry.emit("receipts.checked", events=0, error=None)
    assert here.reasons() == []
    here.telemetry.emit("service.stopping", reason="SIGTERM")
    assert here.reasons() == ["the relay is stopping"]
