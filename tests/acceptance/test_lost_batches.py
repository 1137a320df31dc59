"""Record batches of which nobody knows whether Kafka has them: they are looked for, and not sent a second time."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from tests.acceptance.conftest import place
from tests.support.proxies.delayed_kafka import DelayedKafka
from tests.support.proxies.faulty_kafka import PRODUCE, FaultyKafka
from tests.support.proxies.holding_kafka import HoldingKafka
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.acceptance.conftest import Place

INVALID_PRODUCER_EPOCH = 47
NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS_AFTER_APPEND = 19, 20
TIMED_OUT = 7
KEYS = 40
SETTINGS = {"replica_reconcile": "auto", "kafka_request_timeout": 3}


@pytest.fixture(scope="module")
def broker() -> Iterator[DelayedKafka]:
    with servers.server_folder() as folder, DelayedKafka(folder / "kafka") as server:
        servers.wait_for_coordinator(server)
        yield server


@asynccontextmanager
async def topic_on(broker: DelayedKafka, database: str, partitions: int) -> AsyncIterator[Place]:
    """An outbox, and a topic on this broker. Who looks at the records does not come by way of the proxy."""
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(broker.bootstrap_servers, topic, partitions=partitions)
    async with place(database, broker.bootstrap_servers, topic) as here:
        yield here


@pytest.mark.slow
async def test_what_a_killed_replica_left_on_the_wire_is_refused_after_the_take_over(
    broker: DelayedKafka, database: str
) -> None:
    async with (
        HoldingKafka(broker.behind_proxy, broker.proxy_port) as proxy,
        topic_on(broker, database, 1) as here,
    ):
        async with here.relay(kafka_bootstrap_servers=broker.delayed_servers, **SETTINGS) as victim:
            writing = Writing(here)
            await writing.write(3)
            await here.settled()
            proxy.hold()
            await writing.write(2)

            async def held() -> bool:
                return proxy.held > 0

            await until("a batch is on the wire", held)
            await victim.kill()
        await here.relay_is_gone()
        await here.end_leases()
        async with here.relay(**SETTINGS) as heir:
            await here.settled()
            assert await heir.metric("reconcile_total") == 1
            proxy.let_go()

            async def answered() -> bool:
                return bool(proxy.codes)

            await until("the bytes arrive", answered)
            await heir.stop()
        assert proxy.codes == [INVALID_PRODUCER_EPOCH]
        assert await here.check_everything() == []


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_batch_that_kafka_has_and_does_not_acknowledge_is_found_when_its_producer_is_replaced(
    broker: DelayedKafka, database: str, compression: str
) -> None:
    """One partition gets no good answer, the others do: it is stuck, and goes through another producer."""
    async with (
        FaultyKafka(broker.behind_proxy, broker.proxy_port) as proxy,
        topic_on(broker, database, 4) as here,
        here.relay(kafka_bootstrap_servers=broker.delayed_servers, kafka_compression=compression, **SETTINGS) as relay,
    ):
        writing = Writing(here)
        await writing.write(10)
        await here.settled()
        proxy.fault(PRODUCE, TIMED_OUT, times=1_000_000, appended=True, partition=0)

        async def found() -> bool:
            # The others have to be acknowledged meanwhile.
            await writing.write(1)
            return await relay.metric("reconcile_found_events_total") > 0

        await until("it is found", found, 60, interval=0.1)
        proxy.end_faults()
        await here.settled()
        await relay.stop()
        assert await here.check_everything() == []


@pytest.mark.slow
async def test_an_answer_that_comes_after_appending_is_looked_into(broker: DelayedKafka, database: str) -> None:
    async with (
        FaultyKafka(broker.behind_proxy, broker.proxy_port) as proxy,
        topic_on(broker, database, 4) as here,
        here.relay(kafka_bootstrap_servers=broker.delayed_servers, **SETTINGS) as relay,
    ):
        writing = Writing(here)
        await writing.write(3)
        await here.settled()
        # As a broker does whose followers have gone: it has appended the batch, and refuses it when it comes again.
        after = proxy.fault(PRODUCE, NOT_ENOUGH_REPLICAS_AFTER_APPEND, appended=True)
        refused = proxy.fault(PRODUCE, NOT_ENOUGH_REPLICAS)
        await writing.write(3)
        await after.used_up.wait()
        await refused.used_up.wait()
        await here.settled()
        assert await relay.metric("reconcile_found_events_total") > 0
        await relay.stop()
        assert await here.check_everything() == []


@pytest.mark.slow
async def test_without_transactions_a_replica_starts_in_time_says_so_and_a_kill_repeats_nothing(database: str) -> None:
    properties = {"transaction.state.log.replication.factor": 3, "transaction.state.log.min.isr": 2}
    with servers.server_folder() as folder, servers.own_kafka_server(folder, properties) as kafka:
        topic = f"test-{secrets.token_hex(6)}"
        await create_topic(kafka.bootstrap_servers, topic, partitions=4)
        async with place(database, kafka.bootstrap_servers, topic) as here:
            await Writing(here).write(500)
            async with here.relay(**SETTINGS) as relay:
                said = await relay.logged("reconcile.unfenced")
                assert "transaction.state.log.replication.factor" in said["error"]
                await here.receipts_reach(5_000)
                await relay.kill()
            await here.relay_is_gone()
            await here.end_leases()
            async with here.relay(**SETTINGS) as relay:
                await here.settled()
                assert (await relay.logged("reconcile.done"))["partitions"] == 4
                await relay.stop()
            assert await here.check_everything() == []


class Writing:
    """Writes the next events of each of many keys, numbered on."""

    def __init__(self, here: Place) -> None:
        self._here = here
        self._next = 1

    async def write(self, per_key: int) -> None:
        """Commit so many events of each key."""
        first, self._next = self._next, self._next + per_key
        await self._here.connection.execute(
            "INSERT INTO outbox.event (topic, key, payload)"
            " SELECT $1, convert_to('key-' || k, 'UTF8'), convert_to(n || ' of its key', 'UTF8')"
            " FROM generate_series($2::int, $3::int - 1) AS n, generate_series(1, $4::int) AS k ORDER BY n, k",
            self._here.topic,
            first,
            self._next,
            KEYS,
        )
