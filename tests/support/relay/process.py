"""`relay run` as a real child process: its log lines, its HTTP answers, its signals and its end."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from relay.local.ports import HOST, free_port
from relay.run.session import FLIGHT_WAIT
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

START_SECONDS = 30.0
_LINE_LIMIT = 1 << 20
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class RelayProcess:
    """A running relay. Its log is read as it is written."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.pid = process.pid
        self.lines: list[dict[str, Any]] = []
        """Parsed log lines in order; what is no JSON is under the key `text`."""
        self.http_port = port
        self._process = process
        self._reading = asyncio.create_task(self._read())

    def __repr__(self) -> str:
        log = "\n".join(f"  {line}" for line in self.lines)
        return f"<RelayProcess {self.pid} exit={self._process.returncode}\n{log}>"

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.returncode is not None

    def happened(self, happening: str) -> list[dict[str, Any]]:
        """The log lines of one happening so far."""
        return [line for line in self.lines if line.get("happening") == happening]

    def texts(self) -> list[str]:
        """What was written that is no log line: errors for people."""
        return [line["text"] for line in self.lines if "text" in line]

    async def logged(self, happening: str, count: int = 1, timeout: float = START_SECONDS) -> dict[str, Any]:
        """Wait for the `count`-th log line of a happening and return it."""

        async def look() -> list[dict[str, Any]]:
            found = self.happened(happening)[count - 1 :]
            if not found and self.ended:
                raise AssertionError(f"the relay ended without {happening}: {self!r}")
            return found

        try:
            return (await until(f"line {count} of {happening}", look, timeout))[0]
        except AssertionError as error:
            raise AssertionError(f"{error}: {self!r}") from None

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of an HTTP answer."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
            session.get(f"http://{HOST}:{self.http_port}{path}") as answer,
        ):
            return answer.status, await answer.json()

    async def unready_because(self) -> list[str]:
        """The reasons `/readyz` gives; none when ready."""
        status, answer = await self.get("/readyz")
        assert status == (503 if answer["reasons"] else 200)
        reasons: list[str] = answer["reasons"]
        return reasons

    async def unready_for(self, reason: str, timeout: float = 30.0) -> None:
        """Wait until a reason that `/readyz` gives begins with `reason`."""

        async def look() -> bool:
            return any(each.startswith(reason) for each in await self.unready_because())

        await until(f"it is not ready: {reason}", look, timeout)

    async def ready(self, timeout: float = START_SECONDS) -> None:
        """Wait until `/readyz` says yes."""

        async def look() -> bool:
            try:
                return not await self.unready_because()
            except aiohttp.ClientConnectionError:
                if self.ended:
                    raise AssertionError(f"the relay ended: {self!r}") from None
                return False

        await until("the relay is ready", look, timeout)

    async def metric(self, name: str) -> float:
        """The sum of a metric's samples over its labels; `name` without the prefix."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
            session.get(f"http://{HOST}:{self.http_port}/metrics") as answer,
        ):
            text = await answer.text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"relay_{name}"
        )

    def rss(self) -> int:
        """Resident memory in bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def exit_code(self, timeout: float) -> int:
        """Wait for the end of the process and of its log."""
        try:
            async with asyncio.timeout(timeout):
                code = await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"the relay did not end within {timeout:g} s: {self!r}") from None
        await self._reading
        return code

    async def stop(self, timeout: float = 30.0) -> None:
        """SIGTERM, and it must end well, with nothing abandoned."""
        self.signal(signal.SIGTERM)
        assert await self.exit_code(timeout) == 0, self
        assert self.happened("service.stopped")[0]["abandoned_events"] == 0, self

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if not self.ended:
            self._process.kill()
        await self.exit_code(10)

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            text = raw.decode().rstrip("\n")
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            self.lines.append(line if isinstance(line, dict) else {"text": text})


def check_repeats(relay: RelayProcess, repeats: Sequence[object]) -> None:
    """Check what was published again over losses of PostgreSQL.

    A new session waits until what was in flight has landed and has its receipts, so that nothing is repeated; where
    that took longer than it waits, exactly those that the relay counted.
    """
    counted = sum(line["events"] for line in relay.happened("settle.duplicates"))
    if max(_seconds_to_claim(relay)) < FLIGHT_WAIT:
        assert (len(repeats), counted) == (0, 0), relay
    else:
        assert len(repeats) == counted, relay


def _seconds_to_claim(relay: RelayProcess) -> Iterator[float]:
    connected: datetime | None = None
    for line in relay.lines:
        happening = line.get("happening")
        if happening == "postgres.connected":
            connected = datetime.fromisoformat(line["timestamp"])
        elif happening == "lanes.claimed" and connected:
            yield (datetime.fromisoformat(line["timestamp"]) - connected).total_seconds()
            connected = None


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with exactly these settings: `replica_lease=5` is RELAY_REPLICA_LEASE=5.

    One that is None is not set.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    return inherited | {f"RELAY_{name.upper()}": str(value) for name, value in settings.items() if value is not None}


@asynccontextmanager
async def relay_run(
    dsn: str, bootstrap_servers: str, *, code: Any = None, **settings: object
) -> AsyncIterator[RelayProcess]:
    """A running relay, killed at the end if it still runs; returns when its process has started.

    `code` is the folder (a Path) of another version to run.
    """
    port = free_port()
    given: dict[str, object] = {
        "postgres_dsn": dsn,
        "kafka_bootstrap_servers": bootstrap_servers,
        "http_host": HOST,
        "http_port": port,
        "log_format": "json",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "relay", "run"),
        env=environment(**given) | ({"PYTHONPATH": str(code)} if code else {}),
        cwd=code,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT,
        preexec_fn=_die_with_parent,
    )
    relay = RelayProcess(process, port)
    try:
        yield relay
    finally:
        await relay.kill()


def _die_with_parent() -> None:
    """Runs in the child: a test run that is killed leaves no relay behind."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
