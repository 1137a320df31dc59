"""A server as a child process: started under a keeper, watched, signalled, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from relay.local import keeper
from relay.local.errors import LocalServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

POLL_SECONDS = 0.02
LOG_TAIL_LINES = 15


class ServerProcess:
    """One running server; ends with this Python process, also when that is killed with SIGKILL.

    `uid` is the user to run it as, or -1 for this process's own. Output is appended to `log`. `lock` is a
    file descriptor that stays open as long as the server lives. May be created and used from any thread.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        log: Path,
        lock: int,
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
            self._keeper = subprocess.Popen(  # noqa: S603 our own arguments
                [
                    # Isolated and without site-packages: nothing on the path can change what the keeper
                    # imports.
                    *(sys.executable, "-I", "-S", keeper.__file__),
                    *(str(os.getpid()), str(int(stop_signal)), str(uid), "--"),
                    *command,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                pass_fds=[lock],
                env=env,
                # The server's user may have no right to this folder.
                cwd="/",
                # Ctrl-C in the terminal is for us, who stop the servers after those who use them.
                start_new_session=True,
            )
        self.pid = self._read_pid()

    @property
    def running(self) -> bool:
        """Whether the server lives; a paused one does."""
        return self._keeper.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The server's exit code; 128 plus the signal's number if a signal ended it; None while it lives."""
        return self._keeper.poll()

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Return when `ready()` is true; raise LocalServerError with the log's end if that cannot happen any more."""
        deadline = time.monotonic() + timeout
        # It must live even when something answers: that may be another program on its port.
        while not (ready() and self.running):
            if not self.running:
                raise LocalServerError(f"{self.name} ended while starting; {self._explain()}")
            if time.monotonic() > deadline:
                raise LocalServerError(f"{self.name} was not ready within {timeout:.0f} s; {self._explain()}")
            time.sleep(POLL_SECONDS)

    def stop(self, timeout: float) -> None:
        """Ask the server to stop, and kill it after `timeout` seconds. Does nothing if the server has ended."""
        self.resume()
        with contextlib.suppress(ProcessLookupError):
            if self.running:
                os.kill(self.pid, self._stop_signal)
        try:
            self._keeper.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close()

    def kill(self) -> None:
        """Send SIGKILL to the server and all its children; return when all are gone."""
        if self.running:
            wait_gone(keeper.signal_tree(self.pid, signal.SIGKILL))
        self._keeper.wait()
        self._close()

    def pause(self) -> None:
        """Send SIGSTOP to the server and all its children."""
        if self.running:
            keeper.signal_tree(self.pid, signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """Undo `pause`."""
        if self._paused:
            keeper.signal_tree(self.pid, signal.SIGCONT)
            self._paused = False

    def _read_pid(self) -> int:
        if self._keeper.stdout is None:
            raise AssertionError("the keeper was started without a pipe")
        with self._keeper.stdout as answer:
            line = answer.readline()
        if not line:
            self._keeper.wait()
            self._close()
            raise LocalServerError(f"{self.name} could not be executed; {self._explain()}")
        return int(line)

    def _explain(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        tail = "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])
        return f"its log {self.log} ends with:\n{tail}" if lines else f"its log {self.log} is empty"

    def _close(self) -> None:
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()


def is_gone(pid: int) -> bool:
    """Return whether a process has ended. A zombie, which no process has waited for yet, has ended."""
    if (keeper.PROC / "self").exists():
        try:
            state = (keeper.PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
    else:
        state = subprocess.run(  # noqa: S603 our own arguments
            ["/bin/ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout.strip()
    return not state or state[0] in "ZX"


def wait_gone(pids: Iterable[int], timeout: float = 10.0) -> None:
    """Return when all these processes have ended; raise LocalServerError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    left = list(pids)
    while left := [pid for pid in left if not is_gone(pid)]:
        if time.monotonic() > deadline:
            raise LocalServerError(f"processes {left} do not end")
        time.sleep(POLL_SECONDS)
