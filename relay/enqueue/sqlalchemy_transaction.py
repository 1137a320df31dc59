"""Finds the open transaction in what a caller gives: any of SQLAlchemy's connections and sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import exc
from sqlalchemy.engine import Connection
from sqlalchemy.exc import InvalidRequestError, PendingRollbackError
from sqlalchemy.orm import Session, scoped_session

from relay.enqueue.contract import closed, failed_transaction, not_in_transaction
from relay.enqueue.sqlalchemy_refusals import how_to_roll_back, not_usable, what_to_do
from relay.errors import EnqueueError, NotInTransactionError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    Synchronous: TypeAlias = Connection | Session | scoped_session[Any]
    Asynchronous: TypeAlias = AsyncConnection | AsyncSession | async_scoped_session[Any]

_DRIVERS = ("asyncpg", "psycopg", "psycopg_async", "psycopg2")


def asynchronous(connection: Asynchronous) -> Any:
    """The AsyncConnection or AsyncSession; an async_scoped_session is called for its own."""
    found: Any = connection if hasattr(connection, "run_sync") else connection()
    if getattr(found, "sync_connection", found) is None:
        raise NotInTransactionError(
            "this connection was not started, or is closed; write `async with engine.begin() as connection:`"
        )
    return found


def connection_in_transaction(given: Synchronous) -> Connection:
    """The Connection whose transaction is open and will be committed by somebody. Raises NotInTransactionError."""
    subject: Connection | Session = given() if isinstance(given, scoped_session) else given
    if not subject.in_transaction():
        raise closed() if getattr(subject, "closed", False) else not_in_transaction(what_to_do(subject))
    found = _connection_of(subject) if isinstance(subject, Session) else subject
    if found.dialect.name != "postgresql" or found.dialect.driver not in _DRIVERS:
        raise EnqueueError(
            f"cannot enqueue through SQLAlchemy's {found.dialect.name}+{found.dialect.driver}; make the engine with "
            "postgresql+asyncpg, postgresql+psycopg or postgresql+psycopg2"
        )
    if getattr(found.get_transaction(), "_is_prepared", False):
        raise NotInTransactionError(
            "the transaction is prepared, and nothing was enqueued; enqueue before you prepare the transaction"
        )
    try:
        driver: Any = found.connection.dbapi_connection
    except InvalidRequestError as error:
        raise not_usable(error) from error
    if driver.autocommit:
        raise not_in_transaction(
            "its isolation level is AUTOCOMMIT, which makes each statement a transaction of its own; take an engine "
            f"without AUTOCOMMIT, and {what_to_do(subject)}"
        )
    return found


def _connection_of(session: Session) -> Connection:
    """The connection of a session's transaction, on which its pending changes have been written."""
    # These lock what they change, and must do that before the event has its place in the order.
    if session.is_active and not getattr(session, "_flushing", False):
        session.flush()
    try:
        return session.connection()
    except PendingRollbackError as error:
        raise failed_transaction(how_to_roll_back(session)) from error
    except exc.UnboundExecutionError as error:
        raise EnqueueError(
            "the session has no default bind, so that nobody knows which of its transactions is meant; enqueue on "
            'session.connection(bind_arguments={"mapper": ...}) with the class that you change'
        ) from error
    except InvalidRequestError as error:
        raise not_usable(error) from error


def subject_of(given: Synchronous | Asynchronous) -> Connection | Session:
    """The synchronous object within, whose state is the transaction's."""
    if isinstance(given, Connection | Session):
        return given
    if isinstance(given, scoped_session):
        session: Session = given()
        return session
    found = asynchronous(given)
    subject: Connection | Session = getattr(found, "sync_session", None) or found.sync_connection
    return subject


def in_transaction(given: Synchronous | Asynchronous) -> bool:
    try:
        return subject_of(given).in_transaction()
    except NotInTransactionError:
        return False
