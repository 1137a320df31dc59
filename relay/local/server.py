"""The common part of the embedded PostgreSQL and Kafka: a folder, ports that stay the same, a process."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from relay.local import ports
from relay.local.errors import LocalServerError
from relay.local.folder import ServerFolder

if TYPE_CHECKING:
    from types import TracebackType

    from relay.local.process import ServerProcess

# Another program may take a port between the look and the server's bind; three in a row is not chance.
PORT_TRIES = 3
# Kafka needs 3 s, and took more than 60 on a machine with a load of 15 per core. A server that ends while starting is
# noticed at once, so waiting long costs nothing.
START_SECONDS = 180.0


class Server(abc.ABC):
    """An embedded server that keeps its data and ports in `folder`, and dies with this process.

    The methods block and may be called from any thread; from asyncio, through `asyncio.to_thread`. Starting a
    running server or stopping a stopped one does nothing. As a context manager it is started and stopped.
    """

    name: ClassVar[str]
    stop_timeout: ClassVar[float] = 20.0

    def __init__(self, folder: Path | str, wanted_ports: dict[str, int | None]) -> None:
        self._folder = ServerFolder(Path(folder))
        self._wanted = wanted_ports
        self._ports: dict[str, int] = {}
        self._process: ServerProcess | None = None

    @abc.abstractmethod
    def _launch(self, lock: int, timeout: float) -> ServerProcess:
        """Prepare the data if necessary, start the process and wait until it serves."""

    @property
    def folder(self) -> Path:
        """The folder with the server's data, ports and log."""
        return self._folder.path

    @property
    def log(self) -> Path:
        """The file to which the server's output goes."""
        return self.folder / "server.log"

    @property
    def running(self) -> bool:
        """Whether the server's process lives; a paused process does."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The process id of the server itself; raises LocalServerError if the server is not running."""
        if self._process is None or not self._process.running:
            raise LocalServerError(f"{self.name} in {self.folder} is not running")
        return self._process.pid

    def port(self, purpose: str = "clients") -> int:
        """Return the server's TCP port on 127.0.0.1. It changes only if another program takes it between runs."""
        if not self._ports:
            raise LocalServerError(f"{self.name} in {self.folder} has not been started yet")
        return self._ports[purpose]

    def start(self, timeout: float = START_SECONDS) -> Self:
        """Start the server and return when it serves.

        Raises LocalServerError with the end of the log if the server does not serve within `timeout` seconds, and
        MissingPartError if a part of it is not installed.
        """
        if self.running:
            return self
        # Clients of a server that was up know its ports; only before that may they move.
        movable = not self._ports
        with self._folder.locked() as lock:
            for left in reversed(range(PORT_TRIES)):
                self._ports = self._choose_ports(movable=movable)
                try:
                    self._process = self._launch(lock, timeout)
                except LocalServerError:
                    taken = not all(map(ports.is_free, self._ports.values()))
                    if movable:
                        self._ports = {}
                    if not (taken and movable and left):
                        raise
                else:
                    self._folder.write_ports(self._ports)
                    break
        return self

    def stop(self) -> None:
        """Stop the server cleanly; its data stay."""
        if self._process is not None:
            self._process.stop(self.stop_timeout)
            self._process = None

    def kill(self) -> None:
        """Send SIGKILL to all processes of the server, as in a crash; return when they are gone."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self, timeout: float = START_SECONDS) -> Self:
        """Stop the server and start it again on the same ports."""
        self.stop()
        return self.start(timeout)

    def pause(self) -> None:
        """Send SIGSTOP to all processes of the server: connections stay open, and it answers nothing, as if it hung."""
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
        state = f"pid {self.pid}" if self.running else "stopped"
        return f"<{type(self).__name__} {self.folder} {self._ports} {state}>"

    def _choose_ports(self, *, movable: bool) -> dict[str, int]:
        chosen: dict[str, int] = {}
        earlier = self._ports or self._folder.read_ports()
        for purpose, wanted in self._wanted.items():
            port = wanted or earlier.get(purpose)
            if port is not None and not ports.is_free(port):
                if wanted or not movable:
                    raise LocalServerError(
                        f"port {port} on {ports.HOST} is in use; end the program that listens there "
                        "or choose another port"
                    )
                port = None
            chosen[purpose] = port or ports.free_port(frozenset(chosen.values()))
        return chosen
