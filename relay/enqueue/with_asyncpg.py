"""Enqueueing on an asyncpg connection."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncpg import exceptions as pg

from relay.enqueue.copy import binary_copy
from relay.enqueue.event import COLUMNS, row, size
from relay.errors import EnqueueError, NotInTransactionError
from relay.postgres.errors import translate
from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    import asyncpg

    from relay.enqueue.event import Event

_COPY_LINE = re.compile(r"COPY event, line (\d+)")


async def enqueue(connection: asyncpg.Connection, event: Event, schema: str) -> None:
    """Write one event."""
    _check_in_transaction(connection)
    with _translated([event]):
        await connection.execute(query("enqueue", schema), *row(event))


async def enqueue_many(connection: asyncpg.Connection, events: Sequence[Event], schema: str) -> None:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    _check_in_transaction(connection)
    if not events:
        return
    with _translated(events):
        # Binary and encoded here: asyncpg's own encoding of rows depends on the codecs the caller has set.
        await connection.copy_to_table(
            "event", schema_name=schema, columns=COLUMNS, source=_source(events), format="binary"
        )


async def _source(events: Sequence[Event]) -> AsyncIterator[bytes]:
    for portion in binary_copy(map(row, events)):
        yield portion


def _check_in_transaction(connection: asyncpg.Connection) -> None:
    if not connection.is_in_transaction():
        raise NotInTransactionError(
            "this connection is not in a transaction; make the change and enqueue its event in the same transaction, "
            "inside `async with connection.transaction():`"
        )


@contextmanager
def _translated(events: Sequence[Event]) -> Iterator[None]:
    """Say in our words what is about the event or the outbox; the caller knows its driver's other errors."""
    try:
        yield
    except pg.InFailedSQLTransactionError as error:
        raise NotInTransactionError(
            "an earlier statement of this transaction failed, and nothing was enqueued; roll the transaction back and "
            "begin again"
        ) from error
    except pg.CheckViolationError as error:
        if getattr(error, "constraint_name", None) != "event_size":
            raise
        raise EnqueueError(_too_large(events, error)) from error
    except (pg.UndefinedTableError, pg.InvalidSchemaNameError) as error:
        ours = translate(error)
        if ours is None:
            raise
        raise ours from error


def _too_large(events: Sequence[Event], error: pg.CheckViolationError) -> str:
    index, label = 0, "the event"
    if len(events) > 1 and (line := _COPY_LINE.search(getattr(error, "context", None) or "")):
        index = int(line[1]) - 1
        label = f"events[{index}]"
    return (
        f"{label} for topic {events[index].topic} has {size(events[index]):,} bytes of key, payload, headers and type, "
        "more than the outbox takes (1,000,000 unless changed); make the event smaller, or raise the outbox's limit "
        "(`relay migrate --max-event-bytes N`) and the topic's (max.message.bytes)"
    )
