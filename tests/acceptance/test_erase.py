"""Events are erased beside a real relay: what is given up is not published, and what is behind it goes on."""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import TYPE_CHECKING

import pytest

from relay.keys import lane_of_key
from tests.acceptance.conftest import Place
from tests.support.kafka.consumer import Record, read_topic
from tests.support.postgres.outbox import add_event
from tests.support.relay.process import environment
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import MakeTopic

KEY = "customer-7"
LANE = str(lane_of_key(KEY.encode()))


async def command(here: Place, *arguments: str) -> str:
    """Run a command, which must succeed; what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", *arguments),
        env=environment(postgres_dsn=here.dsn, kafka_bootstrap_servers=here.bootstrap_servers),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def add(here: Place, payload: str) -> str:
    """Write an event of the key; its id."""
    return str((await add_event(here.connection, KEY, here.topic, payload))["id"])


async def records(here: Place, number: int) -> list[Record]:
    """What is in the topic, once it has so many records."""

    async def reached() -> list[Record]:
        found = await read_topic(here.bootstrap_servers, here.topic)
        return found if len(found) >= number else []

    return await until(f"{number} records", reached)


@pytest.mark.parametrize("tombstone", [False, True])
async def test_a_pending_event_is_given_up_or_becomes_a_tombstone(
    here: Place, make_topic: MakeTopic, tombstone: bool
) -> None:
    compacted = make_topic(1, **{"cleanup.policy": "compact"})
    here = Place(here.dsn, here.bootstrap_servers, compacted, here.connection)
    async with here.relay() as relay:
        await relay.logged("lanes.claimed")
        await command(here, "lanes", "release", LANE, "--for", "10m", "--wait", "20s")
        pending, later = await add(here, "secret"), await add(here, "later")
        more = ["--tombstone"] if tombstone else []
        await command(here, "erase", "--event", pending, "--force", "--reason", "4711", "--yes", *more)
        await command(here, "lanes", "release", LANE)
        found = await records(here, 2 if tombstone else 1)
        values = {str(record.id): record.value for record in found}
        assert values == ({pending: None} if tombstone else {}) | {later: b"later"}
        if not tombstone:
            # It is not published later either.
            last = await add(here, "last")
            assert [str(record.id) for record in await records(here, 2)] == [later, last]


async def test_a_failed_event_that_is_erased_lets_the_events_behind_it_go_on(
    here: Place, make_topic: MakeTopic
) -> None:
    topic = make_topic(1, **{"max.message.bytes": 2_000})
    here = Place(here.dsn, here.bootstrap_servers, topic, here.connection)
    async with here.relay() as relay:
        failed = await add(here, secrets.token_hex(5_000))
        await relay.logged("event.failed")
        behind = await add(here, "behind")

        async def held() -> bool:
            return bool(await here.connection.fetchval("SELECT count(*) = 1 FROM outbox.held"))

        await until("the one behind is held", held)
        await command(here, "erase", "--event", failed, "--force", "--reason", "4711", "--yes")
        assert [str(record.id) for record in await records(here, 1)] == [behind]
    assert await here.connection.fetchval("SELECT state FROM outbox.failure") == "discarded"
