"""What every client has in common: the statements, in each client's style of parameters, and what is refused.

Nothing here knows a client. The statements run on the caller's connection, under any search path: every function,
operator and type in them carries the name of its schema.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

from relay.enqueue.event import row, size
from relay.errors import EnqueueError, NotInTransactionError, RelayError, SchemaError
from relay.names import is_schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, LiteralString

    from relay.enqueue.event import Event

DEFAULT_SCHEMA = "outbox"

COLUMNS = ("event_id", "topic", "key", "payload", "headers", "type")
SCHEDULED_COLUMNS = (*COLUMNS, "deliver_at", "delay", "timer")

# Headers go in as text: the caller's connection may have a codec of its own for jsonb.
_INSERT = (
    "INSERT INTO {schema}.event (event_id, topic, key, payload, headers, type) "
    "VALUES ({}::pg_catalog.uuid, {}::pg_catalog.text, {}::pg_catalog.bytea, {}::pg_catalog.bytea, "
    "{}::pg_catalog.text::pg_catalog.jsonb, {}::pg_catalog.text)"
)
_WAKE_UP = "SELECT {schema}.wake_up()"
# The server's clock counts the delay, from the statement on; a trigger of the table's does so after a COPY, too.
_INSERT_SCHEDULED = (
    "INSERT INTO {schema}.scheduled (event_id, topic, key, payload, headers, type, deliver_at, delay, timer) "
    "VALUES ({}::pg_catalog.uuid, {}::pg_catalog.text, {}::pg_catalog.bytea, {}::pg_catalog.bytea, "
    "{}::pg_catalog.text::pg_catalog.jsonb, {}::pg_catalog.text, {}::pg_catalog.text::pg_catalog.timestamptz, "
    "{}::pg_catalog.text::pg_catalog.interval, {}::pg_catalog.text)"
)
_COPY = "COPY {schema}.{} ({}) FROM STDIN WITH (FORMAT binary)"
# A row if the function returns true: what a boolean becomes depends on the codecs and loaders that the caller has set.
_CALLS = {
    "cancel_scheduled": (
        "SELECT 1 FROM {schema}.cancel_scheduled({}::pg_catalog.text::pg_catalog.uuid, {}::pg_catalog.text) AS found "
        "WHERE found"
    ),
    "reschedule": (
        "SELECT 1 FROM {schema}.reschedule({}::pg_catalog.text::pg_catalog.uuid, {}::pg_catalog.text, "
        "{}::pg_catalog.text::pg_catalog.timestamptz, {}::pg_catalog.text::pg_catalog.interval) AS found WHERE found"
    ),
}

DOLLARS = ("$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9")
"""The parameters of the server itself, and of asyncpg; of a scheduled event, which has three more than another."""
FORMAT = ("%s",) * 9
"""The parameters of the DB-API."""
FORMAT_BINARY = ("%s", "%s", "%b", "%b", "%s", "%s", "%s", "%s", "%s")
"""The parameters of psycopg 3, which sends the two bytea columns as they are."""

_COPY_LINE = re.compile(r"COPY \w+, line (\d+)")


@lru_cache(256)
def insert(schema: str, parameters: tuple[str, ...], scheduled: bool = False) -> LiteralString:
    """The INSERT of one event. Raises EnqueueError for a schema name that would need quoting."""
    return (_INSERT_SCHEDULED if scheduled else _INSERT).format(*parameters, schema=_checked(schema))


@lru_cache(256)
def copy(schema: str, scheduled: bool = False) -> LiteralString:
    """The COPY of many events, in the binary format of relay.enqueue.copy."""
    name, columns = table(scheduled)
    return _COPY.format(name, ", ".join(columns), schema=_checked(schema))


def table(scheduled: bool) -> tuple[str, tuple[str, ...]]:
    """Where events are copied to, and the columns."""
    return ("scheduled", SCHEDULED_COLUMNS) if scheduled else ("event", COLUMNS)


@lru_cache(256)
def function_call(schema: str, function: str, parameters: tuple[str, ...]) -> LiteralString:
    """The SELECT of a call that relay.enqueue.scheduling makes: a row for true. Arguments are text in every client."""
    return _CALLS[function].format(*parameters, schema=_checked(schema))


@lru_cache(256)
def wake_up(schema: str) -> LiteralString:
    """The statement that has idle relays look for events, after the commit and on another connection."""
    return _WAKE_UP.format(schema=_checked(schema))


def hexadecimal(value: bytes | None) -> str | None:
    """A bytea as the text that PostgreSQL reads.

    For clients that write the values into the statement: they would write bytes as '...'::bytea, and the search path
    decides which type that is.
    """
    return None if value is None else "\\x" + value.hex()


def not_in_transaction(do: str) -> NotInTransactionError:
    """The refusal outside a transaction; `do` shows the code that this client needs."""
    return NotInTransactionError(
        f"this connection is not in a transaction; make the change and enqueue its event in the same transaction: {do}"
    )


def failed_transaction(do: str) -> NotInTransactionError:
    """The refusal in a transaction that can only be rolled back."""
    return NotInTransactionError(
        "an earlier statement of this transaction failed, and nothing was enqueued; roll the transaction back and "
        f"begin again: {do}"
    )


def closed() -> NotInTransactionError:
    """The refusal on a connection that is closed."""
    return NotInTransactionError(
        "this connection is closed, and nothing was enqueued; make the change and enqueue its event on a new connection"
    )


def busy() -> EnqueueError:
    """The refusal on a connection that runs somebody else's statement."""
    return EnqueueError(
        "the connection is running another statement; a connection, and so a transaction, belongs to one task or "
        "thread at a time: give each one its own connection"
    )


def check_encoding_of_psycopg2(connection: Any, *texts: str | None) -> None:
    """Refuse text that would arrive as other text: psycopg2 does not notice a `SET client_encoding`."""
    if all(text is None or text.isascii() for text in texts):
        return
    of_the_session = connection.get_parameter_status("client_encoding") or "UTF8"
    if codec(of_the_session) != codec(connection.encoding):
        raise EnqueueError(
            f"the connection's client_encoding is {of_the_session}, and psycopg2 takes it for {connection.encoding}; "
            "write connection.set_client_encoding() in place of SET"
        )


def texts(event: Event) -> tuple[str, str | None, str | None]:
    """The texts of an event that need not be ASCII: headers, type and timer."""
    _, _, _, _, headers, kind = row(event)
    return headers, kind, event.timer


def encoding_of_copy(events: Sequence[Event], client_encoding: str | None) -> str:
    """Python's name of the encoding, once all events are known to fit it.

    Raises EnqueueError before any is written: in the middle of a COPY it would cost the caller the transaction, and
    after the first of two COPYs half of the events would be there.
    """
    encoding = codec(client_encoding or "UTF8")
    if encoding != "utf-8":
        try:
            for event in events:
                for text in texts(event):
                    (text or "").encode(encoding)
        except UnicodeEncodeError as error:
            raise _unrepresentable(error) from error
    return encoding


def _unrepresentable(error: UnicodeEncodeError) -> EnqueueError:
    """The refusal of text that the connection's client_encoding has no characters for."""
    return EnqueueError(
        f"the connection's client_encoding is {error.encoding}, which has no {error.object[error.start]!r}; "
        "set client_encoding to UTF8, and the server converts"
    )


def codec(client_encoding: str) -> str:
    """Python's name of PostgreSQL's encoding. SQL_ASCII converts nothing, so that text can be UTF-8."""
    name = client_encoding.upper()
    if name in ("UTF8", "UNICODE", "SQL_ASCII", "SQLASCII"):
        return "utf-8"
    try:
        return codecs.lookup(name.replace("WIN", "CP", 1) if name.startswith("WIN") else name).name
    except LookupError:
        raise EnqueueError(
            f"the connection's client_encoding is {client_encoding}, which Python does not know; set client_encoding "
            "to UTF8, and the server converts"
        ) from None


def ours(error: BaseException, events: Sequence[Event], roll_back: str) -> RelayError | None:
    """The library's error for one of PostgreSQL that is about the event or the outbox, else None.

    `error` is a client's, or that of a library around the client. `roll_back` shows how to end the transaction.
    """
    for each in _itself_and_its_causes(error):
        if isinstance(each, UnicodeEncodeError):
            return _unrepresentable(each)
        state = getattr(each, "sqlstate", None) or getattr(each, "pgcode", None)
        if state == "25P02":
            return failed_transaction(roll_back)
        if state == "23514" and _detail(each, "constraint_name") == "event_size":
            return EnqueueError(_too_large(events, _detail(each, "context")))
        if state == "23505" and _detail(each, "constraint_name") in ("scheduled_timer", "scheduled_pkey"):
            return _scheduled_already(events, each)
        if state in ("42P01", "3F000") or (state == "42883" and any(name in str(each) for name in _CALLS)):
            text = " ".join(str(each).split("\n", 1)[0].split())
            return SchemaError(
                f"the outbox is missing or of another version ({text}); run `relay migrate` for this database, or give "
                "the outbox's schema as schema=... if it has another name"
            )
    return None


def _itself_and_its_causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what SQLAlchemy (`orig`) and Django (`__cause__`) wrapped in it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = getattr(found, "orig", None) or found.__cause__


def _detail(error: BaseException, name: str) -> str:
    """A field of the server's error: asyncpg has it on the error, psycopg on the error's `diag`."""
    found = getattr(error, name, None) or getattr(getattr(error, "diag", None), name, None)
    return found if isinstance(found, str) else ""


def _scheduled_already(events: Sequence[Event], error: BaseException) -> EnqueueError:
    index, label = _which(events, _detail(error, "context"))
    if _detail(error, "constraint_name") == "scheduled_timer":
        return EnqueueError(
            f"{label} has the timer {events[index].timer!r}, and an event with this timer is scheduled already; cancel "
            "or reschedule that one, before you enqueue another"
        )
    return EnqueueError(
        f"{label} has the event_id {events[index].event_id}, and an event with it is scheduled already; "
        "give each event its own"
    )


def _which(events: Sequence[Event], context: str) -> tuple[int, str]:
    """The event that an error is about: its index, and what to call it."""
    if (line := _COPY_LINE.search(context)) is None or (len(events) == 1 and not getattr(events, "indexes", None)):
        return 0, "the event"
    index = int(line[1]) - 1
    indexes: Sequence[int] | None = getattr(events, "indexes", None)
    return index, f"events[{index if indexes is None else indexes[index]}]"


def _too_large(events: Sequence[Event], context: str) -> str:
    index, label = _which(events, context)
    return (
        f"{label} for topic {events[index].topic} has {size(events[index]):,} bytes of key, payload, headers and type, "
        "more than the outbox takes (1,000,000 unless changed); make the event smaller, or raise the outbox's limit "
        "(`relay migrate --max-event-bytes N`) and the topic's (max.message.bytes)"
    )


def _checked(schema: str) -> LiteralString:
    if not isinstance(schema, str) or not is_schema(schema):
        raise EnqueueError(
            f"schema: {schema!r} is not a valid schema name; a name has 1 to 63 lower-case letters, digits and "
            "underscores, begins with a letter or an underscore, and not with pg_"
        )
    return schema
