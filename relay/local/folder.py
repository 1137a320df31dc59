"""The folder of one server. One server at a time uses it, and it remembers the server's ports."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relay.local.errors import LocalServerError
from relay.local.keeper import GRACE_SECONDS
from relay.local.process import POLL_SECONDS, is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

# The keeper of a process that was killed needs its grace period to end the server.
TAKE_OVER_SECONDS = GRACE_SECONDS + 5


class ServerFolder:
    """The folder of one server, with `data/`, `server.log` and what else the server keeps there."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Lock the folder; yields a file descriptor whose copies hold the lock as well.

        If the process that used the folder was killed a moment ago, this waits until its server has ended, too. Raises
        LocalServerError if the folder is in use.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LocalServerError(f"cannot use the folder {self.path} ({error}); choose another folder") from error
        try:
            self._acquire(lock)
            yield lock
        finally:
            os.close(lock)

    def _acquire(self, lock: int) -> None:
        deadline = time.monotonic() + TAKE_OVER_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                user = int(os.pread(lock, 20, 0) or b"0")
                # Ourselves: another object of this process, whose server runs.
                if (user and not is_gone(user)) or time.monotonic() > deadline:
                    raise LocalServerError(
                        f"{self.path} is in use by process {user}; end that process or choose another folder"
                    ) from None
                time.sleep(POLL_SECONDS)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)

    def read_ports(self) -> dict[str, int]:
        """Return the ports of the last start, by purpose; empty if there was none."""
        try:
            return {str(purpose): int(port) for purpose, port in json.loads(self._ports.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def write_ports(self, ports: dict[str, int]) -> None:
        """Write the ports to a file, either all of them or none."""
        with tempfile.NamedTemporaryFile("w", dir=self.path, delete=False) as file:
            json.dump(ports, file)
        Path(file.name).replace(self._ports)

    @property
    def _ports(self) -> Path:
        return self.path / "ports.json"
