"""A server as a child process: started under a keeper, watched, signalled, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from relay.local import keeper
from relay.local.errors import LocalServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

POLL_SECONDS = 0.02
LOG_TAIL_LINES = 15


class ServerProcess:
    """One running server; ends with this Python process, also when that is killed with SIGKILL.

    `uid` is the user to run it as, or -1 for this process's own. Output is appended to `log`.
    May be created and used from any thread.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        log: Path,
        stop_signal: signal.Signals,
        env: Mapping[str, str],
        uid: int = -1,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        self._paused = False
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._keeper = subprocess.Popen(
                # Isolated and without site-packages: nothing on the path can change what the keeper imports.
                [
                    sys.executable,
                    "-I",
                    "-S",
                    keeper.__file__,
                    str(os.getpid()),
                    str(int(stop_signal)),
                    str(uid),
                    "--",
                ]
                + command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=env,
                # The server's user may have no right to this folder; and Ctrl-C in the terminal is for us, who stop
                # the servers after their users.
                cwd="/",
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        with self._keeper.stdout as answer:
            line = answer.readline()
        if not line:
            self._keeper.wait()
            raise LocalServerError(f"{name} could not be executed; {self.explain()}")
        self.pid = int(line)

    @property
    def running(self) -> bool:
        return self._keeper.poll() is None

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Return when `ready()` is true; raise LocalServerError with the log's tail if the server ends first."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise LocalServerError(f"{self.name} ended while starting; {self.explain()}")
            if time.monotonic() > deadline:
                raise LocalServerError(f"{self.name} was not ready within {timeout:.0f} s; {self.explain()}")
            time.sleep(POLL_SECONDS)
        # Something else may have answered on that port.
        if not self.running:
            raise LocalServerError(f"{self.name} ended while starting; {self.explain()}")

    def stop(self, timeout: float) -> None:
        """Ask it to stop and wait; after `timeout` seconds, kill it. Does nothing if it has ended."""
        self.resume()
        self._signal(self._stop_signal)
        try:
            self._keeper.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close()

    def kill(self) -> None:
        """SIGKILL to the server and all its children at once, as a crash of the machine would; returns when all are gone."""
        if self.running:
            wait_gone(keeper.signal_tree(self.pid, signal.SIGKILL))
        self._keeper.wait()
        self._close()

    def pause(self) -> None:
        """SIGSTOP to the server and all its children: it keeps its connections and answers nothing."""
        if self.running:
            keeper.signal_tree(self.pid, signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """Undo `pause`."""
        if self._paused:
            keeper.signal_tree(self.pid, signal.SIGCONT)
            self._paused = False

    def explain(self) -> str:
        """The end of what it wrote in this run, for an error message."""
        return f"the end of {self.log}:\n{self.output_tail()}"

    def output(self) -> str:
        """All it wrote to its log in this run."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def output_tail(self) -> str:
        return (
            "\n".join(f"  {line}" for line in self.output().splitlines()[-LOG_TAIL_LINES:]) or "  (nothing)"
        )

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.running:
                os.kill(self.pid, number)

    def _close(self) -> None:
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()


def is_gone(pid: int) -> bool:
    """True if the process has ended; one that nobody has waited for yet (a zombie) has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return True
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout.strip()
        return not state or state.startswith("Z")
    return state in "ZX"


def wait_gone(pids: Iterable[int], timeout: float = 10.0) -> None:
    """Return when all these processes have ended; raise LocalServerError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    left = list(pids)
    while left := [pid for pid in left if not is_gone(pid)]:
        if time.monotonic() > deadline:
            raise LocalServerError(f"processes {left} do not end")
        time.sleep(POLL_SECONDS)
