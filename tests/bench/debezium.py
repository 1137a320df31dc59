"""Debezium Server for comparison: fetched from Maven Central once, tuned, with the outbox event router.

The table, the slot and the connector's settings are those of Kafka Connect too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from relay.local.errors import MissingPartError
from relay.local.parts import cache_folder, java_home, java_version
from relay.local.ports import HOST, free_port
from tests.bench.process import Tool

VERSION = "3.0.8.Final"
ARTIFACT = f"io.debezium:debezium-server-dist:{VERSION}:tar.gz"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
OLDEST_JAVA = 21
FETCH_SECONDS = 1800
DROP_SECONDS = 30
TERMINATED = 143
"""What Java ends with at SIGTERM."""

SLOT = "bench"
TABLE = """
    CREATE TABLE outbox_event (
        id            uuid   PRIMARY KEY DEFAULT gen_random_uuid(),
        aggregatetype text   NOT NULL,
        aggregateid   text   NOT NULL,
        type          text   NOT NULL DEFAULT 'changed',
        payload       text   NOT NULL
    )
"""
# Larger batches and queues were slower (20,480 and 81,920: half).
SOURCE = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "topic.prefix": "bench",
    "plugin.name": "pgoutput",
    "slot.name": SLOT,
    "publication.name": SLOT,
    "publication.autocreate.mode": "disabled",
    "table.include.list": "public.outbox_event",
    "snapshot.mode": "no_data",
    "tombstones.on.delete": "false",
    "provide.transaction.metadata": "false",
    "max.batch.size": "2048",
    "max.queue.size": "8192",
    "poll.interval.ms": "5",
}
"""Of the connector, in the Server and in Kafka Connect."""
ROUTER = {
    "transforms": "outbox",
    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "transforms.outbox.route.topic.replacement": "$1",
}
# Text and no JSON: what it decodes and encodes at the least cost. A longer linger was no faster; it waits for all
# acknowledgements of a batch before the next.
PROPERTIES = {
    **{f"debezium.source.{name}": value for name, value in SOURCE.items()},
    **{f"debezium.{name}": value for name, value in ROUTER.items()},
    "debezium.source.offset.flush.interval.ms": "1000",
    "debezium.format.key": "simplestring",
    "debezium.format.value": "simplestring",
    "debezium.sink.type": "kafka",
    "debezium.sink.kafka.producer.key.serializer": "org.apache.kafka.common.serialization.StringSerializer",
    "debezium.sink.kafka.producer.value.serializer": "org.apache.kafka.common.serialization.StringSerializer",
    "debezium.sink.kafka.producer.acks": "all",
    "debezium.sink.kafka.producer.enable.idempotence": "true",
    "debezium.sink.kafka.producer.linger.ms": "0",
    "debezium.sink.kafka.producer.batch.size": "131072",
    "debezium.sink.kafka.producer.buffer.memory": "67108864",
    "quarkus.log.level": "WARN",
    "quarkus.log.console.json": "false",
    "quarkus.http.host": HOST,
}
JAVA_OPTIONS = ("-Xmx768m",)


def distribution(*, fetch: bool = True) -> Path:
    """The unpacked distribution, fetched (550 MB) if it is not here yet; raises MissingPartError."""
    kept = cache_folder() / f"debezium-server-{VERSION}"
    if not kept.exists():
        if not fetch:
            raise MissingPartError(f"Debezium Server {VERSION} is not in {kept.parent}")
        _fetch(kept)
    return kept / "debezium-server"


def java() -> Path:
    """A `java` of 21 or later: JAVA_HOME's, the wheel's, or an installed one; raises MissingPartError."""
    homes = [Path(os.environ["JAVA_HOME"])] if "JAVA_HOME" in os.environ else []
    with contextlib.suppress(MissingPartError):
        homes.append(java_home())
    found = shutil.which("java")
    homes += [Path(found).resolve().parents[1]] if found else []
    homes += sorted(Path("/usr/lib/jvm").glob("*"))
    for home in homes:
        if java_version(home) >= OLDEST_JAVA:
            return home / "bin" / "java"
    raise MissingPartError(f"Debezium needs Java {OLDEST_JAVA} or later, and none was found; set JAVA_HOME")


async def create_outbox(connection: asyncpg.Connection) -> None:
    """Its table, and the slot from which it streams what is written from now on."""
    await connection.execute(TABLE)
    await connection.execute(f"CREATE PUBLICATION {SLOT} FOR TABLE outbox_event WITH (publish = 'insert')")
    await connection.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", SLOT)


async def drop_slot(connection: asyncpg.Connection) -> None:
    """Drop the slot; PostgreSQL may take a moment to see that Debezium has gone."""
    async with asyncio.timeout(DROP_SECONDS):
        while True:
            try:
                await connection.execute("SELECT pg_drop_replication_slot($1)", SLOT)
            except asyncpg.ObjectInUseError:
                await asyncio.sleep(0.1)
            else:
                return


class DebeziumServer(Tool):
    """Debezium Server, streaming from a database; `folder` is its own, for configuration and offsets."""

    def __init__(self, folder: Path, dsn: str, bootstrap_servers: str, **properties: str) -> None:
        home = distribution()
        server = urlsplit(dsn)
        self._port = free_port()
        values = {
            **PROPERTIES,
            "debezium.source.database.hostname": str(server.hostname),
            "debezium.source.database.port": str(server.port),
            "debezium.source.database.user": str(server.username),
            "debezium.source.database.password": str(server.password),
            "debezium.source.database.dbname": server.path.lstrip("/"),
            "debezium.source.offset.storage.file.filename": str(folder / "offsets.dat"),
            "debezium.sink.kafka.producer.bootstrap.servers": bootstrap_servers,
            "quarkus.http.port": str(self._port),
            **properties,
        }
        config = folder / "config"
        config.mkdir(parents=True)
        (config / "application.properties").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        (runner,) = home.glob("debezium-server-*runner.jar")
        classpath = os.pathsep.join([str(runner), str(config), f"{home}/lib/*"])
        command = [str(java()), *JAVA_OPTIONS, "-cp", classpath, "io.debezium.server.Main"]
        super().__init__(command, folder=folder, log=folder / "log", ok=(0, TERMINATED))


def _fetch(kept: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingPartError("Debezium Server is fetched by Maven, and there is no mvn; install it, or run without")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=f".{kept.name}-") as folder:
        unpacked = Path(folder, "unpacked")
        done = subprocess.run(
            [
                *(maven, "--batch-mode", "--quiet", f"{PLUGIN}:unpack"),
                *(f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={unpacked}"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            timeout=FETCH_SECONDS,
        )
        if done.returncode != 0:
            said = re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr).strip()
            raise MissingPartError(f"Maven could not fetch {ARTIFACT}:\n{said[-1500:]}")
        try:
            unpacked.rename(kept)
        except OSError:
            # Another process was faster; its copy is as good.
            if not kept.exists():
                raise
