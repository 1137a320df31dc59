"""A rolling upgrade: migrate first, then replace the replicas one by one, under load."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from relay.postgres.admin.migrate import migrate
from relay.postgres.checks import schema_state
from tests.acceptance.conftest import Place
from tests.support.postgres.load import Load
from tests.support.postgres.outbox import connected
from tests.support.relay.process import environment
from tests.support.relay.replicas import Replicas
from tests.support.relay.yesterday import unpack_yesterday

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers


@pytest.fixture
def yesterday(tmp_path: Path) -> Path:
    """Where the code from before the newest migration is."""
    unpack_yesterday(tmp_path)
    return tmp_path


@pytest.fixture
async def here(yesterday: Path, database: str, kafka: servers.Kafka, make_topic: MakeTopic) -> AsyncIterator[Place]:
    """An outbox as yesterday's `relay migrate` makes it."""
    await asyncio.to_thread(_run, yesterday, database, "migrate")
    async with connected(database) as connection:
        made = Place(database, kafka.bootstrap_servers, make_topic(4), connection)
        yield made


@pytest.mark.slow
async def test_yesterdays_replicas_work_on_todays_schema_and_beside_todays(here: Place, yesterday: Path) -> None:
    assert (await schema_state(here.connection)).pending
    async with Replicas(here, replica_lease=9, kafka_request_timeout=2) as replicas:
        old = [await replicas.start(name, code=yesterday) for name in ("one", "two")]
        await replicas.own(one=8, two=8)
        async with Load(here.dsn, here.topic, rate=500) as load:
            await load.commit(500)
            assert await migrate(here.connection)
            await load.commit(500)
            # They look at the schema when they connect.
            await here.connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'outbox-relay%'"
            )
            for relay in old:
                await relay.logged("postgres.connected", 2)
            await replicas.own(one=8, two=8)
            await asyncio.to_thread(_run, yesterday, here.dsn, "migrate", "--check")
            await load.commit(500)
        await here.settled()
        # Of what was under way when the sessions were ended, if anything.
        repeats = await here.check_everything()
        assert len(repeats) == replicas.duplicates_counted()
        async with Load(here.dsn, here.topic, rate=500, seed=1) as load:
            for name, new in (("one", "three"), ("two", "four")):
                await replicas.start(new)
                await replicas.stop(name)
                await load.commit(500)
            await replicas.own(three=8, four=8)
        await here.settled()
        await replicas.stop_all()

    assert await here.check_everything() == repeats, "replacing them one by one repeats nothing: each drained"


def _run(code: Path, dsn: str, *arguments: str) -> None:
    """A command of yesterday's, which must work."""
    environ = environment(postgres_dsn=dsn) | {"PYTHONPATH": str(code)}
    subprocess.run([sys.executable, "-m", "relay", *arguments], env=environ, cwd=code, check=True, capture_output=True)
