"""All brokers at other addresses than before: the relay knew the old ones only from Kafka itself."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from relay.local import KafkaServer, create_topic
from relay.local.ports import HOST, free_port
from tests.acceptance.conftest import place
from tests.support.postgres.writers import fill
from tests.support.servers.shared import own_kafka_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import Place


@pytest.mark.slow
async def test_brokers_that_all_moved_are_found_by_the_bootstrap_list_and_nothing_is_repeated(
    database: str, own_folder: Path
) -> None:
    old = own_kafka_server(own_folder / "old")
    new_port = free_port()
    topic = "moved"
    await asyncio.to_thread(old.start)
    new = KafkaServer(own_folder / "new", new_port, version=old.version)
    try:
        await create_topic(old.bootstrap_servers, topic, partitions=4)
        async with place(database, f"{old.bootstrap_servers},{HOST}:{new_port}", topic) as here:
            await fill(here.connection, topic, 1_000)
            async with here.relay(kafka_request_timeout=3, health_max_outage=1) as relay:
                await here.settled()
                await asyncio.to_thread(old.stop)
                await fill_more(here)
                lost = await relay.logged("kafka.lost")
                assert old.bootstrap_servers in lost["error"]
                assert "nothing listens on this port" in lost["error"]

                await asyncio.to_thread(move, old, new)
                here.bootstrap_servers = new.bootstrap_servers
                await here.settled()
                await relay.ready()
                assert await relay.metric("producers_replaced_total") == 0
                await relay.stop()
            assert await here.check_everything() == []
    finally:
        await asyncio.to_thread(old.stop)
        await asyncio.to_thread(new.stop)


async def fill_more(here: Place) -> None:
    """Events of other keys, each key's numbered from 1."""
    await here.connection.execute(
        "INSERT INTO outbox.event (topic, key, payload) SELECT $1, convert_to('more-' || i % 200, 'UTF8'),"
        " convert_to((i / 200 + 1)::text, 'UTF8') FROM generate_series(0, 999) AS i",
        here.topic,
    )


def move(old: KafkaServer, new: KafkaServer) -> None:
    """The same cluster with the same records, elsewhere."""
    new.folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(old.folder / "data", new.folder / "data")
    new.start()
