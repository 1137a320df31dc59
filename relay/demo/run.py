"""The course of the demo: prepare, start, let the writers write, drain, check."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from relay.demo.children import Child, RelayChild
from relay.demo.progress import Arrival, Counts, Phase, Progress
from relay.demo.summary import Summary
from relay.local import LocalServerError, create_topic
from relay.postgres.admin.connection import admin_connection
from relay.postgres.admin.migrate import migrate
from relay.postgres.admin.status import read_status
from relay.postgres.sql import query
from relay.settings import PostgresSettings

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import asyncpg

    from relay.demo.display import Display

TOPIC = "orders"
PARTITIONS = 6
SHOW_INTERVAL = 0.25
STATUS_INTERVAL = 0.5
STATUS_SHARE = 10
"""Reading the status takes at most one part in this many of the time, however much there is to count."""
READY_SECONDS = 60.0
STALL_SECONDS = 30.0
"""Seconds without an arrival after which the events that have not arrived count as lost."""
CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of the demo, and where it runs."""

    seconds: float
    rate: float
    folder: Path
    dsn: str
    bootstrap_servers: str


async def demonstrate(plan: Plan, display: Display) -> Summary:
    """Run the demo on running servers. Raises LocalServerError if a part of it ends unexpectedly.

    While the writers write, SIGINT and SIGTERM end the demo early but cleanly. Before and after that, or a second time,
    they cancel the demo: asyncio.CancelledError.
    """
    async with AsyncExitStack() as ends:
        relay = RelayChild(plan.folder / "relay", plan.dsn, plan.bootstrap_servers)
        orders = Child("the order service", "relay.demo.orders", plan.folder / "orders.log")
        consumer = Child("the consumer", "relay.demo.consumer", plan.folder / "consumer.log")
        ends.push_async_callback(asyncio.to_thread, relay.stop)
        ends.push_async_callback(consumer.close)
        ends.push_async_callback(orders.close)
        demo = _Demo(plan, display, relay, orders, consumer)
        demo.listen_to_signals()
        async with asyncio.TaskGroup() as tasks:
            return await demo.run(tasks)


class _Demo:
    """One demo; its tasks share the progress."""

    def __init__(self, plan: Plan, display: Display, relay: RelayChild, orders: Child, consumer: Child) -> None:
        self._plan = plan
        self._display = display
        self._relay = relay
        self._orders = orders
        self._consumer = consumer
        self._progress = Progress(plan.seconds)
        self._checker = self._progress.checker
        self._began = 0.0
        self._writing = False
        self._interrupted = asyncio.Event()
        self._lanes_owned = asyncio.Event()
        self._consumer_ready = asyncio.Event()
        self._orders_ready = asyncio.Event()
        self._arrival = asyncio.Event()
        self._not_told: dict[tuple[int, int], Arrival] = {}
        """Events that arrived before the order service reported their commit."""

    def listen_to_signals(self) -> None:
        """Take over SIGINT, SIGTERM and SIGHUP, for the task that calls this."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 called by a coroutine

        def interrupt() -> None:
            if self._writing:
                self._interrupted.set()
            else:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, interrupt)

    async def run(self, tasks: asyncio.TaskGroup) -> Summary:
        """Run the demo from an empty database to the summary."""
        progress = self._progress
        self._display.step("creating the outbox (relay migrate) and the topic orders")
        async with self._connected() as connection:
            await migrate(connection)
        await create_topic(self._plan.bootstrap_servers, TOPIC, partitions=PARTITIONS)

        self._display.step("starting the relay (relay run) and the consumer")
        await asyncio.to_thread(self._relay.start)
        watching = [tasks.create_task(self._watch_relay()), tasks.create_task(self._watch_status())]
        await self._consumer.start({"topic": TOPIC, "bootstrap_servers": self._plan.bootstrap_servers})
        consuming = tasks.create_task(self._read_consumer())
        await self._ready(self._consumer_ready, "the consumer")
        await self._ready(self._lanes_owned, "the relay")

        self._display.step("starting the order service")
        await self._orders.start({"dsn": self._plan.dsn, "topic": TOPIC, "rate": self._plan.rate})
        writing = tasks.create_task(self._read_orders())
        await self._ready(self._orders_ready, "the order service")
        self._began = time.monotonic()
        showing = tasks.create_task(self._show())
        await self._let_them_write()
        seconds = time.monotonic() - self._began
        committed_meanwhile = progress.committed

        progress.phase = Phase.FINISHING
        self._orders.finish()
        await writing
        versions = await self._committed_versions()
        progress.phase = Phase.DRAINING
        drain_began = time.monotonic()
        await self._all_arrived(sum(versions.values()))
        drain_seconds = time.monotonic() - drain_began

        progress.phase = Phase.CHECKING
        for task in watching:
            task.cancel()
        await asyncio.to_thread(self._relay.stop)
        # Only now: what the relay publishes while it ends has to pass the check, too.
        self._consumer.finish()
        await consuming
        showing.cancel()
        return Summary(
            findings=self._checker.findings(versions),
            counts=progress.counts,
            target_rate=self._plan.rate,
            seconds=seconds,
            committed_meanwhile=committed_meanwhile,
            drain_seconds=drain_seconds,
            p50=progress.latencies.percentile(50),
            p99=progress.latencies.percentile(99),
            slowest=progress.latencies.percentile(100),
            p99_latest=progress.latencies.recent(99),
            interrupted=self._interrupted.is_set(),
            relay_exit_code=self._relay.exit_code,
        )

    async def _let_them_write(self) -> None:
        self._writing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.seconds):
                await self._interrupted.wait()
        self._writing = False

    async def _all_arrived(self, committed: int) -> None:
        """Return when all events have arrived, or when none has come for STALL_SECONDS: then the others are lost."""
        with suppress(TimeoutError):
            while self._checker.delivered < committed:
                self._arrival.clear()
                async with asyncio.timeout(STALL_SECONDS):
                    await self._arrival.wait()

    async def _committed_versions(self) -> dict[int, int]:
        async with self._connected() as connection:
            rows = await connection.fetch(query("demo_order_versions"))
        return {row["id"]: row["version"] for row in rows}

    async def _read_orders(self) -> None:
        progress, latencies = self._progress, self._progress.latencies
        async for told in self._orders.reports():
            if told.get("ready"):
                self._orders_ready.set()
                continue
            for order, version, at in told["committed"]:
                latency = latencies.committed((order, version), at)
                if (arrival := self._not_told.pop((order, version), None)) is not None:
                    arrival.latency = latency
            progress.committed += len(told["committed"])
            progress.counts = Counts(**told["counts"])

    async def _read_consumer(self) -> None:
        progress, latencies = self._progress, self._progress.latencies
        async for told in self._consumer.reports():
            if told.get("ready"):
                self._consumer_ready.set()
                continue
            for order, version, rolled_back, at, change, partition, offset in told["arrived"]:
                if self._checker.arrived(order, version, rolled_back=rolled_back):
                    latency = latencies.arrived((order, version), at)
                    arrival = Arrival(order, version, change, partition, offset, latency)
                    progress.latest.append(arrival)
                    if latency is None:
                        self._not_told[order, version] = arrival
            self._arrival.set()

    async def _watch_relay(self) -> None:
        while True:
            self._relay.check()
            await asyncio.sleep(SHOW_INTERVAL)

    async def _watch_status(self) -> None:
        async with self._connected() as connection:
            while True:
                began = time.monotonic()
                status = self._progress.status = await read_status(connection)
                if all(lane.replica is not None for lane in status.lanes):
                    self._lanes_owned.set()
                await asyncio.sleep(max(STATUS_INTERVAL, (time.monotonic() - began) * STATUS_SHARE))

    async def _show(self) -> None:
        progress = self._progress
        while True:
            now = time.monotonic()
            progress.elapsed = now - self._began
            progress.committing.update(progress.committed, now)
            progress.arriving.update(self._checker.delivered, now)
            self._display.show(progress)
            await asyncio.sleep(SHOW_INTERVAL)

    async def _ready(self, event: asyncio.Event, what: str) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await event.wait()
        except TimeoutError:
            raise LocalServerError(
                f"{what} was not ready within {READY_SECONDS:.0f} s; see the logs in {self._plan.folder}"
            ) from None

    def _connected(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        # Without TLS, whatever PGSSLMODE says: that is meant for other servers.
        dsn = SecretStr(f"{self._plan.dsn}?sslmode=disable")
        return admin_connection(PostgresSettings(dsn=dsn, connect_timeout=CONNECT_SECONDS))
