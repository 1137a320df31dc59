"""Enqueueing on a connection of asyncpg, its own or one of a pool.

async with connection.transaction():
    await connection.execute("UPDATE orders SET state = 'paid' WHERE id = $1", order_id)    # locks the order
    await enqueue(connection, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, overload

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.batches import batches, portions, values
from relay.enqueue.contract import (
    DEFAULT_SCHEMA,
    DOLLARS,
    busy,
    closed,
    copy,
    encoding_of_copy,
    function_call,
    insert,
    not_in_transaction,
    ours,
    table,
)
from relay.enqueue.dispatch import Adapter, adapter_of
from relay.enqueue.scheduling import cancel_call, reschedule_call
from relay.enqueue.wake_up import with_wake_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
    from typing import TypeAlias, Unpack
    from uuid import UUID

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from relay.enqueue.batches import Batch
    from relay.enqueue.event import Event
    from relay.enqueue.scheduling import Call
    from relay.enqueue.signatures import Due, Fields, Schedule, TypedEvent, Which
    from relay.errors import RelayError

    Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy

_DO = "write both inside `async with connection.transaction():`"
_ROLL_BACK = "leave the block `async with connection.transaction():` with the error"


@overload
def enqueue(
    connection: Connection, topic: str, *, schema: str = ..., **fields: Unpack[Fields]
) -> Coroutine[Any, Any, UUID]: ...
@overload
def enqueue(
    connection: Connection,
    event: Event | TypedEvent,
    /,
    *,
    schema: str = ...,
    wake_up: bool = ...,
    **when: Unpack[Schedule],
) -> Coroutine[Any, Any, UUID]: ...
def enqueue(
    connection: Connection, topic: object, *, schema: str = DEFAULT_SCHEMA, wake_up: bool = False, **fields: Any
) -> Coroutine[Any, Any, UUID]:
    """Write one event in the caller's open transaction by one INSERT; its event_id is the result.

    See `relay.enqueue.enqueue`.
    """
    written: Coroutine[Any, Any, UUID] = with_wake_up(
        adapter_of(connection, __name__), write, connection, event_of(topic, fields), schema, wake_up
    )
    return written


def enqueue_many(
    connection: Connection, events: Iterable[Event | TypedEvent], *, schema: str = DEFAULT_SCHEMA, wake_up: bool = False
) -> Coroutine[Any, Any, list[UUID]]:
    """Write many events in the caller's open transaction by one COPY; their event_ids are the result.

    See `relay.enqueue.enqueue_many`.
    """
    written: Coroutine[Any, Any, list[UUID]] = with_wake_up(
        adapter_of(connection, __name__), write_many, connection, events_of(events), schema, wake_up
    )
    return written


def cancel(
    connection: Connection, *, schema: str = DEFAULT_SCHEMA, **which: Unpack[Which]
) -> Coroutine[Any, Any, bool]:
    """Cancel a scheduled event in the caller's open transaction; the result says whether it was still to come.

    See `relay.enqueue.cancel`.
    """
    adapter_of(connection, __name__)
    return call(connection, cancel_call(**which), schema)


def reschedule(
    connection: Connection, *, schema: str = DEFAULT_SCHEMA, **due: Unpack[Due]
) -> Coroutine[Any, Any, bool]:
    """Give a scheduled event another time; the result says whether it was still to come.

    See `relay.enqueue.reschedule`.
    """
    adapter_of(connection, __name__)
    return call(connection, reschedule_call(**due), schema)


async def write(connection: Connection, event: Event, schema: str) -> UUID:
    """Write one event."""
    statement = insert(schema, DOLLARS, event.is_scheduled)
    _check(connection)
    try:
        await connection.execute(statement, *values(event))
    except Exception as error:
        if (refused := _ours(error, [event])) is not None:
            raise refused from error
        raise
    return event.event_id


async def write_many(connection: Connection, events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    copy(schema)  # Checks the name.
    _check(connection)
    encoding = encoding_of_copy(events, connection.get_settings().client_encoding)
    for batch in batches(events):
        name, columns = table(batch.scheduled)
        try:
            # Binary and encoded here: asyncpg's own encoding of rows depends on the codecs the caller has set.
            await connection.copy_to_table(
                name, schema_name=schema, columns=columns, source=_source(batch, encoding), format="binary"
            )
        except Exception as error:
            if (refused := _ours(error, batch)) is not None:
                raise refused from error
            raise
    return [event.event_id for event in events]


async def call(connection: Connection, function: Call, schema: str) -> bool:
    """Call a function of the schema that says whether it found what is meant."""
    statement = function_call(schema, function.function, DOLLARS)
    _check(connection)
    try:
        found = await connection.fetch(statement, *function.arguments)
    except Exception as error:
        if (refused := _ours(error, [])) is not None:
            raise refused from error
        raise
    return bool(found)


async def _source(batch: Batch, encoding: str) -> AsyncIterator[bytes]:
    for portion in portions(batch, encoding):
        yield portion


def _check(connection: Connection) -> None:
    """Refuse unless the connection is in a transaction; the server says whether that has failed."""
    try:
        # The driver says of a connection that was closed in a transaction that it is in one.
        if connection.is_in_transaction() and not connection.is_closed():
            return
    except Exception as error:
        if "released back to the pool" in str(error):
            raise closed() from error
        raise
    raise closed() if connection.is_closed() else not_in_transaction(_DO)


def _ours(error: Exception, events: Sequence[Event]) -> RelayError | None:
    if error.__class__.__name__ == "InterfaceError" and "another operation is in progress" in str(error):
        return busy()
    return ours(error, events, _ROLL_BACK)


class _Commit:
    """Listens for the end of a connection's transaction, as a query logger: at most one for each outbox."""

    def __init__(self, connection: Connection, wake: Callable[[], None]) -> None:
        self._connection = connection
        self._wake = wake
        self._savepoints: set[str] = set()
        self._over = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Commit) and self._wake is other._wake and not (self._over or other._over)

    def __hash__(self) -> int:
        return hash(self._wake)

    def __call__(self, query: Any) -> None:
        if self._over:
            return
        words = query.query.upper().rstrip("; ").split() or [""]
        if words[0] == "SAVEPOINT":
            self._savepoints.add(words[-1])
        elif words[0] in ("ROLLBACK", "ABORT") and words[-1] in self._savepoints:
            # The savepoint was made after the event was written.
            return
        elif words[0] in ("COMMIT", "END", "ROLLBACK", "ABORT", "PREPARE"):
            self._over = True
            with suppress(Exception):  # The connection is back in its pool, which forgets the listeners of a proxy.
                self._connection.remove_query_logger(self)
            if words[0] in ("COMMIT", "END") and query.exception is None:
                self._wake()


def _on_commit(connection: Connection) -> Callable[[Callable[[], None]], None]:
    return lambda wake: connection.add_query_logger(_Commit(connection, wake))


def _in_transaction(connection: Connection) -> bool:
    try:
        return bool(connection.is_in_transaction())
    except Exception:  # noqa: BLE001 it is back in its pool, or closed
        return False


ADAPTER = Adapter(write, write_many, call, in_transaction=_in_transaction, on_commit=_on_commit)
