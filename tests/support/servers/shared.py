"""The servers that tests run against: started by the test run, or taken from RELAY_TEST_* variables.

RELAY_TEST_POSTGRES_DSN, RELAY_TEST_KAFKA_BOOTSTRAP_SERVERS   use these servers instead of starting any
RELAY_TEST_POSTGRES_VERSION (13.22.0, ...), RELAY_TEST_KAFKA_VERSION (3.9.1, ...)   start this version
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import shutil
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from aiokafka.errors import KafkaError

from relay.kafka.options import Security
from relay.kafka.reconcile.asking import Asking
from relay.kafka.reconcile.transactions import new_producer_id
from relay.local import KafkaServer, PostgresServer, create_topic
from relay.local.keeper import descendants
from relay.local.parts import KAFKA_VERSION, maven_jars
from relay.postgres.admin.migrate import migrate
from relay.settings import KafkaSettings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

# Enough for the stress tests' writers beside the relay; two-phase commits are off by default. Without fsync a commit is
# lost only with the machine, not with the server: the kernel has it.
POSTGRES_SETTINGS = {
    "max_connections": 200,
    "max_prepared_transactions": 20,
    "shared_buffers": "128MB",
    "fsync": "off",
}

PAUSE_SECONDS = 30.0

_templates: dict[str, str] = {}
"""The database with an outbox that is copied, for each server's DSN."""


class Postgres(Protocol):
    """Where tests find PostgreSQL: the DSN of a superuser."""

    @property
    def dsn(self) -> str: ...


class Kafka(Protocol):
    """Where tests find Kafka."""

    @property
    def bootstrap_servers(self) -> str: ...


@dataclass(frozen=True)
class GivenPostgres:
    """A PostgreSQL that somebody else runs."""

    dsn: str


@dataclass(frozen=True)
class GivenKafka:
    """A Kafka that somebody else runs."""

    bootstrap_servers: str


@contextmanager
def server_folder() -> Iterator[Path]:
    """A temporary folder that PostgreSQL's own user can get to (pytest's are private to the caller)."""
    folder = Path(tempfile.mkdtemp(prefix="relay-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def own_postgres_server(
    folder: Path, settings: Mapping[str, object] | None = None, *, version: str = ""
) -> PostgresServer:
    """A PostgreSQL of `version`, or else of the version that is being tested, not started yet."""
    version = version or os.environ.get("RELAY_TEST_POSTGRES_VERSION", "")
    programs = postgres_programs_of(version, folder / "programs") if version else None
    return PostgresServer(folder / "postgres", settings={**POSTGRES_SETTINGS, **(settings or {})}, programs=programs)


@contextmanager
def postgres_for_the_session(folder: Path, settings: Mapping[str, object] | None = None) -> Iterator[Postgres]:
    """The PostgreSQL of RELAY_TEST_POSTGRES_DSN, whose settings are its own, or one that runs meanwhile."""
    given = os.environ.get("RELAY_TEST_POSTGRES_DSN")
    if given:
        theirs = GivenPostgres(given)
        try:
            yield theirs
        finally:
            if template := _templates.pop(given, None):
                drop_database(theirs, template)
    else:
        with own_postgres_server(folder, settings) as server:
            yield server


def own_kafka_server(folder: Path, properties: Mapping[str, object] | None = None) -> KafkaServer:
    """A Kafka of the version that is being tested, not started yet. It drops nothing of what tests date back.

    Otherwise it would after 30 s, and every five minutes.
    """
    version = os.environ.get("RELAY_TEST_KAFKA_VERSION") or KAFKA_VERSION
    return KafkaServer(folder / "kafka", properties={"log.retention.ms": -1, **(properties or {})}, version=version)


def pause(server: KafkaServer | PostgresServer) -> None:
    """Pause a server; returns when none of its threads runs any more, which on a busy machine takes a moment."""
    pid = server.pid
    server.pause()
    give_up = time.monotonic() + PAUSE_SECONDS
    while any(_runs(each) for each in (pid, *descendants(pid))):
        assert time.monotonic() < give_up, f"{server.name} is not paused after {PAUSE_SECONDS:g} s"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    """Whether a thread of it is neither stopped nor at its end."""
    for thread in Path("/proc").glob(f"{pid}/task/*/stat"):
        with suppress(OSError):  # It has ended since.
            if thread.read_text().rpartition(")")[2].split()[0] not in "TZX":
                return True
    return False


def postgres_programs_of(version: str, folder: Path) -> Path:
    """Unpack another PostgreSQL version, 13.22.0 say, into a new folder; returns its folder of programs.

    The first call fetches 10 MB from Maven Central. All of these versions know TLS.
    """
    machine = {"x86_64": "amd64", "aarch64": "arm64v8", "arm64": "arm64v8"}[platform.machine()]
    system = f"{platform.system().lower()}-{machine}"
    (jar,) = maven_jars(
        f"postgres-{version}", [f"io.zonky.test.postgres:embedded-postgres-binaries-{system}:{version}"]
    )
    folder.mkdir()
    with zipfile.ZipFile(jar) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".txz"))
        with archive.open(name) as packed, tarfile.open(fileobj=packed, mode="r:xz") as files:
            files.extractall(folder, filter="tar")
    return folder / "bin"


def create_database(server: Postgres, options: str = "") -> str:
    """Create an empty database with a new name; returns the name. `options` are those of CREATE DATABASE."""
    name = f"test_{secrets.token_hex(6)}"
    _execute(server, f'CREATE DATABASE "{name}" {options}')
    return name


def create_outbox(server: Postgres) -> str:
    """Create a database with an outbox and a new name; returns the name.

    It is a copy of one that is migrated once: all migrations one by one take five times as long.
    """
    if server.dsn not in _templates:
        name = create_database(server)
        _run_apart(_migrate(dsn_of(server, name)))
        _templates[server.dsn] = name
    return create_database(server, f'TEMPLATE "{_templates[server.dsn]}"')


async def _migrate(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await migrate(connection)
    finally:
        await connection.close()


def drop_database(server: Postgres, name: str) -> None:
    """Drop a database, whoever is still connected to it."""
    _execute(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def dsn_of(server: Postgres, database: str) -> str:
    """The server's DSN with another database."""
    return urlunsplit(urlsplit(server.dsn)._replace(path=f"/{database}"))


def create_topic_now(server: Kafka, topic: str, partitions: int, configs: Mapping[str, object]) -> None:
    """Create a topic and wait until it can be written to."""
    _run_apart(create_topic(server.bootstrap_servers, topic, partitions=partitions, configs=configs))


def wait_until_it_takes_topics(server: Kafka) -> None:
    """After a pause the controller knows no live broker until the next heartbeat, and refuses topics."""
    give_up = time.monotonic() + PAUSE_SECONDS
    while True:
        try:
            return _run_apart(create_topic(server.bootstrap_servers, "takes-topics", exist_ok=True))
        except KafkaError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def wait_for_coordinator(server: Kafka) -> None:
    """Wait until there is a coordinator of transactions: the first question has a broker make its topic.

    On a busy machine that takes longer than a relay waits for its producer's id.
    """

    async def wait() -> None:
        settings = KafkaSettings(bootstrap_servers=server.bootstrap_servers)
        asking = await Asking.connect(settings, Security(settings))
        try:
            await new_producer_id(asking, "coordinator", PAUSE_SECONDS)
        finally:
            await asking.close()

    _run_apart(wait())


def _execute(server: Postgres, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(server.dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    _run_apart(execute())


def _run_apart(work: Coroutine[object, object, None]) -> None:
    """Run a coroutine in its own thread: fixtures and helpers are called with and without a running loop."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
