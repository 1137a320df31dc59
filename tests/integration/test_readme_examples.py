"""The examples in README and run book run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.postgres.outbox import migrated
from tests.support.relay.process import relay_run

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
WRITERS = README.partition("## Enqueue from your service")[2].partition("\n## ")[0]
WALK = README.partition("## Run the relay")[2].partition("\n### ")[0]
RUNBOOK = (ROOT / "deploy/RUNBOOK.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


async def run_whole(code: str, **env: str) -> str:
    """Run an example that is a program; returns what it printed."""
    command = [sys.executable, "-c", code]
    run = partial(subprocess.run, command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    done = await asyncio.to_thread(run)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


async def run_as_part(code: str, connection: asyncpg.Connection) -> None:
    """Run an example that is a part of a program and uses `connection`."""
    names: dict[str, Any] = {}
    exec(f"async def example(connection):\n{textwrap.indent(code, '    ')}", names)
    await names["example"](connection)


async def test_the_readme_s_examples_for_writers_write_what_they_say(database: str) -> None:
    whole, part = blocks(WRITERS, "python")
    async with migrated(database) as connection:
        await run_whole(whole, RELAY_POSTGRES_DSN=database)
        await run_as_part(part, connection)
        for example in blocks(WRITERS, "sql"):
            await connection.execute(example)

        rows = await connection.fetch("SELECT topic, key, payload, headers, type FROM outbox.event ORDER BY id")
        assert [tuple(row) for row in rows] == [
            ("orders", b"42", b'{"order": 42, "state": "paid"}', "{}", "order.paid"),
            ("orders", b"42", b"shipped", "{}", "order.shipped"),
            ("orders", b"42", b'{"state": "closed"}', '{"source": "shop"}', "order.closed"),
            ("orders", b"42", b'{"state": "reopened"}', '{"source": "shop"}', "order.reopened"),
        ]
        assert await connection.fetchval("SELECT state FROM orders WHERE id = 42") == "reopened"


async def test_the_readme_s_walk_ends_with_the_event_in_kafka(
    database: str, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    servers_at = {"RELAY_POSTGRES_DSN": database, "RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
    # The broker is shared: other tests may have written to a topic named orders.
    topic = f'"{await asyncio.to_thread(make_topic, 6)}"'
    pay = blocks(WRITERS, "python")[0].replace('"orders"', topic)
    read = blocks(WALK, "python")[0].replace('"orders"', topic)
    async with migrated(database) as connection, relay_run(database, kafka.bootstrap_servers) as relay:
        connected = await relay.logged("postgres.connected")
        assert connected["version"] == (await connection.fetchval("SHOW server_version")).split()[0]
        await run_whole(pay, **servers_at)
        printed = await run_whole(read, **servers_at)
        await relay.stop()
    assert re.fullmatch(
        r"partition \d, offset 0, key b'42'\n"
        r'\{"order": 42, "state": "paid"\}\n'
        r"  outbox-event-id: [0-9a-f-]{36}\n  outbox-id: 1\n  outbox-type: order.paid\n",
        printed,
    )


@pytest.mark.parametrize("statement", blocks(RUNBOOK, "sql"))
async def test_the_run_book_s_statements_run(database: str, statement: str) -> None:
    async with migrated(database) as connection:
        await connection.execute("INSERT INTO outbox.event (topic, key) VALUES ('orders', convert_to('42', 'UTF8'))")
        await connection.execute(statement)
