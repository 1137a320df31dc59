"""What PostgreSQL and Kafka have in common as embedded servers: a folder, a port that stays, a process."""

from __future__ import annotations

import abc
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from relay.local import ports
from relay.local.errors import LocalServerError

if TYPE_CHECKING:
    from types import TracebackType

    from relay.local.process import ServerProcess

# Another program may take a port between the look and the server's bind; three in a row is not chance.
PORT_TRIES = 3


class Server(abc.ABC):
    """An embedded server that keeps its data and ports in `folder`, and dies with this process.

    The methods block; from asyncio, call them through `asyncio.to_thread`. Starting twice or stopping a stopped server
    does nothing. As a context manager it is started and stopped.
    """

    name: str
    stop_timeout = 20.0

    def __init__(self, folder: Path | str, wanted_ports: dict[str, int | None]) -> None:
        self.folder = Path(folder).resolve()
        self._wanted = wanted_ports
        self._ports: dict[str, int] = {}
        self._process: ServerProcess | None = None

    @abc.abstractmethod
    def _launch(self, timeout: float) -> ServerProcess:
        """Prepare the data if need be, start the process and wait until it serves."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The process id of the server itself; raises LocalServerError if it does not run."""
        if self._process is None or not self._process.running:
            raise LocalServerError(f"{self.name} in {self.folder} does not run")
        return self._process.pid

    @property
    def log(self) -> Path:
        """The file its output goes to."""
        return self.folder / "server.log"

    def port(self, purpose: str = "clients") -> int:
        """A TCP port of it on 127.0.0.1; the same for every later start of this folder, if nobody takes it."""
        if not self._ports:
            raise LocalServerError(f"{self.name} in {self.folder} was not started yet")
        return self._ports[purpose]

    def start(self, timeout: float = 60.0) -> Self:
        """Start it and return when it serves.

        Raises LocalServerError with the end of its log if it does not within `timeout` seconds, and MissingPartError
        if a piece of it is not installed.
        """
        if self.running:
            return self
        self._make_folder()
        # Clients of a server that was up know its ports; only before that may they move.
        movable = not self._ports
        for left in reversed(range(PORT_TRIES)):
            self._choose_ports(movable=movable)
            try:
                self._process = self._launch(timeout)
            except LocalServerError:
                taken = [port for port in self._ports.values() if not ports.is_free(port)]
                if not (taken and movable and left):
                    raise
            else:
                self._write_ports()
                return self
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Stop it in good order; what it acknowledged is on disk."""
        if self._process is not None:
            self._process.stop(self.stop_timeout)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as in a crash; returns when they are gone."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self, timeout: float = 60.0) -> Self:
        """Stop it and start it again on the same ports."""
        self.stop()
        return self.start(timeout)

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay open, nothing is answered, as when a machine hangs."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        if self._process is not None:
            self._process.resume()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = (
            f"pid {self._process.pid}" if self._process is not None and self._process.running else "stopped"
        )
        return f"<{type(self).__name__} {self.folder} {self._ports} {state}>"

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalServerError(
                f"cannot make the folder {self.folder}: {error}; choose another one"
            ) from error

    def _choose_ports(self, *, movable: bool) -> None:
        chosen: dict[str, int] = {}
        earlier = self._ports or self._read_ports()
        for purpose, wanted in self._wanted.items():
            port = wanted or earlier.get(purpose)
            if port is not None and not ports.is_free(port):
                if wanted or not movable:
                    raise LocalServerError(
                        f"port {port} on {ports.HOST} is taken; stop what listens there or choose another port"
                    )
                port = None
            chosen[purpose] = port or ports.free_port(frozenset(chosen.values()))
        self._ports = chosen

    def _read_ports(self) -> dict[str, int]:
        try:
            return {str(key): int(value) for key, value in json.loads(self._ports_file.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _write_ports(self) -> None:
        # Whole or not at all: a half-written file would give the next start other ports.
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
            json.dump(self._ports, file)
        os.replace(file.name, self._ports_file)

    @property
    def _ports_file(self) -> Path:
        return self.folder / "ports.json"
