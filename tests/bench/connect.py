"""Kafka Connect with Debezium's connector for comparison: one distributed worker, with the outbox event router."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from relay.local.errors import MissingPartError
from relay.local.parts import KAFKA_VERSION, cache_folder, kafka_is_here, kafka_jars, maven_jars
from relay.local.ports import HOST, free_port
from tests.bench.debezium import ROUTER, SOURCE, TERMINATED, java
from tests.bench.process import Tool

if TYPE_CHECKING:
    from pathlib import Path

VERSION = KAFKA_VERSION
DEBEZIUM_VERSION = "3.6.1.Final"
CONNECTOR = "bench"
START_SECONDS = 120
LOOK_INTERVAL = 0.2
STATUS_INTERVAL = 5.0
"""Seconds between looks at its task: each costs the worker a little."""
BAD_REQUEST = 400
ANSWER_SECONDS = 90
"""For making a connector: the worker looks into the database first."""

# The strings of the events as they are. A poll of 5 ms, and batches as in Debezium Server.
WORKER = {
    "group.id": CONNECTOR,
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
    "config.storage.topic": "connect-configs",
    "offset.storage.topic": "connect-offsets",
    "status.storage.topic": "connect-status",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "offset.storage.partitions": "1",
    "status.storage.partitions": "1",
    "offset.flush.interval.ms": "1000",
    "producer.acks": "all",
    "producer.enable.idempotence": "true",
    "producer.linger.ms": "0",
    "producer.batch.size": "131072",
    "producer.buffer.memory": "67108864",
    # The classes of plugins are found by the lists in their jars: without a look at each class, it starts sooner.
    "plugin.discovery": "service_load",
}
EXACTLY_ONCE_WORKER = {"exactly.once.source.support": "enabled"}
EXACTLY_ONCE = {"exactly.once.support": "required", "transaction.boundary": "poll"}
JAVA_OPTIONS = ("-Xmx768m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


def plugin(*, fetch: bool = True) -> Path:
    """The folder with the connector's jars, fetched (30 MB) if it is not here yet; raises MissingPartError."""
    kept = cache_folder() / f"debezium-connector-postgres-{DEBEZIUM_VERSION}"
    if not kept.exists() and not fetch:
        raise MissingPartError(f"Debezium's connector {DEBEZIUM_VERSION} is not in {kept.parent}")
    if not fetch and not kafka_is_here(VERSION):
        raise MissingPartError(f"Kafka {VERSION}, of which Kafka Connect is a part, is not in {kept.parent}")
    kafka_jars(VERSION)
    maven_jars(kept.name, [f"io.debezium:debezium-connector-postgres:{DEBEZIUM_VERSION}"])
    return kept


class KafkaConnect(Tool):
    """A worker with one connector, streaming from a database; `folder` is its own.

    With `exactly_once`, it delivers in transactions and its offsets with them.
    """

    def __init__(self, folder: Path, dsn: str, bootstrap_servers: str, *, exactly_once: bool = False) -> None:
        server = urlsplit(dsn)
        self._next_look = 0.0
        self._rest = f"http://{HOST}:{free_port()}"
        self._connector = {
            **SOURCE,
            "tasks.max": "1",
            "database.hostname": str(server.hostname),
            "database.port": str(server.port),
            "database.user": str(server.username),
            "database.password": str(server.password),
            "database.dbname": server.path.lstrip("/"),
            **ROUTER,
            **(EXACTLY_ONCE if exactly_once else {}),
        }
        plugins = folder / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "debezium").symlink_to(plugin(), target_is_directory=True)
        # The topics of a worker are its memory: each round has a new one, with topics of its own.
        own = {
            name: f"{value}-{folder.name}" for name, value in WORKER.items() if name.endswith((".topic", "group.id"))
        }
        values = {
            **WORKER,
            **own,
            **(EXACTLY_ONCE_WORKER if exactly_once else {}),
            "bootstrap.servers": bootstrap_servers,
            "listeners": self._rest,
            "plugin.path": str(plugins),
        }
        config = folder / "worker.properties"
        config.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        classpath = os.pathsep.join(map(str, kafka_jars(VERSION)))
        command = [str(java()), *JAVA_OPTIONS, "-cp", classpath]
        command += ["org.apache.kafka.connect.cli.ConnectDistributed", str(config)]
        super().__init__(command, folder=folder, log=folder / "log", ok=(0, TERMINATED))

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self._make_connector()
        except BaseException:
            self._process.kill()
            raise
        return self

    def check(self) -> None:
        """Raise RuntimeError if it does not run any more, or its task has failed; asks for that now and then."""
        super().check()
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + STATUS_INTERVAL
        for task in self._ask("GET", f"/connectors/{CONNECTOR}/status")["tasks"]:
            if task["state"] == "FAILED":
                raise RuntimeError(f"{self}: its task has failed: {task['trace'][:1500]}")

    async def _make_connector(self) -> None:
        """Wait until the worker answers, then have it stream."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            super().check()
            try:
                await asyncio.to_thread(self._ask, "PUT", f"/connectors/{CONNECTOR}/config", self._connector)
            except OSError as error:
                # While it starts, nobody listens, or it says that it is not ready (404, 409, 500, 503).
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self}: no connector after {START_SECONDS} s: {error}") from error
                if isinstance(error, urllib.error.HTTPError) and error.code == BAD_REQUEST:
                    raise RuntimeError(f"{self}: {error.read().decode()}{self._end_of_log()}") from error
                await asyncio.sleep(LOOK_INTERVAL)
            else:
                return

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._rest + path, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return json.loads(answer.read())
