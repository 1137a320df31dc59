"""Tells of a session's commits, so that the relay can be woken up after them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from relay.enqueue.sqlalchemy_transaction import subject_of
from relay.errors import NotInTransactionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import SessionTransaction

    from relay.enqueue.sqlalchemy_transaction import Asynchronous, Synchronous


def on_commit(given: Synchronous | Asynchronous) -> Callable[[Callable[[], None]], None] | None:
    """A Session tells of its commits. A Connection does so too early, before them."""
    try:
        subject = subject_of(given)
    except NotInTransactionError:
        return None
    return _Commits.of(subject).note if isinstance(subject, Session) else None


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


class _Commits:
    """The transactions and savepoints of one session in which events were written, and whom to wake up for them."""

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._noted: dict[SessionTransaction, set[Callable[[], None]]] = {}
        event.listen(session, "after_commit", self._committed)
        event.listen(session, "after_transaction_end", self._ended)

    @classmethod
    def of(cls, session: Session) -> _Commits:
        found = _commits.get(session)
        if found is None:
            found = _commits[session] = cls(session)
        return found

    def note(self, wake: Callable[[], None]) -> None:
        session = self._session()
        if session is not None and (transaction := _innermost(session)) is not None:
            self._noted.setdefault(transaction, set()).add(wake)

    def _committed(self, session: Session) -> None:
        transaction = _innermost(session)
        wakes = self._noted.pop(transaction, None) if transaction is not None else None
        if transaction is None or wakes is None:
            return
        if transaction.nested and transaction.parent is not None:
            self._noted.setdefault(transaction.parent, set()).update(wakes)
        elif not (isinstance(session.bind, Connection) and session.bind.in_transaction()):
            # Else the session was part of somebody's transaction, as it is in tests that roll back.
            for wake in wakes:
                wake()

    def _ended(self, _session: Session, transaction: SessionTransaction) -> None:
        self._noted.pop(transaction, None)


_commits: weakref.WeakKeyDictionary[Session, _Commits] = weakref.WeakKeyDictionary()
