"""Upgrades from every earlier schema: filled by the program of that time, migrated under load, relayed by today's."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from relay.postgres.checks import schema_state
from relay.postgres.sql import migrations
from tests.acceptance.conftest import Place
from tests.support.kafka.topics import alter_topic
from tests.support.postgres.load import Load
from tests.support.postgres.outbox import connected
from tests.support.postgres.writers import fill
from tests.support.relay.process import environment, relay_run
from tests.support.relay.yesterday import ROOT, unpack_migrations, unpack_program
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers

pytestmark = pytest.mark.slow

EARLIER = [each.version for each in migrations()[:-1]]
TOO_LARGE = 50_000
"""Bytes of a payload that the topic does not take at first."""


@pytest.mark.parametrize("version", EARLIER)
async def test_what_an_earlier_program_left_is_relayed_once_and_in_order(
    version: int, database: str, kafka: servers.Kafka, make_topic: MakeTopic, tmp_path: Path
) -> None:
    program, between = tmp_path / "program", tmp_path / "between"
    of_the_program = unpack_program(program, version)
    # One was mended before anybody had it: that program with the text that everybody has.
    for each in sorted((ROOT / "sql/migrations").glob("*.sql"))[:of_the_program]:
        shutil.copy(each, program / "sql/migrations")
    await asyncio.to_thread(command, program, database, "migrate")
    async with connected(database) as connection:
        topic = make_topic(4, **{"max.message.bytes": TOO_LARGE // 2})
        here = Place(database, kafka.bootstrap_servers, topic, connection)
        assert (await schema_state(connection)).version == of_the_program

        # Delivered, failed and held by the program of that time; pending when it ends.
        async with relay_run(database, kafka.bootstrap_servers, code=program) as old:
            await fill(connection, topic, 500, keys=50)
            await blocked(connection, topic)
            await until("one has failed and one is held", lambda: has_failed(connection), timeout=60)
            await until("the others are delivered", lambda: arrived(here, 500), timeout=60)
            await old.stop()
        delivered = await here.records()
        await connection.execute(BACKLOG, topic)
        if of_the_program < version:
            # It came with later ones, so that no program of its own is in the history.
            await asyncio.to_thread(unpack_migrations, between, version)
            await asyncio.to_thread(command, between, database, "migrate")
        assert (await schema_state(connection)).version == version

        async with Load(database, topic, rate=300) as load:
            await load.commit(100)
            migrated = await asyncio.to_thread(command, ROOT, database, "migrate")
            assert f"(version {migrations()[-1].version})" in migrated
            await load.commit(100)
            async with relay_run(database, kafka.bootstrap_servers) as new:
                await new.logged("lanes.claimed")
                await load.commit(100)
                assert await here.records() >= delivered
                assert await has_failed(connection), "a decision that nobody has taken"
                await alter_topic(kafka.bootstrap_servers, topic, **{"max.message.bytes": 2_000_000})
                failed: int = await connection.fetchval("SELECT id FROM outbox.failure")
                arguments = ("failed", "replay", str(failed), "--yes", "--wait", "--reason", "the limit is raised")
                await asyncio.to_thread(command, ROOT, database, *arguments)
                await load.commit(100)
                await new.stop()
        async with relay_run(database, kafka.bootstrap_servers) as last:
            await last.logged("lanes.claimed")
            await here.settled()
            await last.stop()
        assert await here.check_everything() == [], "each program drained before it ended: nothing is repeated"


BACKLOG = """
INSERT INTO outbox.event (topic, key, payload)
SELECT $1, convert_to('left-' || i % 20, 'UTF8'), convert_to((i / 20 + 1) || ' left', 'UTF8')
  FROM generate_series(0, 199) AS i
"""


async def blocked(connection: asyncpg.Connection, topic: str) -> None:
    """Commit an event that the topic does not take, and one of its key behind it."""
    insert = "INSERT INTO outbox.event (topic, key, payload) VALUES ($1, 'blocked', $2)"
    await connection.execute(insert, topic, b"1 " + b"x" * TOO_LARGE)
    await connection.execute(insert, topic, b"2 behind it")


async def arrived(here: Place, count: int) -> bool:
    """Whether so many records are in the topic; receipts have looked different in each time."""
    return await here.records() >= count


async def has_failed(connection: asyncpg.Connection) -> bool:
    """Whether there is one failed event, and one that waits behind it.

    Others of its lane are held as well until whoever has claimed the lane has looked through what is held.
    """
    failures = "SELECT count(*) FROM outbox.failure WHERE state = 'failed'"
    counts = f"SELECT ({failures}), (SELECT count(*) FROM outbox.held WHERE key = 'blocked')"
    return tuple(await connection.fetchrow(counts)) == (1, 1)


def command(code: Path, dsn: str, *arguments: str) -> str:
    """Run a command of a program, which must work."""
    environ = environment(postgres_dsn=dsn) | {"PYTHONPATH": str(code)}
    line = [sys.executable, "-m", "relay", *arguments]
    done = subprocess.run(line, env=environ, cwd=code, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout
