"""One adapter per client: what the contract needs of a connection, in an asynchronous form for all of them.

Synchronous clients work in a thread of their own, as their connections ask for.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import asyncpg
import django
import django.conf
import django.db
import psycopg
import psycopg2
import pytest
import sqlalchemy
from django.db import transaction
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from relay.enqueue import cancel, enqueue, enqueue_many, reschedule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from uuid import UUID

    from relay.enqueue import Event


class Client(ABC):
    """A connection of a client. `own_error` is what a CHECK of somebody else's raises in `enqueue`."""

    connection: Any
    own_error: ClassVar[type[Exception]]
    own_copy_error: ClassVar[type[Exception] | None] = None
    """The same in `enqueue_many`, if that is another."""
    asynchronous: ClassVar[bool]

    @abstractmethod
    def opened(self, dsn: str) -> AbstractAsyncContextManager[None]:
        """Connect, and close at the end in whatever state the connection is."""

    @abstractmethod
    def transaction(self) -> AbstractAsyncContextManager[None]:
        """A transaction; inside of one, a savepoint."""

    @abstractmethod
    async def execute(self, statement: str) -> None:
        """Run a statement, in the transaction if there is one."""

    async def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call a function of the library as this client's users do."""
        return await function(*arguments, **keywords)

    async def close(self) -> None:
        """Close the connection inside of a transaction."""
        await self.call(lambda: self.connection.close())

    async def enqueue(self, *arguments: Any, **fields: Any) -> UUID:
        """Enqueue an event, of topic orders, key k and payload x if nothing else is said."""
        if not arguments:
            arguments = (fields.pop("topic", "orders"),)
            fields = {"key": "k", "payload": "x", **fields}
        found: UUID = await self.call(enqueue, self.connection, *arguments, **fields)
        return found

    async def cancel(self, **which: Any) -> bool:
        """Cancel a scheduled event."""
        found: bool = await self.call(cancel, self.connection, **which)
        return found

    async def reschedule(self, **due: Any) -> bool:
        """Give a scheduled event another time."""
        found: bool = await self.call(reschedule, self.connection, **due)
        return found

    async def enqueue_many(self, events: Iterable[Event], **fields: Any) -> list[UUID]:
        """Enqueue many events."""
        found: list[UUID] = await self.call(enqueue_many, self.connection, events, **fields)
        return found


class Synchronous(Client):
    """A client whose calls block."""

    asynchronous = False

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    async def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call a function in the connection's thread."""
        work = partial(function, *arguments, **keywords)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def execute(self, statement: str) -> None:
        """Run a statement in the connection's thread."""
        await self.call(self.run, statement)

    @asynccontextmanager
    async def opened(self, dsn: str) -> AsyncIterator[None]:
        """Connect in the connection's thread."""
        with self._thread:
            await self.call(self.connect, dsn)
            try:
                yield
            finally:
                with suppress(Exception):
                    await self.call(self.disconnect)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """The client's own transaction, entered and left in the connection's thread."""
        block = self.block()
        await self.call(block.__enter__)
        try:
            yield
        except BaseException as error:
            if not await self.call(block.__exit__, type(error), error, error.__traceback__):
                raise
        else:
            await self.call(block.__exit__, None, None, None)

    @abstractmethod
    def connect(self, dsn: str) -> None:
        """Connect."""

    def disconnect(self) -> None:
        """Close in whatever state the connection is."""
        self.connection.close()

    @abstractmethod
    def run(self, statement: str) -> None:
        """Run a statement."""

    @abstractmethod
    def block(self) -> AbstractContextManager[Any]:
        """A transaction; inside of one, a savepoint."""


class Asyncpg(Client):
    """asyncpg's connection."""

    own_error = asyncpg.CheckViolationError
    asynchronous = True

    @asynccontextmanager
    async def opened(self, dsn: str) -> AsyncIterator[None]:
        """Connect."""
        self.connection = await asyncpg.connect(dsn)
        try:
            yield
        finally:
            self.connection.terminate()

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """A transaction or savepoint."""
        found: AbstractAsyncContextManager[None] = self.connection.transaction()
        return found

    async def execute(self, statement: str) -> None:
        """Run a statement."""
        await self.connection.execute(statement)


class AsyncpgPool(Asyncpg):
    """asyncpg's connection of a pool of one."""

    @asynccontextmanager
    async def opened(self, dsn: str) -> AsyncIterator[None]:
        """Make the pool and acquire."""
        async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, pool.acquire() as connection:
            self.connection = connection
            yield


class Psycopg(Synchronous):
    """psycopg's Connection, not in autocommit mode, as it is made."""

    own_error = psycopg.errors.CheckViolation

    def connect(self, dsn: str) -> None:
        """Connect."""
        self.connection = psycopg.connect(dsn)

    def run(self, statement: str) -> None:
        """Run a statement, and commit what runs outside of a transaction."""
        outside = self.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        self.connection.execute(statement)
        if outside:
            self.connection.commit()

    def block(self) -> AbstractContextManager[Any]:
        """A transaction or savepoint."""
        found: AbstractContextManager[Any] = self.connection.transaction()
        return found


class PsycopgAutocommit(Psycopg):
    """psycopg's Connection in autocommit mode, with transactions where they are asked for."""

    def connect(self, dsn: str) -> None:
        """Connect."""
        self.connection = psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor)


class PsycopgAsync(Client):
    """psycopg's AsyncConnection."""

    own_error = psycopg.errors.CheckViolation
    asynchronous = True

    @asynccontextmanager
    async def opened(self, dsn: str) -> AsyncIterator[None]:
        """Connect."""
        self.connection = await psycopg.AsyncConnection.connect(dsn)
        try:
            yield
        finally:
            await self.connection.close()

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """A transaction or savepoint."""
        found: AbstractAsyncContextManager[None] = self.connection.transaction()
        return found

    async def execute(self, statement: str) -> None:
        """Run a statement, and commit what runs outside of a transaction."""
        outside = self.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        await self.connection.execute(statement)
        if outside:
            await self.connection.commit()


class Psycopg2(Synchronous):
    """psycopg2's connection. Savepoints are statements there."""

    own_error = psycopg2.errors.CheckViolation

    def connect(self, dsn: str) -> None:
        """Connect."""
        self.connection = psycopg2.connect(dsn)

    def run(self, statement: str) -> None:
        """Run a statement, and commit what runs outside of a transaction."""
        outside = self.connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
        if outside:
            self.connection.commit()

    @contextmanager
    def block(self) -> Iterator[None]:
        """`with connection:` around a first statement, or a savepoint."""
        if self.connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            with self.connection:
                self._statement("SELECT")
                yield
            return
        self._statement("SAVEPOINT inner_one")
        try:
            yield
        except BaseException:
            self._statement("ROLLBACK TO SAVEPOINT inner_one")
            raise
        self._statement("RELEASE SAVEPOINT inner_one")

    def _statement(self, statement: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)


class SqlAlchemy(Synchronous):
    """SQLAlchemy's Connection on one of the drivers."""

    own_error = sqlalchemy.exc.IntegrityError

    def __init__(self, driver: str) -> None:
        super().__init__()
        self._driver = driver
        self.own_copy_error = {  # type: ignore[misc]
            "psycopg": psycopg.errors.CheckViolation,
            "psycopg2": psycopg2.errors.CheckViolation,
        }[driver]

    def connect(self, dsn: str) -> None:
        """Connect."""
        self.engine = sqlalchemy.create_engine(_url(dsn, self._driver))
        self.connection = self.engine.connect()

    def disconnect(self) -> None:
        """Close the connection and the pool."""
        self.connection.close()
        self.engine.dispose()

    def run(self, statement: str) -> None:
        """Run a statement, and commit what runs outside of a transaction."""
        outside = not self.connection.in_transaction()
        self.connection.execute(sqlalchemy.text(statement))
        if outside:
            self.connection.commit()

    def block(self) -> AbstractContextManager[Any]:
        """A transaction or savepoint."""
        begun: bool = self.connection.in_transaction()
        found: AbstractContextManager[Any] = self.connection.begin_nested() if begun else self.connection.begin()
        return found


class SqlAlchemySession(SqlAlchemy):
    """SQLAlchemy's Session."""

    def connect(self, dsn: str) -> None:
        """Make the session."""
        self.engine = sqlalchemy.create_engine(_url(dsn, self._driver))
        self.connection = Session(self.engine)


class SqlModelSession(SqlAlchemy):
    """SQLModel's Session. An environment that is older than it is here leaves it out: pip install -e '.[dev]'."""

    def connect(self, dsn: str) -> None:
        """Make the session."""
        sqlmodel = pytest.importorskip("sqlmodel")
        self.engine = sqlmodel.create_engine(_url(dsn, self._driver))
        self.connection = sqlmodel.Session(self.engine)


class SqlAlchemyAsync(Client):
    """SQLAlchemy's AsyncConnection on one of the drivers."""

    own_error = sqlalchemy.exc.IntegrityError
    asynchronous = True

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self.own_copy_error = {  # type: ignore[misc]
            "psycopg": psycopg.errors.CheckViolation,
            "asyncpg": asyncpg.CheckViolationError,
        }[driver]

    @asynccontextmanager
    async def opened(self, dsn: str) -> AsyncIterator[None]:
        """Connect."""
        engine = create_async_engine(_url(dsn, self._driver))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(engine.dispose)
            self.connection = await self.made(engine, stack)
            yield

    async def made(self, engine: Any, stack: AsyncExitStack) -> Any:
        """The connection."""
        connection = await engine.connect()
        stack.push_async_callback(connection.close)
        return connection

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """A transaction or savepoint."""
        begun: bool = self.connection.in_transaction()
        found: AbstractAsyncContextManager[None] = self.connection.begin_nested() if begun else self.connection.begin()
        return found

    async def execute(self, statement: str) -> None:
        """Run a statement, and commit what runs outside of a transaction."""
        outside = not self.connection.in_transaction()
        await self.connection.execute(sqlalchemy.text(statement))
        if outside:
            await self.connection.commit()


class SqlAlchemyAsyncSession(SqlAlchemyAsync):
    """SQLAlchemy's AsyncSession."""

    async def made(self, engine: Any, stack: AsyncExitStack) -> Any:
        """The session."""
        session = AsyncSession(engine)
        stack.push_async_callback(session.close)
        return session


class SqlModelAsyncSession(SqlAlchemyAsync):
    """SQLModel's AsyncSession."""

    async def made(self, engine: Any, stack: AsyncExitStack) -> Any:
        """The session."""
        session = pytest.importorskip("sqlmodel.ext.asyncio.session").AsyncSession(engine)
        stack.push_async_callback(session.close)
        return session

    async def execute(self, statement: str) -> None:
        """Run a statement, and commit what runs outside of a transaction."""
        outside = not self.connection.in_transaction()
        # SQLModel's own warns of `execute`, and its `exec` takes no text.
        await AsyncSession.execute(self.connection, sqlalchemy.text(statement))
        if outside:
            await self.connection.commit()


class Django(Synchronous):
    """Django's connection. It is the default one, as there can be one set of settings in a process."""

    own_error = django.db.IntegrityError

    def connect(self, dsn: str) -> None:
        """Let the default connection lead to the database."""
        parts = urlsplit(dsn)
        if not django.conf.settings.configured:
            django.conf.settings.configure(LOGGING_CONFIG=None)
            django.setup()
        django.db.connections.settings["default"] |= {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.path[1:],
            "USER": parts.username,
            "PASSWORD": parts.password,
            "HOST": parts.hostname,
            "PORT": parts.port,
        }
        self.connection = django.db.connection
        try:
            self.connection.ensure_connection()
        except django.db.NotSupportedError as error:
            # Django gives up versions of PostgreSQL sooner than we do.
            self.disconnect()
            pytest.skip(str(error))
        self.connection.close()

    def disconnect(self) -> None:
        """Close the connection and forget it."""
        self.connection.close()
        del django.db.connections["default"]

    def run(self, statement: str) -> None:
        """Run a statement."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement)

    def block(self) -> AbstractContextManager[Any]:
        """A transaction or savepoint."""
        found: AbstractContextManager[Any] = transaction.atomic()
        return found


def _url(dsn: str, driver: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


CLIENTS: dict[str, Callable[[], Client]] = {
    "asyncpg": Asyncpg,
    "asyncpg-pool": AsyncpgPool,
    "psycopg": Psycopg,
    "psycopg-autocommit": PsycopgAutocommit,
    "psycopg-async": PsycopgAsync,
    "psycopg2": Psycopg2,
    "sqlalchemy-psycopg": partial(SqlAlchemy, "psycopg"),
    "sqlalchemy-psycopg2": partial(SqlAlchemy, "psycopg2"),
    "sqlalchemy-session-psycopg": partial(SqlAlchemySession, "psycopg"),
    "sqlalchemy-session-psycopg2": partial(SqlAlchemySession, "psycopg2"),
    "sqlalchemy-async-asyncpg": partial(SqlAlchemyAsync, "asyncpg"),
    "sqlalchemy-async-psycopg": partial(SqlAlchemyAsync, "psycopg"),
    "sqlalchemy-async-session-asyncpg": partial(SqlAlchemyAsyncSession, "asyncpg"),
    "sqlalchemy-async-session-psycopg": partial(SqlAlchemyAsyncSession, "psycopg"),
    "sqlmodel-session-psycopg": partial(SqlModelSession, "psycopg"),
    "sqlmodel-async-session-asyncpg": partial(SqlModelAsyncSession, "asyncpg"),
    "django": Django,
}
"""Every client that the library supports: a new one is an adapter above and a line here."""
