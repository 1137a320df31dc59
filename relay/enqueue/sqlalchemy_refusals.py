"""What is said when SQLAlchemy's transaction cannot take an event, in the words of the caller's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import InvalidRequestError, MissingGreenlet
from sqlalchemy.orm import Session

from relay.enqueue.contract import busy, ours
from relay.errors import EnqueueError, NotInTransactionError, RelayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from relay.enqueue.event import Event


def refusal_of(error: Exception, events: Sequence[Event], given: object, connection: Connection) -> RelayError | None:
    """What to raise instead of an error of SQLAlchemy's or the driver's; None if it is to stay as it is."""
    if isinstance(error, RelayError):
        return None
    if isinstance(error, InvalidRequestError):
        return not_usable(error)
    if isinstance(getattr(error, "orig", None), MissingGreenlet):
        return _not_awaited()
    if "another operation is in progress" in str(error):
        return busy()
    return ours(error, events, how_to_roll_back(given if isinstance(given, Session) else connection))


def _not_awaited() -> EnqueueError:
    """The refusal of the synchronous part of an asynchronous object, outside of its run_sync()."""
    return EnqueueError(
        "this is the synchronous part of an AsyncSession or AsyncConnection, and nothing was enqueued; pass the "
        "asynchronous one and await the call, or call this in a function that you give to its run_sync()"
    )


def not_usable(error: InvalidRequestError) -> EnqueueError:
    """The refusal for a transaction that SQLAlchemy itself says is over."""
    if isinstance(error, MissingGreenlet):
        return _not_awaited()
    text = " ".join(str(error).split(" (Background on this error", 1)[0].split())
    return NotInTransactionError(f"nothing was enqueued; SQLAlchemy says: {text}")


def what_to_do(subject: Connection | Session) -> str:
    noun = "session" if isinstance(subject, Session) else "connection"
    return f"write both inside `{_block(subject)} {noun}.begin():`"


def how_to_roll_back(subject: Connection | Session) -> str:
    noun = "session" if isinstance(subject, Session) else "connection"
    word = "await " if _block(subject) == "async with" else "call "
    return f"leave the block `{_block(subject)} {noun}.begin():` with the error, or {word}{noun}.rollback()"


def _block(subject: Connection | Session) -> str:
    bind: Any = subject.bind if isinstance(subject, Session) else subject
    return "async with" if bind is not None and bind.dialect.is_async else "with"
