"""Processes of their own: relays of any kind, measured from outside, and what the measuring takes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

from relay.local.ports import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

ROOT = Path(__file__).parents[2]
"""Where a module of the tests can be run from."""
START_SECONDS = 60
STOP_SECONDS = 40
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class Tool:
    """A process that ends with the benchmark whatever happens.

    `stop_with` is the signal that stops it, `ok` are its exit codes then.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        log: Path | None = None,
        ok: Sequence[int] = (0,),
        stop_with: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._command = list(command)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        self._environment = {**inherited, **(environment or {})}
        self._folder = folder
        self._log = log
        self._ok = ok
        self._stop_with = stop_with

    async def __aenter__(self) -> Self:
        output = self._log.open("ab") if self._log else None
        # In this thread: the child ends with the thread that made it.
        self._process = subprocess.Popen[bytes](
            self._command,
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )
        if output:
            output.close()
        self.pid = self._process.pid
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(self._stop_with)
        try:
            code = await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = await asyncio.to_thread(self._process.wait)
        if code not in self._ok and kind is None:
            raise RuntimeError(f"{self} ended with {code}{self._end_of_log()}")

    def __str__(self) -> str:
        return type(self).__name__

    def check(self) -> None:
        """Raise RuntimeError if it does not run any more."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self} ended by itself with {self._process.returncode}{self._end_of_log()}")

    async def ended(self) -> str:
        """Wait until it ends by itself; returns its log."""
        code = await asyncio.to_thread(self._process.wait)
        if code not in self._ok or self._log is None:
            raise RuntimeError(f"{self} ended with {code}{self._end_of_log()}")
        return self._log.read_text()

    def _end_of_log(self) -> str:
        text = self._log.read_text(errors="replace") if self._log else ""
        # Without the stacks of Java's exceptions.
        lines = [line for line in text.splitlines() if not line.strip().startswith(("at ", "... "))]
        return "".join(f"\n  {line}" for line in lines[-20:])


class RelayProcess(Tool):
    """`relay run`; `log` is where its log goes, `code` the folder whose package is run instead of this one's."""

    def __init__(self, settings: dict[str, str], log: Path, code: Path | None = None) -> None:
        self.port = free_port()
        own = {"RELAY_HTTP_HOST": HOST, "RELAY_HTTP_PORT": str(self.port), "RELAY_LOG_LEVEL": "warning"}
        super().__init__([sys.executable, "-m", "relay", "run"], own | settings, folder=code, log=log)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self.settled()
        except BaseException:
            self._process.kill()
            raise
        return self

    async def settled(self) -> int:
        """How many events it has settled, waiting until it answers at all."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return int((await self.metrics())["relay_settled_events_total"])
            except OSError:
                self.check()
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def metrics(self) -> dict[str, float]:
        """Its metrics by name, summed over labels; buckets of histograms as `name{le}`."""
        text = await asyncio.to_thread(self._read_metrics)
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = f"{sample.name}{{{sample.labels['le']}}}" if "le" in sample.labels else sample.name
                found[name] = found.get(name, 0.0) + sample.value
        return found

    async def loop_delay(self) -> dict[str, float]:
        """How late its event loop was: at most (the bound of the last bucket in use), and how often by 20 ms.

        By its own work, or for want of a CPU.
        """
        metrics = await self.metrics()
        start = "relay_loop_delay_seconds_bucket{"
        buckets = sorted((float(name[len(start) : -1]), n) for name, n in metrics.items() if name.startswith(start))
        most = next((bound for bound, count in buckets if count == buckets[-1][1]), 0.0)
        kept = {f"loop_{what}": metrics.get(f"relay_loop_{what}_total", 0.0) for what in ("blocked", "starved")}
        return {"loop_delay_ms": most * 1000, **kept}

    def _read_metrics(self) -> str:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())


def cpu_of_tree(pid: int) -> float:
    """CPU seconds of a process, its living children, and those it has reaped."""
    total = 0.0
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if process is parent:
            total += times.children_user + times.children_system
    return total


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    return float(psutil.Process(pid).memory_info().rss / 1e6)


def rss_of_tree_mb(pid: int) -> float:
    """Resident memory of a process and its children in MB, what they share being counted once (on Linux)."""
    total = 0.0
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            memory = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        total += getattr(memory, "pss", memory.rss) / 1e6
    return total


def _die_with_parent() -> None:
    """Runs in the child: a benchmark that is killed leaves nothing behind."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
