"""What people pass in place of a connection, and the code by which they come to one. Imported only to refuse it."""

from __future__ import annotations

from inspect import isawaitable

from relay.enqueue.event import Event
from relay.enqueue.typed import EventType
from relay.errors import EnqueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SUPPORTED = (
    "asyncpg's Connection, psycopg's Connection and AsyncConnection, psycopg2's connection, SQLAlchemy's Connection, "
    "Session, AsyncConnection and AsyncSession, and Django's connection"
)
_INSTALL = "pip install asyncpg, 'psycopg[binary]', psycopg2-binary, sqlalchemy or django"


def _pool(code: str) -> str:
    return f"a pool is not a connection; write {code}, make the change, and enqueue on that connection"


def _not_entered(call: str, *, word: str = "with", noun: str = "connection") -> str:
    return f"{call} was not entered; write `{word} {call} as {noun}:`, and pass that {noun}"


_CURSOR = "a cursor is not a connection; pass the connection that the cursor belongs to"
_TRANSACTION = "a transaction is not a connection; pass the connection or session that the transaction belongs to"
_ATOMIC = "transaction.atomic() is not a connection; pass django.db.connection inside its block"
_ENGINE = "an engine is not a connection; write `with engine.begin() as connection:`, and pass that connection"
_ASYNC_ENGINE = _ENGINE.replace("with", "async with")
_FACTORY = "a session factory is not a session; write `with factory.begin() as session:` and pass that session"
_ASYNC_FACTORY = _FACTORY.replace("with", "async with")
_ALL = "django.db.connections has all connections; pass one of them, connections['default']"

_BY_CLASS = {
    "asyncpg.pool.Pool": _pool("`async with pool.acquire() as connection, connection.transaction():`"),
    "asyncpg.pool.PoolAcquireContext": _not_entered("pool.acquire()", word="async with"),
    "asyncpg.transaction.Transaction": _TRANSACTION,
    "psycopg_pool.pool.ConnectionPool": _pool("`with pool.connection() as connection, connection.transaction():`"),
    "psycopg_pool.pool_async.AsyncConnectionPool": _pool(
        "`async with pool.connection() as connection, connection.transaction():`"
    ),
    "psycopg2.pool.AbstractConnectionPool": _pool("`connection = pool.getconn()` and `with connection:`"),
    "psycopg.Cursor": _CURSOR,
    "psycopg.AsyncCursor": _CURSOR,
    "psycopg.Transaction": _TRANSACTION,
    "psycopg.AsyncTransaction": _TRANSACTION,
    "psycopg2.extensions.cursor": _CURSOR,
    "sqlalchemy.engine.base.Engine": _ENGINE,
    "sqlalchemy.engine.base.Transaction": _TRANSACTION,
    "sqlalchemy.ext.asyncio.engine.AsyncEngine": _ASYNC_ENGINE,
    "sqlalchemy.ext.asyncio.engine.AsyncTransaction": _TRANSACTION,
    "sqlalchemy.ext.asyncio.session.AsyncSessionTransaction": _TRANSACTION,
    "sqlalchemy.ext.asyncio.session._AsyncSessionContextManager": _not_entered(
        "factory.begin()", word="async with", noun="session"
    ),
    "sqlalchemy.ext.asyncio.session.async_sessionmaker": _ASYNC_FACTORY,
    "sqlalchemy.orm.session.SessionTransaction": _TRANSACTION,
    "sqlalchemy.orm.session.sessionmaker": _FACTORY,
    "django.db.backends.utils.CursorWrapper": _CURSOR,
    "django.db.transaction.Atomic": _ATOMIC,
    "django.utils.connection.BaseConnectionHandler": _ALL,
}

# Of a block that contextlib makes, the function that it was made of.
_BLOCKS = {
    "connection": ("pool.connection()", "connection"),
    "begin": ("engine.begin()", "connection"),
    "_maker_context_manager": ("factory.begin()", "session"),
}


def refusal(connection: object, names: list[str]) -> EnqueueError:
    """The error for this object, whose class and its bases have these names."""
    for name in names:
        if name in _BY_CLASS:
            return EnqueueError(_BY_CLASS[name])
        if name in ("contextlib._GeneratorContextManager", "contextlib._AsyncGeneratorContextManager"):
            return EnqueueError(_of_a_block(connection, word="async with" if "Async" in name else "with"))
    if isawaitable(connection):
        return EnqueueError("the connection was not awaited; write `await` before the call that makes it")
    if connection is None:
        return EnqueueError(
            "the connection is None; pass the connection of your transaction, and not what `as` names after its "
            "transaction() or atomic()"
        )
    if isinstance(connection, str | Event) or isinstance(getattr(connection, "__event__", None), EventType):
        return EnqueueError(
            "the connection comes first, as in enqueue(connection, topic, key=..., payload=...) and "
            f"enqueue(connection, event); here, a {connection.__class__.__name__} does"
        )
    return EnqueueError(
        f"cannot enqueue on an object of the class {names[0].removeprefix('builtins.')}; pass the connection of your "
        f"transaction: {_SUPPORTED} ({_INSTALL})"
    )


def of_another_client(module: str, theirs: str) -> EnqueueError:
    """The error for a connection that the module of another client is for."""
    return EnqueueError(
        f"{module} takes the connections of one client, and this is one of another; call the function of {theirs}, or "
        "that of relay.enqueue, which takes both"
    )


def _of_a_block(block: Any, *, word: str) -> str:
    made_by = getattr(getattr(block, "func", None), "__name__", "")
    if made_by == "transaction":
        return _TRANSACTION
    call, noun = _BLOCKS.get(made_by, ("a block", "connection"))
    return _not_entered(call, word=word, noun=noun)
