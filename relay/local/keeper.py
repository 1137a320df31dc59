"""Keeps one server process, and ends it when the process that asked for it is gone, however that process ended.

Run as a script by `process.ServerProcess`:

    python -I -S keeper.py PARENT_PID STOP_SIGNAL UID -- COMMAND...

stdin is the lifeline: a pipe whose other end only the parent holds, so its end of file means that the parent
is gone, on every Unix. Linux's PR_SET_PDEATHSIG alone would not do: it fires when the forking *thread* ends,
which in a program with worker threads is not the end of the program. Between keeper and server it is safe,
because the keeper has one thread; there it covers a kill -9 of the keeper itself.

Only the standard library, and nothing of ours: it starts in a few ms, in any working folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

# How long a server may take to stop by itself once its parent is gone. Kafka needs 0.5 s, PostgreSQL less,
# both more on a busy machine; waiting longer helps nobody, since both recover from a kill.
GRACE_SECONDS = 10.0
PR_SET_PDEATHSIG = 1
PROC = Path("/proc")


def signal_tree(pid: int, number: signal.Signals) -> list[int]:
    """Send a signal to a process and all its descendants; return their ids."""
    if number in (signal.SIGKILL, signal.SIGSTOP):
        # Stopped first, so that no child is born between the listing and the signal.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    pids = [pid, *descendants(pid)]
    for each in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)
    return pids


def descendants(pid: int) -> list[int]:
    """Return the descendants of `pid`, parents before children; empty if there are none or `pid` is gone."""
    children: dict[int, list[int]] = {}
    for child, parent in _processes():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def _processes() -> list[tuple[int, int]]:
    """Return pairs (id, id of the parent) of all processes."""
    if not (PROC / "self").exists():
        listing = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        return [(int(pid), int(parent)) for pid, parent in map(str.split, listing.stdout.splitlines())]
    pairs = []
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            # It may end between the listing and the look.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # "pid (name) state ppid ..."; the name may hold spaces and parentheses.
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
                pairs.append((int(folder.name), int(fields[1])))
    return pairs


def main(parent: int, stop: signal.Signals, uid: int, command: list[str]) -> int:
    """Start the server, print its id to stdout, and wait until it ends or must end; return its exit status."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    asked_to_end = False

    def ask_to_end(*_: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True

    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask_to_end)

    server = _spawn(command, stop, uid)
    # A parent that died meanwhile must not keep us from ending the server.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b"%d\n" % server.pid)
    os.close(1)
    while server.poll() is None:
        # The look at getppid covers a forked copy of the parent that still holds the pipe's other end.
        ready, _, _ = select.select([0, wake_read], [], [], 1.0)
        if wake_read in ready:
            os.read(wake_read, 4096)
        if asked_to_end or 0 in ready or os.getppid() != parent:
            return _end(server, stop)
    return server.returncode


def _spawn(command: list[str], stop: signal.Signals, uid: int) -> subprocess.Popen[bytes]:
    keeper = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_the_keeper() -> None:
        # Runs after the change of user, which would clear it.
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, int(stop), 0, 0, 0)
            if os.getppid() != keeper:
                os._exit(1)

    other = uid >= 0
    return subprocess.Popen(  # noqa: S603 our own arguments
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,
        preexec_fn=die_with_the_keeper,  # safe: the keeper has one thread
        user=uid if other else None,
        group=uid if other else None,
        extra_groups=[] if other else None,
    )


def _end(server: subprocess.Popen[bytes], stop: signal.Signals) -> int:
    # It may have been paused by its parent; a stopped process would never see the signal.
    signal_tree(server.pid, signal.SIGCONT)
    server.send_signal(stop)
    deadline = time.monotonic() + GRACE_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if server.poll() is None:
        signal_tree(server.pid, signal.SIGKILL)
    return server.wait()


if __name__ == "__main__":
    code = main(int(sys.argv[1]), signal.Signals(int(sys.argv[2])), int(sys.argv[3]), sys.argv[5:])
    # A negative code is a signal's number; this is how shells report it.
    sys.exit(code if code >= 0 else 128 - code)
