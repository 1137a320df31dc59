"""PostgreSQL fails over to a standby that lags: transactions are lost, ids and transaction ids are used again."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from relay.local.ports import HOST
from tests.acceptance.conftest import Place, place
from tests.support.kafka.consumer import read_topic
from tests.support.postgres.load import Load
from tests.support.postgres.receipts import DELIVERIES
from tests.support.relay.replicas import Replicas
from tests.support.servers.standby import make_standby, promote, stop_streaming

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from relay.local import PostgresServer
    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers


@pytest.fixture
def standby(own_postgres: PostgresServer, own_folder: Path) -> PostgresServer:
    """Follows `own_postgres`, asynchronously."""
    own_postgres.stop()
    own_postgres.settings["wal_keep_size"] = "1GB"
    made = make_standby(own_postgres, own_folder)
    own_postgres.start()
    return made


@pytest.mark.slow
async def test_after_a_promotion_all_that_the_new_primary_has_is_delivered_in_order(
    own_postgres: PostgresServer, standby: PostgresServer, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    async with place(own_postgres.dsn, kafka.bootstrap_servers, make_topic(4)) as here:
        await asyncio.to_thread(standby.start)
        try:
            # The standby first: it is there, and must not be taken for the primary.
            first, second = (f"{HOST}:{server.port()}" for server in (standby, own_postgres))
            here.dsn = own_postgres.dsn.replace(second, f"{first},{second}")
            await _fail_over(here, own_postgres, standby)
        finally:
            await asyncio.to_thread(standby.stop)


async def _fail_over(here: Place, primary: PostgresServer, standby: PostgresServer) -> None:
    async with Replicas(here, replica_lease=9, kafka_request_timeout=2, postgres_connect_timeout=2) as replicas:
        relays = [await replicas.start("one"), await replicas.start("two")]
        await replicas.own(one=8, two=8)
        async with Load(f"{here.dsn}?target_session_attrs=primary", here.topic, rate=1_000) as load:
            await load.commit(2_000)
            await stop_streaming(primary)
            await load.commit(1_000)
            # Delivered, and about to be forgotten.
            await here.receipts_reach(await here.receipts() + 500)
            await asyncio.to_thread(primary.kill)
            for relay in relays:
                await relay.logged("postgres.lost")
            await promote(standby)
            await here.reconnect()
            for relay in relays:
                await relay.logged("postgres.connected", 2)
            await load.commit(3_000)
            assert load.broken
        await here.settled()
        await replicas.own(one=8, two=8)
        await replicas.stop_all()

    await _check_what_the_new_primary_has(here)


async def _check_what_the_new_primary_has(here: Place) -> None:
    records = await read_topic(here.bootstrap_servers, here.topic)
    at = {(record.partition, record.offset): record for record in records}
    first: dict[UUID, int] = {}
    for number, record in enumerate(records):
        first.setdefault(record.event_id, number)
    rows = await here.connection.fetch(
        "SELECT e.id, e.event_id, e.key, e.payload, d.kafka_partition, d.kafka_offset FROM outbox.event AS e"
        f" JOIN {DELIVERIES} AS d USING (id) ORDER BY e.lane, e.id"
    )
    assert len(rows) == await here.connection.fetchval("SELECT count(*) FROM outbox.event")
    of_key: dict[bytes, list[int]] = defaultdict(list)
    for row in rows:
        assert row["event_id"] in first, f"lost: {row}"
        record = at[row["kafka_partition"], row["kafka_offset"]]
        assert (record.id, record.event_id, record.value) == (row["id"], row["event_id"], row["payload"])
        of_key[row["key"]].append(int(row["payload"].split()[0]))
    by_number = {(row["key"], int(row["payload"].split()[0])): row["event_id"] for row in rows}
    for key, numbers in of_key.items():
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
        arrived = [first[by_number[key, number]] for number in sorted(numbers)]
        assert arrived == sorted(arrived), f"{key!r} out of order"

    # Otherwise this showed nothing: some were delivered and then forgotten, and their ids are used again.
    forgotten = {record.id for record in records if record.event_id not in {row["event_id"] for row in rows}}
    assert forgotten
    assert forgotten & {row["id"] for row in rows}
