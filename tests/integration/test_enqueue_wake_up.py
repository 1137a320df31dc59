"""What a wake-up after the commit promises, on every client with a real PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import psycopg2
import pytest
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from relay.enqueue import EnqueueError, Event, NotInTransactionError, enqueue, wake_up
from tests.support.enqueue.clients import CLIENTS, Client
from tests.support.enqueue.outbox import shared_outbox
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator

    from tests.support.servers import shared as servers

TELL = {"asyncpg", "asyncpg-pool", "django", *(name for name in CLIENTS if "session" in name)}
"""The clients that tell of a commit: the others need a block."""

EVENT = Event("orders", key="k", payload="x")


@pytest.fixture(scope="module")
def outbox(postgres: servers.Postgres) -> Iterator[str]:
    """The DSN of a database with an outbox, which all tests here have in common."""
    with shared_outbox(postgres) as dsn:
        yield dsn


class Sent:
    """Connects for wake-ups to nobody, and notes what would be sent."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.connections = 0
        self.lost = False
        self.arrived = threading.Event()

    def connect(self) -> Sent:
        """Open a connection."""
        self.connections += 1
        return self

    def execute(self, statement: str) -> None:
        """Note the statement."""
        if self.lost:
            self.lost = False
            raise ConnectionResetError
        self.statements.append(statement)
        self.arrived.set()

    def close(self) -> None:
        """Close it."""

    async def all(self) -> int:
        """How many wake-ups of the outbox were sent of all that were asked for until now."""
        await asyncio.sleep(0)  # asyncpg tells of a commit in the loop's next turn.
        assert wake_up._waker is not None
        wake_up._waker.of("barrier")()

        async def passed() -> bool:
            return "SELECT barrier.wake_up()" in self.statements

        await until("everything that was asked for is sent", passed)
        self.statements.remove("SELECT barrier.wake_up()")
        found = self.statements.count("SELECT outbox.wake_up()")
        self.statements.clear()
        return found


@pytest.fixture
def sent() -> Iterator[Sent]:
    """Wake-ups to nobody, each as soon as it is asked for."""
    found = Sent()
    wake_up.use(found.connect, interval=0)
    yield found
    wake_up.stop()


def of(names: Collection[str]) -> pytest.MarkDecorator:
    """A parameter for each of these clients."""
    return pytest.mark.parametrize("name", [name for name in CLIENTS if name in names])


@pytest.fixture
async def client(name: str, outbox: str) -> AsyncIterator[Client]:
    """A connection of the client."""
    found = CLIENTS[name]()
    async with found.opened(outbox):
        yield found


def block_of(client: Client) -> Any:
    """The client's own block with a wake-up after it, which is entered and left where the connection belongs."""
    if client.asynchronous:
        return wake_up.after(client.transaction())
    return _InThread(client)


class _InThread:
    def __init__(self, client: Any) -> None:
        self._client = client
        self._block: Any = None

    async def __aenter__(self) -> None:
        self._block = wake_up.after(await self._client.call(self._client.block))
        await self._client.call(self._block.__enter__)

    async def __aexit__(self, *error: Any) -> Any:
        return await self._client.call(self._block.__exit__, *error)


@of(TELL)
async def test_after_the_commit_the_relay_is_woken_up_and_not_before(client: Client, sent: Sent) -> None:
    async with client.transaction():
        await client.enqueue(wake_up=True)
        await client.enqueue_many([EVENT], wake_up=True)
        assert await sent.all() == 0
    assert await sent.all() >= 1
    async with client.transaction():
        await client.execute("SELECT 1")
    assert await sent.all() == 0


@of(TELL)
async def test_what_is_rolled_back_wakes_nobody_up(client: Client, sent: Sent) -> None:
    with suppress(ZeroDivisionError):
        async with client.transaction():
            await client.enqueue(wake_up=True)
            raise ZeroDivisionError
    async with client.transaction():
        await client.execute("SELECT 1")
    assert await sent.all() == 0


@of(TELL)
async def test_a_savepoint_counts_if_its_transaction_commits(client: Client, sent: Sent) -> None:
    async with client.transaction():
        async with client.transaction(), client.transaction():
            await client.enqueue(wake_up=True)
        assert await sent.all() == 0
    assert await sent.all() >= 1
    async with client.transaction():
        with suppress(ZeroDivisionError):
            async with client.transaction():
                async with client.transaction():
                    await client.enqueue(wake_up=True)
                raise ZeroDivisionError
    assert await sent.all() == 0
    async with client.transaction():
        await client.enqueue(wake_up=True)
        with suppress(ZeroDivisionError):
            async with client.transaction():
                await client.enqueue(wake_up=True)
                raise ZeroDivisionError
    assert await sent.all() >= 1


@of(TELL)
async def test_every_event_may_wake_the_relay_up(client: Client, sent: Sent) -> None:
    async with client.transaction():
        await client.enqueue()
    assert await sent.all() == 0
    wake_up.use(sent.connect, always=True, interval=0)
    async with client.transaction():
        await client.enqueue()
    assert await sent.all() >= 1


@of(CLIENTS.keys() - TELL)
async def test_a_client_that_does_not_tell_of_commits_needs_a_block(client: Client, outbox: str, sent: Sent) -> None:
    async with client.transaction():
        with pytest.raises(EnqueueError, match=r"tells nobody of a commit; put relay.enqueue.wake_up") as refused:
            await client.enqueue(wake_up=True)
        kind = type(client.connection).__module__.partition(".")[0]
        block = {"psycopg2": "", "psycopg": ".transaction()", "sqlalchemy": ".begin()"}[kind]
        word = "async with" if client.asynchronous else "with"
        assert f"`{word} wake_up.after(connection{block}):`" in str(refused.value)
        with pytest.raises(EnqueueError, match="tells nobody of a commit"):
            await client.enqueue_many([EVENT], wake_up=True)
        # Nothing was written, and the transaction is as it was.
        await client.enqueue()
    wake_up.use(sent.connect, always=True, interval=0)
    async with client.transaction():
        await client.enqueue()
    assert await sent.all() == 0


@of(CLIENTS)
async def test_after_a_block_the_relay_is_woken_up(client: Client, sent: Sent) -> None:
    async with block_of(client):
        await client.enqueue()
        await client.enqueue_many([EVENT])
        assert await sent.all() == 0
    assert await sent.all() == 1
    async with client.transaction():
        await client.enqueue()
    assert await sent.all() == 0


@of(CLIENTS)
async def test_a_block_in_which_nothing_was_enqueued_or_that_failed_wakes_nobody_up(client: Client, sent: Sent) -> None:
    async with block_of(client):
        await client.execute("SELECT 1")
    with suppress(ZeroDivisionError):
        async with block_of(client):
            await client.enqueue()
            raise ZeroDivisionError
    assert await sent.all() == 0


@of(CLIENTS)
async def test_a_block_around_a_savepoint_is_part_of_the_one_around_it(client: Client, sent: Sent) -> None:
    async with block_of(client):
        async with block_of(client):
            await client.enqueue()
        assert await sent.all() == 0
        with suppress(ZeroDivisionError):
            async with block_of(client):
                await client.enqueue()
                raise ZeroDivisionError
    assert await sent.all() == 1
    async with block_of(client):
        with suppress(ZeroDivisionError):
            async with block_of(client):
                await client.enqueue()
                raise ZeroDivisionError
    assert await sent.all() == 0


@of(CLIENTS)
async def test_refusals_are_those_without_a_wake_up(client: Client, sent: Sent) -> None:
    wake_up.use(sent.connect, always=True, interval=0)
    with pytest.raises(NotInTransactionError, match="this connection is not in a transaction"):
        await client.enqueue()
    with pytest.raises(EnqueueError, match="topic is empty"):
        await client.enqueue("", key=None, payload=None)
    wake_up.stop()
    async with client.transaction():
        with pytest.raises(EnqueueError, match=r"call relay.enqueue.wake_up.use\(connect\)"):
            await client.enqueue(wake_up=True)
    assert sent.statements == []


def engine(dsn: str, driver: str) -> Engine:
    """An engine that keeps no connection."""
    return create_engine(dsn.replace("postgresql://", f"postgresql+{driver}://", 1), poolclass=NullPool)


WAYS: dict[str, Callable[[str], Any]] = {
    "asyncpg": asyncpg.connect,
    "psycopg": psycopg.connect,
    "psycopg-async": psycopg.AsyncConnection.connect,
    "psycopg2": psycopg2.connect,
    "sqlalchemy": lambda dsn: engine(dsn, "psycopg").connect(),
    "sqlalchemy-async": lambda dsn: AsyncEngine(engine(dsn, "asyncpg")).connect(),
}
"""How a service may connect for wake-ups."""


@pytest.mark.parametrize("way", WAYS)
async def test_any_client_can_send_wake_ups_and_is_connected_again_when_it_was_cut_off(outbox: str, way: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    observer, writer = await asyncpg.connect(outbox), await asyncpg.connect(outbox)
    await observer.add_listener("outbox", lambda *notice: heard.put_nowait(str(notice[1])))
    wake_up.use(lambda: WAYS[way](outbox))
    try:
        pids = []
        for _ in range(2):
            async with writer.transaction():
                await enqueue(writer, EVENT, wake_up=True)
            pids.append(int(await asyncio.wait_for(heard.get(), 30)))
            await observer.execute("SELECT pg_terminate_backend($1)", pids[-1])

            async def gone(pid: int = pids[-1]) -> bool:
                return not await observer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid)

            await until("the session is gone", gone)
        assert len({*pids, observer.get_server_pid(), writer.get_server_pid()}) == 4
    finally:
        wake_up.stop()
        observer.terminate()
        writer.terminate()


async def test_a_session_within_somebody_elses_transaction_wakes_nobody_up(outbox: str, sent: Sent) -> None:
    """As in a service's tests, which roll everything back."""

    def work() -> None:
        with engine(outbox, "psycopg").connect() as connection:
            outer = connection.begin()
            with Session(connection, join_transaction_mode="create_savepoint") as session, session.begin():
                enqueue(session, EVENT, wake_up=True)
            outer.rollback()

    await asyncio.to_thread(work)
    assert await sent.all() == 0


async def test_a_session_that_is_closed_without_a_commit_wakes_nobody_up(outbox: str, sent: Sent) -> None:
    def work() -> None:
        session = Session(engine(outbox, "psycopg"))
        enqueue_in(session)
        session.close()
        with session.begin():
            session.connection()

    def enqueue_in(session: Session) -> None:
        session.begin()
        enqueue(session, EVENT, wake_up=True)

    await asyncio.to_thread(work)
    assert await sent.all() == 0


async def test_a_commit_that_fails_wakes_nobody_up(outbox: str, sent: Sent) -> None:
    connection = await asyncpg.connect(outbox)
    await connection.execute("CREATE TEMP TABLE one (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO one VALUES (1), (1)")
    await enqueue(connection, EVENT, wake_up=True)
    with pytest.raises(asyncpg.UniqueViolationError):
        await transaction.commit()
    async with connection.transaction():
        await connection.execute("SELECT 1")
    assert await sent.all() == 0
    await connection.close()


async def test_many_events_of_a_transaction_listen_once(outbox: str, sent: Sent) -> None:
    connection = await asyncpg.connect(outbox)
    async with connection.transaction():
        for _ in range(10):
            await enqueue(connection, EVENT, wake_up=True)
        assert len(connection._query_loggers) == 1
    await asyncio.sleep(0)
    assert not connection._query_loggers
    await connection.close()


async def test_statements_of_the_callers_own_begin_and_end_transactions_as_well(outbox: str, sent: Sent) -> None:
    connection = await asyncpg.connect(outbox)
    for end, wakes in (("COMMIT", 1), ("end;", 1), ("rollback ;", 0), ("ABORT", 0)):
        await connection.execute("BEGIN")
        await enqueue(connection, EVENT, wake_up=True)
        await connection.execute(end)
        await asyncio.sleep(0)
        assert await sent.all() == wakes, end
    await connection.close()


async def test_a_connection_that_ends_with_the_block_counts(outbox: str, sent: Sent) -> None:
    def work() -> None:
        with wake_up.after(engine(outbox, "psycopg2").begin()) as connection:
            enqueue(connection, EVENT)
        with wake_up.after(psycopg.connect(outbox)) as own:
            own.execute("SELECT 1")
            enqueue(own, EVENT)

    await asyncio.to_thread(work)
    assert await sent.all() >= 1
