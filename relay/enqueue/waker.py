"""Sends wake-ups: one thread per process, which has a connection of its own."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from relay.enqueue.contract import wake_up

if TYPE_CHECKING:
    from collections.abc import Callable

BACK_OFF = 1.0
"""Seconds without a try after the connection could not be opened. Wake-ups of that time are dropped."""


class Waker:
    """Calls `outbox.wake_up()` soon after it was asked to, once for all that asked meanwhile."""

    def __init__(self, connect: Callable[[], Any], interval: float) -> None:
        self._connect = connect
        self._interval = interval
        self._schemas: dict[str, Callable[[], None]] = {}
        self.start_anew()

    def start_anew(self) -> None:
        """Forget the thread, which is not there in a forked process, and its connection, which is the parent's."""
        self._asked = threading.Event()
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def of(self, schema: str) -> Callable[[], None]:
        """The function that asks for a wake-up of this outbox, always the same: it takes no time and never fails."""
        found = self._schemas.get(schema)
        if found is None:
            wake_up(schema)  # Checks the name.
            found = self._schemas.setdefault(schema, partial(self._ask, schema))
        return found

    def stop(self) -> None:
        """Send nothing more, close the connection and end the thread, for which it waits a second at most."""
        self._stopped = True
        self._asked.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _ask(self, schema: str) -> None:
        self._waiting.add(schema)
        self._asked.set()
        if self._thread is None and not self._stopped:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="relay.enqueue wake-up", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return  # The process ends, or has no room for a thread: the relay comes by all the same.
                self._thread = thread

    def _run(self) -> None:
        asked, waiting, link = self._asked, self._waiting, Link(self._connect)
        while True:
            asked.wait()
            if self._stopped:
                break
            asked.clear()
            if link.send([wake_up(waiting.pop()) for _ in range(len(waiting))]):
                time.sleep(self._interval)
            else:
                time.sleep(BACK_OFF)
                waiting.clear()
        link.end()


class Link:
    """A connection of whatever client, opened when it is needed, and again when it was lost."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._loop: Any = None
        self._told = False

    def send(self, statements: list[str]) -> bool:
        """Execute and commit; returns whether that worked. A connection that was lost meanwhile is opened again."""
        problem: BaseException | None = None
        for _ in range(1 if self._connection is None else 2):
            try:
                if self._connection is None:
                    self._connection = self._done(self._connect())
                self._execute(self._connection, statements)
            except BaseException as error:  # noqa: BLE001 a cancellation, too: without the thread nothing would be sent
                self.close()
                problem = error
            else:
                self._told = False
                return True
        if not self._told:
            self._told = True
            self._tell(problem)
        return False

    def _execute(self, connection: Any, statements: list[str]) -> None:
        for statement in statements:
            if hasattr(connection, "exec_driver_sql"):  # SQLAlchemy
                self._done(connection.exec_driver_sql(statement))
            elif hasattr(connection, "execute"):  # asyncpg, psycopg
                self._done(connection.execute(statement))
            else:  # psycopg2, Django
                with connection.cursor() as cursor:
                    cursor.execute(statement)
        if hasattr(connection, "commit"):
            self._done(connection.commit())

    def close(self) -> None:
        """Close the connection, in whatever state it is."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                # asyncpg's close() waits for an answer.
                self._done(connection.terminate() if hasattr(connection, "terminate") else connection.close())
            except BaseException:  # noqa: BLE001 it was lost before
                return

    def end(self) -> None:
        """Close the connection for good."""
        self.close()
        if self._loop is not None:
            # In the last turn of the loop, its transports close their sockets.
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _done(self, result: Any) -> Any:
        """The result of a call, which an asynchronous client's users await: here, in an event loop of this thread."""
        if not hasattr(result, "__await__"):
            return result
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(_awaited(result))

    def _tell(self, error: BaseException | None) -> None:
        # By its name alone: a message may quote what the caller connects with.
        import logging

        logging.getLogger("relay.enqueue").warning(
            "wake-ups cannot be sent (%s); events are relayed without, at the pace of an idle relay",
            type(error).__name__,
        )


async def _awaited(result: Any) -> Any:
    return await result
