"""The thread that sends wake-ups: once for all that ask meanwhile, and never in anybody's way."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from queue import SimpleQueue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from relay.enqueue import EnqueueError, wake_up
from relay.enqueue.dispatch import Adapter
from relay.enqueue.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
SECRET = "hunter2"


class Server:
    """What a wake-up's connection leads to; each statement waits until it is let through."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.connections: list[Connection] = []
        self.begun = threading.Semaphore(0)
        self.let_through = threading.Semaphore(0)
        self.refuses = 0

    def connect(self) -> Connection:
        """Open a connection, or refuse it."""
        if self.refuses:
            self.refuses -= 1
            self.begun.release()
            raise ConnectionRefusedError(f"password {SECRET}")
        self.connections.append(Connection(self))
        return self.connections[-1]

    def arrived(self) -> None:
        """Wait until a statement has begun."""
        assert self.begun.acquire(timeout=PATIENCE)


class Connection:
    """A connection, as psycopg's is."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.lost = False
        self.cancelled = False
        self.commits = 0
        self.closed = threading.Event()

    def execute(self, statement: str) -> None:
        """Wait for the server."""
        if self.lost:
            raise ConnectionResetError
        if self.cancelled:
            raise asyncio.CancelledError
        self._server.begun.release()
        assert self._server.let_through.acquire(timeout=PATIENCE)
        self._server.statements.append(statement)

    def commit(self) -> None:
        """Count it."""
        self.commits += 1

    def close(self) -> None:
        """Note it."""
        self.closed.set()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server, whose connections and the threads that use them end with the test."""
    found = Server()
    yield found
    found.let_through.release(1_000)
    # The next test may change what a thread of this one would use.
    for thread in threading.enumerate():
        if thread.name == "relay.enqueue wake-up":
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a test did not stop its waker"


def test_all_that_ask_while_one_is_sent_share_the_next(server: Server) -> None:
    waker = Waker(server.connect, 0.0)
    wake = waker.of("outbox")
    wake()
    server.arrived()
    threads = [threading.Thread(target=lambda: [wake() for _ in range(1_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.statements == [], "asking waits for nothing"
    server.let_through.release()
    server.arrived()
    server.let_through.release()
    waker.of("other")()
    server.arrived()
    assert server.statements == ["SELECT outbox.wake_up()"] * 2
    assert len(server.connections) == 1
    assert server.connections[0].commits == 2
    waker.stop()


def test_between_two_lies_the_interval(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: SimpleQueue[float] = SimpleQueue()
    pause_over = threading.Semaphore(0)

    def sleep(seconds: float) -> None:
        pauses.put(seconds)
        pause_over.acquire()

    monkeypatch.setattr("relay.enqueue.waker.time", SimpleNamespace(sleep=sleep))
    waker = Waker(server.connect, 0.1)
    server.let_through.release(2)
    waker.of("outbox")()
    server.arrived()
    assert pauses.get(timeout=10) == 0.1
    waker.of("outbox")()
    assert len(server.statements) == 1
    pause_over.release()
    server.arrived()
    assert len(server.statements) == 2
    pause_over.release()
    waker.stop()


def test_the_function_of_an_outbox_is_always_the_same_and_its_name_is_checked(server: Server) -> None:
    waker = Waker(server.connect, 0.0)
    assert waker.of("outbox") is waker.of("outbox")
    assert waker.of("outbox") is not waker.of("billing")
    with pytest.raises(EnqueueError, match="not a valid schema name"):
        waker.of("out box")


def test_a_connection_that_was_lost_meanwhile_is_opened_again(server: Server) -> None:
    waker = Waker(server.connect, 0.0)
    server.let_through.release(2)
    waker.of("outbox")()
    server.arrived()
    server.connections[0].lost = True
    waker.of("outbox")()
    server.arrived()
    assert len(server.connections) == 2
    assert server.connections[0].closed.wait(PATIENCE)
    waker.stop()


def test_a_cancellation_does_not_end_the_thread(server: Server) -> None:
    """It is no Exception."""
    waker = Waker(server.connect, 0)
    waker.of("outbox")()
    server.arrived()
    server.let_through.release()
    server.connections[0].cancelled = True
    waker.of("outbox")()
    server.arrived()
    server.let_through.release()
    waker.stop()
    assert server.statements == ["SELECT outbox.wake_up()"] * 2


def test_an_outage_is_told_once_without_a_secret_and_ends(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.enqueue.waker.BACK_OFF", 0.0)
    waker = Waker(server.connect, 0.0)
    server.refuses = 3
    with caplog.at_level(logging.WARNING, "relay.enqueue"):
        for _ in range(3):
            waker.of("outbox")()
            server.arrived()
            while server.refuses > 0 and waker._asked.is_set():
                time.sleep(0.001)
        # What is asked for while the thread finds out may be dropped.
        while not server.connections:
            waker.of("outbox")()
            time.sleep(0.001)
    assert [record.getMessage() for record in caplog.records] == [
        "wake-ups cannot be sent (ConnectionRefusedError); events are relayed without, at the pace of an idle relay"
    ]
    assert SECRET not in caplog.text
    waker.stop()


def test_a_stop_closes_the_connection(server: Server) -> None:
    waker = Waker(server.connect, 0.0)
    server.let_through.release()
    waker.of("outbox")()
    server.arrived()
    waker.stop()
    assert server.connections[0].closed.wait(PATIENCE)
    waker.of("outbox")()
    assert server.statements == ["SELECT outbox.wake_up()"]


def test_a_process_without_room_for_a_thread_goes_on_without(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_room)
    Waker(server.connect, 0.0).of("outbox")()
    assert server.connections == []


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(EnqueueError, match="connect must be a function that opens a connection"):
        wake_up.use("postgresql://localhost/shop")  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_a_thread_and_a_connection_of_its_own() -> None:
    code = """
import os, threading
from relay.enqueue import wake_up

read, write = os.pipe()

class Connection:
    def execute(self, statement): os.write(write, f"{os.getpid()} ".encode())
    def close(self): pass

wake_up.use(Connection, interval=0)
ask = wake_up._waker.of("outbox")
ask()
assert os.read(read, 100).decode() == f"{os.getpid()} "
child = os.fork()
if child == 0:
    ask()
    threading.Event().wait(20)
    os._exit(1)
assert os.read(read, 100).decode() == f"{child} "
os.kill(child, 9)
os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_the_process_ends_whatever_the_server_does() -> None:
    code = """
import threading
from relay.enqueue import wake_up

begun = threading.Event()

class Connection:
    def execute(self, statement):
        begun.set()
        threading.Event().wait()

wake_up.use(Connection)
wake_up._waker.of("outbox")()
begun.wait()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class Client:
    """A connection in a transaction that has just ended, whose client does not tell of that."""

    adapter = Adapter(lambda *_: None, lambda *_: None, lambda *_: None, in_transaction=lambda _: False)

    def enqueue(self) -> None:
        """Write an event that is to wake the relay up."""
        wake_up.with_wake_up(self.adapter, self.adapter.write, self, None, "outbox", True)


def test_a_block_that_has_ended_is_none_for_a_task_that_was_begun_in_it(server: Server) -> None:
    """It would note the events of that task for ever, and send nothing."""
    wake_up.use(server.connect, interval=0)
    client = Client()
    with wake_up.after(nullcontext()) as _, wake_up.after(nullcontext()):
        within = contextvars.copy_context()
        client.enqueue()
    server.arrived()
    with pytest.raises(EnqueueError, match="this client tells nobody of a commit"):
        within.run(client.enqueue)

    def in_a_block_of_its_own() -> None:
        with wake_up.after(nullcontext()):
            client.enqueue()

    server.let_through.release()
    within.run(in_a_block_of_its_own)
    server.arrived()
    server.let_through.release()
    wake_up.stop()
    assert server.statements == ["SELECT outbox.wake_up()"] * 2
