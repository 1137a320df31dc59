"""The types in the signatures of `relay.enqueue`, for type checkers alone: nothing imports this module at run time.

The clients' connections are described by their form, because not every client is installed. A checker takes a class of
a package that is not there for Any, and Any fits every overload. The modules of the single clients name the classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from datetime import datetime, timedelta
    from uuid import UUID

    from relay.enqueue.typed import EventType


class TypedEvent(Protocol):
    """An object whose class declares `__event__`."""

    @property
    def __event__(self) -> EventType: ...


class When(TypedDict, total=False):
    """When an event is due; one of both."""

    deliver_at: datetime | None
    delay: timedelta | float | None


class Schedule(When, total=False):
    """What may be said of an event that is given as a whole."""

    timer: str | None


class Fields(Schedule):
    """An event's fields beside its topic (see `relay.enqueue.Event`), and whether to wake the relay up."""

    key: bytes | str | None
    payload: bytes | str | None
    headers: NotRequired[Mapping[str, str] | None]
    type: NotRequired[str | None]
    event_id: NotRequired[UUID | None]
    wake_up: NotRequired[bool]


class Which(TypedDict, total=False):
    """A scheduled event; one of both."""

    timer: str | None
    event_id: UUID | None


class Due(Which, When):
    """A scheduled event, and when it is due from now on."""


class _Psycopg(Protocol):
    """psycopg's Connection and psycopg2's connection."""

    def commit(self) -> None: ...
    @property
    def info(self) -> Any: ...


class _SqlAlchemy(Protocol):
    """SQLAlchemy's Connection and Session."""

    def commit(self) -> None: ...
    def in_transaction(self) -> bool: ...
    def in_nested_transaction(self) -> bool: ...


class _SqlAlchemyScoped(Protocol):
    """SQLAlchemy's scoped_session."""

    def commit(self) -> None: ...
    def remove(self) -> None: ...
    @property
    def registry(self) -> Any: ...


class _Django(Protocol):
    """Django's connection of an alias, as connections["default"] gives it."""

    def validate_no_broken_transaction(self) -> Any: ...
    def ensure_connection(self) -> Any: ...


class _DjangoProxy(Protocol):
    """django.db.connection, whose attributes no checker knows."""

    def __getattr__(self, item: Any, /) -> Any: ...
    def __delattr__(self, name: Any, /) -> None: ...
    def __contains__(self, key: Any, /) -> Any: ...


class _Asyncpg(Protocol):
    """asyncpg's Connection."""

    def is_in_transaction(self) -> bool: ...
    def is_closed(self) -> bool: ...


class _AsyncpgProxy(Protocol):
    """asyncpg's connection from a pool, whose attributes no checker knows."""

    def __getattr__(self, attr: Any, /) -> Any: ...
    def _detach(self) -> Any: ...


class _PsycopgAsync(Protocol):
    """psycopg's AsyncConnection."""

    def commit(self) -> Awaitable[None]: ...
    @property
    def info(self) -> Any: ...


class _SqlAlchemyAsync(Protocol):
    """SQLAlchemy's AsyncConnection and AsyncSession."""

    def commit(self) -> Awaitable[None]: ...
    def in_transaction(self) -> bool: ...
    def in_nested_transaction(self) -> bool: ...


class _SqlAlchemyAsyncScoped(Protocol):
    """SQLAlchemy's async_scoped_session."""

    def commit(self) -> Awaitable[None]: ...
    def remove(self) -> Awaitable[None]: ...
    @property
    def registry(self) -> Any: ...


SyncConnection: TypeAlias = _Psycopg | _SqlAlchemy | _SqlAlchemyScoped | _Django | _DjangoProxy
AsyncConnection: TypeAlias = _Asyncpg | _AsyncpgProxy | _PsycopgAsync | _SqlAlchemyAsync | _SqlAlchemyAsyncScoped
