"""The examples in README, chapters and run book run as they stand there, and print what stands below them.

Two things are replaced: the name of the topic `orders`, because the broker is shared, and the port 8080.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from relay.local.ports import HOST, free_port
from tests.support import documents
from tests.support.documents import NOT_RUN, Step, blocks, page
from tests.support.kafka.topics import alter_topic
from tests.support.postgres.outbox import connected, migrated
from tests.support.postgres.receipts import DELIVERIES
from tests.support.relay.process import environment, relay_run
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers

    Preparations = dict[str, Callable[[], Awaitable[None]]]
    """What must be there before a command, by words of that command."""

ENQUEUE = page("relay/enqueue/README.md")
RUNBOOK = page("deploy/RUNBOOK.md")
ENDLESS = re.compile(r"\brelay run$")


class Terminal:
    """Runs commands in a folder with the environment and the settings that a reader would have."""

    def __init__(self, folder: Path, topic: str, **settings: object) -> None:
        self.port = free_port()
        self._folder = folder
        self._topic = topic
        given = {"log_format": "console", "http_host": HOST, "http_port": self.port, **settings}
        self._env = environment(**given) | {"COLUMNS": "110"}
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])

    def save(self, text: str) -> None:
        """Save the programs of a page."""
        for name, program in documents.programs(text).items():
            (self._folder / name).write_text(program.replace('"orders"', f'"{self._topic}"'))

    async def run(self, step: Step) -> None:
        """Run a command to its end; it must succeed and print what is shown."""
        run = partial(subprocess.run, cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=60)
        done = await asyncio.to_thread(run, ["bash", "-ec", self._here(step.command)], stdin=subprocess.DEVNULL)
        assert done.returncode == 0, (step.command, done.stdout, done.stderr)
        self._check(step, done.stdout)

    @asynccontextmanager
    async def running(self, step: Step) -> AsyncIterator[None]:
        """Have an endless command run until it is ready, and stop it by Ctrl-C at the end: it must end well."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", self._here(step.command)),
            cwd=self._folder,
            env=self._env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            await until(f"{step.command} is ready", self._ready)
            yield
            os.killpg(process.pid, signal.SIGINT)
            _, printed = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode == 0, printed.decode()
            self._check(step, printed.decode())
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.communicate()

    async def _ready(self) -> bool:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session,
                session.get(f"http://{HOST}:{self.port}/readyz") as answer,
            ):
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    def _here(self, command: str) -> str:
        return command.replace("--topic orders", f"--topic {self._topic}").replace(":8080", f":{self.port}")

    def _check(self, step: Step, printed: str) -> None:
        printed = printed.replace(self._topic, "orders").replace(f"host={HOST}", "host=0.0.0.0")
        assert documents.missing(step.shown, printed) == [], f"{step.command} prints\n{printed}"


def to_run(name: str) -> list[Step]:
    """The commands of a page that a test runs."""
    return [step for step in documents.steps(page(name)) if step.command not in NOT_RUN]


@pytest.fixture
def topic_of_orders(make_topic: MakeTopic) -> str:
    """A topic to write for `orders`."""
    return make_topic(6)


@pytest.fixture
def terminal(database: str, kafka: servers.Kafka, topic_of_orders: str, tmp_path: Path) -> Terminal:
    """A terminal with the settings of servers and the programs of all pages."""
    here = Terminal(
        tmp_path,
        topic_of_orders,
        postgres_dsn=database,
        kafka_bootstrap_servers=kafka.bootstrap_servers,
        replica_name="relay-1",
    )
    for name in documents.CHAPTERS:
        here.save(page(name))
    return here


async def run_all(terminal: Terminal, steps: list[Step], before: Preparations | None = None) -> None:
    """Run commands one after the other; one that runs until it is stopped goes on while the later ones run.

    A preparation is made before the first command that contains its name.
    """
    before = dict(before or {})
    for number, step in enumerate(steps):
        for words in [words for words in before if words in step.command]:
            await before.pop(words)()
        if ENDLESS.search(step.command):
            async with terminal.running(step):
                await run_all(terminal, steps[number + 1 :], before)
            return
        await terminal.run(step)


class Failing:
    """Makes what the pages on failures begin with: event 16 is too large for its topic, and three are behind it."""

    def __init__(self, connection: asyncpg.Connection, kafka: servers.Kafka, topic: str) -> None:
        self._connection = connection
        self._kafka = kafka
        self._topic = topic

    def preparations(self) -> Preparations:
        """By the commands that they are made for."""
        return {
            "relay failed list": self.fail,
            "relay failed replay 16": self.raise_the_limit,
            "relay failed list &&": self.wait_for_the_others,
            "relay failed list --count": self.fail_again,
        }

    async def fail(self) -> None:
        """Let event 16 fail, and wait until what is behind it is held back."""
        await self._connection.execute("SELECT outbox.set_max_event_bytes(10000000)")
        for id_ in range(1, 42):
            size = 2_000_000 if id_ == 16 else 50
            await self._enqueue("order-7" if id_ in (16, 24, 32, 40) else f"other-{id_}", size)
        await self._reached("SELECT count(*) = 3 FROM outbox.held")
        await self._reached(f"SELECT count(*) = 37 FROM {DELIVERIES}")

    async def deliver(self) -> None:
        """Let some events be delivered."""
        for id_ in range(1, 42):
            await self._enqueue(f"order-{id_ % 10}", 50)
        await self.wait_for_the_others()

    async def raise_the_limit(self) -> None:
        """Let the topic take event 16."""
        await alter_topic(self._kafka.bootstrap_servers, self._topic, max_message_bytes=3_000_000)

    async def wait_for_the_others(self) -> None:
        """Wait until what was behind event 16 is delivered."""
        await self._reached(f"SELECT count(*) = 41 FROM {DELIVERIES}")

    async def fail_again(self) -> None:
        """Let another event fail, which is too large for the new limit, too."""
        await self._enqueue("order-8", 4_000_000)
        await self._reached("SELECT count(*) = 1 FROM outbox.failure WHERE state = 'failed'")

    async def _enqueue(self, key: str, size: int) -> None:
        await self._connection.execute(
            "INSERT INTO outbox.event (topic, key, payload, type)"
            " VALUES ($1, convert_to($2, 'UTF8'), convert_to(repeat('x', $3), 'UTF8'), 'order.invoiced')",
            self._topic,
            key,
            size,
        )

    async def _reached(self, question: str) -> None:
        async def look() -> bool:
            return bool(await self._connection.fetchval(question))

        await until(question, look)


async def test_the_commands_of_the_readme_run(
    terminal: Terminal, database: str, kafka: servers.Kafka, topic_of_orders: str
) -> None:
    async with connected(database) as connection:
        await run_all(terminal, to_run("README.md"), Failing(connection, kafka, topic_of_orders).preparations())


async def test_the_commands_of_the_chapter_on_running_run_and_print_what_is_shown(
    terminal: Terminal, database: str, kafka: servers.Kafka
) -> None:
    async with contextlib.AsyncExitStack() as stack:

        async def second_replica() -> None:
            relay = relay_run(database, kafka.bootstrap_servers, replica_name="relay-2")
            await (await stack.enter_async_context(relay)).logged("lanes.claimed")

        await run_all(terminal, to_run("deploy/README.md"), {"--to relay-2": second_replica})


async def test_the_session_at_3_a_m_and_the_other_commands_on_failures_print_what_is_shown(
    terminal: Terminal, database: str, kafka: servers.Kafka, topic_of_orders: str
) -> None:
    async with migrated(database) as connection, relay_run(database, kafka.bootstrap_servers):
        await run_all(
            terminal, to_run("deploy/FAILURES.md"), Failing(connection, kafka, topic_of_orders).preparations()
        )


async def test_the_commands_of_the_chapter_on_events_run_and_print_what_is_shown(
    terminal: Terminal, database: str, kafka: servers.Kafka, topic_of_orders: str
) -> None:
    async with migrated(database) as connection, relay_run(database, kafka.bootstrap_servers):
        await Failing(connection, kafka, topic_of_orders).deliver()
        await run_all(terminal, to_run("deploy/EVENTS.md"))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_the_commands_of_the_chapter_on_observing_run_and_print_what_is_shown(
    terminal: Terminal, database: str
) -> None:
    async with migrated(database):
        await run_all(terminal, to_run("deploy/OBSERVABILITY.md"))


async def test_the_commands_of_the_chapter_on_installing_print_what_is_shown(terminal: Terminal) -> None:
    await run_all(terminal, to_run("deploy/INSTALL.md"))


async def test_the_commands_of_the_run_book_run(terminal: Terminal, database: str) -> None:
    async def somebody_acts() -> None:
        for command in ("lanes release 0-15 --for 30m", "topics pause orders --for 30m"):
            await terminal.run(Step(f'.venv/bin/relay {command} --reason "work"', ""))

    async with migrated(database):
        await run_all(terminal, to_run("deploy/RUNBOOK.md"), {"lanes release": somebody_acts})


@pytest.mark.parametrize("name", documents.CHAPTERS)
def test_a_page_with_commands_has_a_test_here(name: str) -> None:
    has_a_test = {
        *("README.md", "relay/enqueue/README.md"),
        *("deploy/README.md", "deploy/FAILURES.md", "deploy/EVENTS.md", "deploy/OBSERVABILITY.md", "deploy/INSTALL.md"),
        "deploy/RUNBOOK.md",
    }
    assert (name in has_a_test) == bool(to_run(name))


async def test_the_switch_from_debezium_runs_as_it_is_shown(terminal: Terminal, database: str, tmp_path: Path) -> None:
    section = ENQUEUE.partition("\n## From Debezium\n")[2].partition("\n## ")[0]
    (config,) = blocks(section, "json")
    (tmp_path / "connector.json").write_text(config)
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE outboxevent (id uuid, aggregatetype text, aggregateid text, type text, payload jsonb)"
        )
        await run_all(terminal, to_run("relay/enqueue/README.md"))
        for question in blocks(section, "sql"):
            await connection.execute(question)
        await connection.execute("INSERT INTO outboxevent VALUES (gen_random_uuid(), 'order', '42', 'placed', '{}')")
        event = await connection.fetchrow("SELECT topic, key, headers ->> 'eventType' FROM outbox.event")
        assert tuple(event) == ("shop.order", b"42", "placed")


async def run_as_part(code: str, connection: asyncpg.Connection) -> None:
    """Run an example that is a part of a program and uses `connection`."""
    names: dict[str, Any] = {}
    exec(f"async def example(connection):\n{textwrap.indent(code, '    ')}", names)
    await names["example"](connection)


async def test_the_examples_for_writers_write_what_they_say(database: str, terminal: Terminal) -> None:
    (short,) = blocks(page("README.md"), "python")
    # tests/integration/test_enqueue_examples.py runs the others.
    part = blocks(ENQUEUE, "python")[1]
    contract = ENQUEUE.partition("\n## From SQL, triggers and other drivers\n")[2].partition("\n## From another")[0]
    async with migrated(database) as connection:
        await terminal.run(Step(".venv/bin/python pay.py", ""))
        await run_as_part(f"import asyncpg, json\n{short}\nawait pay(connection, 42)", connection)
        await run_as_part(f"{part}\nawait ship(connection)", connection)
        for example in blocks(contract, "sql"):
            await connection.execute(example)

        rows = await connection.fetch("SELECT key, payload, headers, type FROM outbox.event ORDER BY id")
        assert [tuple(row) for row in rows] == [
            (b"42", b'{"order": 42, "state": "paid"}', "{}", "order.paid"),
            (b"42", b'{"state": "paid"}', "{}", "order.paid"),
            (b"42", b"shipped", "{}", "order.shipped"),
            (b"42", b'{"state": "closed"}', '{"source": "shop"}', "order.closed"),
            (b"42", b'{"state": "reopened"}', '{"source": "shop"}', "order.reopened"),
        ]
        assert await connection.fetchval("SELECT state FROM orders WHERE id = 42") == "reopened"


@pytest.mark.parametrize("statement", blocks(RUNBOOK, "sql"))
async def test_the_run_book_s_statements_run(database: str, statement: str) -> None:
    async with migrated(database) as connection:
        await connection.execute("INSERT INTO outbox.event (topic, key) VALUES ('orders', convert_to('42', 'UTF8'))")
        await connection.execute(re.sub("<[a-z]+>", "1", statement))
