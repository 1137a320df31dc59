"""Starts the demo's own processes, talks to them, and leaves none behind.

The order service and the consumer get lines of JSON on stdin: first their instructions (not as arguments, because they
contain a password), later `finish`. The end of stdin means that the demo is gone, however it ended. The two report in
lines of JSON on stdout; stderr is a log file. The relay is started as users start it. It knows nothing of this protocol
and gets a keeper, as the local servers do.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from relay.demo.child import FINISH
from relay.local import LocalServerError
from relay.local.folder import ServerFolder
from relay.local.process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

LINE_LIMIT = 2**24
"""Maximum bytes of a report: some 200,000 events, in case the demo was stopped for a while."""
END_SECONDS = 10.0
LOG_TAIL_LINES = 15

_OF_OTHER_SERVERS = ("RELAY_", "PG")


class Child:
    """A child process that runs a module of this package."""

    def __init__(self, name: str, module: str, log: Path) -> None:
        self.name = name
        self._module = module
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._finishing = False

    async def start(self, told: Mapping[str, object]) -> None:
        """Start the process and send its instructions."""
        with self._log.open("ab") as log:
            starting = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", self._module),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    limit=LINE_LIMIT,
                    env=_environment(),
                    # Ctrl-C in the terminal is for us, who end everything in good order.
                    start_new_session=True,
                )
            )
            # Cancelled itself, asyncio's function would wait without end for pipes that nobody connects any more.
            try:
                await asyncio.shield(starting)
            finally:
                await asyncio.wait([starting])
                self._process = None if starting.exception() else starting.result()
        self._tell(json.dumps(told))

    async def reports(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the process's reports until it has finished. Raises LocalServerError if it ends early or in error."""
        process = self._started()
        assert process.stdout is not None  # noqa: S101 a pipe
        async for line in process.stdout:
            yield json.loads(line)
        code = await process.wait()
        if code != 0 or not self._finishing:
            raise LocalServerError(f"{self.name} ended unexpectedly with code {code}; {log_tail(self._log)}")

    def finish(self) -> None:
        """Ask the process to complete its work, send its last report and end."""
        self._finishing = True
        self._tell(FINISH)

    async def close(self) -> None:
        """End the process if it still runs: by closing its stdin and, if that does not help, by force."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None  # noqa: S101 a pipe
        process.stdin.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _tell(self, line: str) -> None:
        stdin = self._started().stdin
        assert stdin is not None  # noqa: S101 a pipe
        stdin.write(f"{line}\n".encode())

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise AssertionError(f"{self.name} was not started")
        return self._process


class RelayChild:
    """`relay run` as a process."""

    name = "the relay"

    def __init__(self, folder: Path, dsn: str, bootstrap_servers: str) -> None:
        self._folder = ServerFolder(folder)
        self.log = folder / "relay.log"
        self._environment = _environment(
            RELAY_POSTGRES_DSN=dsn,
            RELAY_KAFKA_BOOTSTRAP_SERVERS=bootstrap_servers,
            RELAY_REPLICA_NAME="demo-relay",
            RELAY_HTTP_PORT="0",
            RELAY_LOG_FORMAT="console",
            # What is abandoned at its end would be a duplicate for whoever starts another one.
            RELAY_STOP_GRACE=str(END_SECONDS),
        )
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Start the relay; it may take a moment until it works."""
        with self._folder.locked() as lock:
            self._process = ServerProcess(
                self.name,
                [sys.executable, "-m", "relay", "run"],
                log=self.log,
                lock=lock,
                stop_signal=signal.SIGTERM,
                env=self._environment,
            )

    @property
    def running(self) -> bool:
        """Whether the relay's process lives."""
        return self._process is not None and self._process.running

    @property
    def exit_code(self) -> int | None:
        """The relay's exit code; None while it lives."""
        return None if self._process is None else self._process.exit_code

    def check(self) -> None:
        """Raise LocalServerError if the relay has ended."""
        if not self.running:
            raise LocalServerError(f"{self.name} ended unexpectedly; {log_tail(self.log)}")

    def stop(self) -> None:
        """Send SIGTERM and wait: the relay drains and ends."""
        if self._process is not None:
            self._process.stop(END_SECONDS + 5)


def log_tail(log: Path) -> str:
    """Return the end of a log, for an error message."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if log.exists() else []
    return f"its log {log} ends with:\n" + "\n".join(f"  {line}" for line in lines) if lines else f"{log} is empty"


def _environment(**added: str) -> dict[str, str]:
    """Return this process's environment with `added`, without the variables that name the user's own servers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_OTHER_SERVERS)}
    return {**kept, **added}
