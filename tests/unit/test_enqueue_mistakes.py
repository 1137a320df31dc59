"""What people pass in place of a connection or an event is refused with the code that they need."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import asyncpg
import asyncpg.transaction
import psycopg
import psycopg2.extensions
import psycopg2.pool
import pytest
from asyncpg.pool import PoolConnectionProxy
from django.db import connection, transaction
from sqlalchemy import create_engine
from sqlalchemy.engine.base import NestedTransaction
from sqlalchemy.ext.asyncio import AsyncSession, AsyncTransaction, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

from relay.enqueue import EnqueueError, Event, EventType, cancel, enqueue, enqueue_many, reschedule

if TYPE_CHECKING:
    from collections.abc import Callable

EVENT = Event("orders", key="k", payload="x")


@dataclass(frozen=True)
class OrderPlaced:
    """A typed event."""

    order_id: int
    __event__ = EventType("orders", key="order_id")


def engine() -> Any:
    """An engine, which connects to nothing yet."""
    return create_engine("postgresql+psycopg://127.0.0.1:1/x")


def async_engine() -> Any:
    """The same, asynchronous."""
    return create_async_engine("postgresql+asyncpg://127.0.0.1:1/x")


def bare(kind: Any) -> Callable[[], Any]:
    """Makes an object of a class that only a connection makes."""
    return lambda: kind.__new__(kind)


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: asyncpg.create_pool("postgresql://127.0.0.1:1/x"), "write `async with pool.acquire() as connection, "),
    (bare(asyncpg.transaction.Transaction), "a transaction is not a connection"),
    (bare(psycopg.Transaction), "a transaction is not a connection"),
    (bare(psycopg.AsyncTransaction), "a transaction is not a connection"),
    (bare(psycopg2.pool.ThreadedConnectionPool), "write `connection = pool.getconn()` and `with connection:`"),
    (engine, "write `with engine.begin() as connection:`, and pass that connection"),
    (lambda: engine().begin(), "engine.begin() was not entered; write `with engine.begin() as connection:`"),
    (bare(NestedTransaction), "a transaction is not a connection"),
    (lambda: sessionmaker(engine()), "write `with factory.begin() as session:`"),
    (lambda: sessionmaker(engine()).begin(), "factory.begin() was not entered; write `with factory.begin() as session"),
    (bare(SessionTransaction), "a transaction is not a connection; pass the connection or session"),
    (async_engine, "write `async with engine.begin() as connection:`"),
    (lambda: async_engine().begin(), "engine.begin() was not entered; write `async with engine.begin() as conn"),
    (bare(AsyncTransaction), "a transaction is not a connection"),
    (lambda: AsyncSession().begin(), "a transaction is not a connection; pass the connection or session"),
    (lambda: async_sessionmaker(async_engine()), "write `async with factory.begin() as session:`"),
    (lambda: async_sessionmaker(async_engine()).begin(), "write `async with factory.begin() as session:`"),
    (transaction.atomic, "transaction.atomic() is not a connection; pass django.db.connection inside its block"),
    (lambda: None, "the connection is None; pass the connection of your transaction, and not what `as` names"),
    (lambda: "orders", "the connection comes first, as in enqueue(connection, topic, key=..., payload=...)"),
    (lambda: EVENT, "the connection comes first"),
    (lambda: OrderPlaced(42), "the connection comes first"),
    (object, "cannot enqueue on an object of the class object; pass the connection of your transaction: asyncpg's"),
    (object, "(pip install asyncpg, 'psycopg[binary]', psycopg2-binary, sqlalchemy or django)"),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
async def test_what_is_no_connection_is_refused_with_the_way_to_one(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(EnqueueError, match=re.escape(message)):
        enqueue(make(), EVENT)
    with pytest.raises(EnqueueError, match=re.escape(message)):
        enqueue_many(make(), [EVENT])


@pytest.mark.parametrize(("name", "word"), [("ConnectionPool", "with"), ("AsyncConnectionPool", "async with")])
async def test_a_pool_of_psycopg_is_refused_with_its_own_code(name: str, word: str) -> None:
    pool = getattr(pytest.importorskip("psycopg_pool"), name)("postgresql://127.0.0.1:1/x", open=False)
    with pytest.raises(EnqueueError, match=rf"write `{word} pool\.connection\(\) as connection, connection\.trans"):
        enqueue(pool, EVENT)
    with pytest.raises(EnqueueError, match=rf"write `{word} pool\.connection\(\) as connection:`"):
        enqueue(pool.connection(), EVENT)


CLIENTS: dict[str, Callable[[], Any]] = {
    "asyncpg": bare(PoolConnectionProxy),
    "psycopg": bare(psycopg.Connection),
    "psycopg2": bare(psycopg2.extensions.connection),
    "sqlalchemy": Session,
    "django": lambda: connection,
}
"""A connection for each client's module, which is connected to nothing."""


CALLS: list[Callable[[Any, Any], Any]] = [
    lambda module, connection: module.enqueue(connection, EVENT),
    lambda module, connection: module.enqueue_many(connection, [EVENT]),
    lambda module, connection: module.cancel(connection, timer="t"),
    lambda module, connection: module.reschedule(connection, timer="t", delay=1),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("client", ["asyncpg", "psycopg", "psycopg2", "sqlalchemy", "django"])
async def test_the_module_of_one_client_refuses_the_same_and_what_is_another_clients(client: str, call: Any) -> None:
    module = import_module(f"relay.enqueue.{client}")
    for make, message in MISTAKES:
        with pytest.raises(EnqueueError, match=re.escape(message)):
            call(module, make())
    theirs, other = ("asyncpg", bare(PoolConnectionProxy)) if client == "sqlalchemy" else ("sqlalchemy", Session)
    with pytest.raises(EnqueueError, match=rf"relay.enqueue.{client} takes .* function of relay.enqueue.{theirs}, or"):
        call(module, other())


@pytest.mark.parametrize("event", [EVENT, OrderPlaced(42)])
@pytest.mark.parametrize("beside", ["key", "headers", "type"])
def test_an_event_that_is_given_as_a_whole_has_its_own_fields(event: Any, beside: str) -> None:
    with pytest.raises(EnqueueError, match=rf"{beside} cannot be given beside an event, .* only deliver_at, delay"):
        enqueue(Session(), event, **{beside: "x"})  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", [Event, OrderPlaced])
def test_a_class_is_refused_in_place_of_its_object(kind: Any) -> None:
    with pytest.raises(EnqueueError, match=rf"{kind.__name__} is a class; pass an object of it, {kind.__name__}\("):
        enqueue(Session(), kind)
    with pytest.raises(EnqueueError, match=r"events\[0\]: .* is a class"):
        enqueue_many(Session(), [kind])


def test_a_forgotten_connection_is_what_the_refusal_is_about() -> None:
    with pytest.raises(EnqueueError, match="the connection comes first"):
        enqueue("orders", key="k", payload="x")  # type: ignore[call-overload]
    with pytest.raises(EnqueueError, match="topic must be a str, not NoneType"):
        enqueue(Session(), key="k", payload="x")  # type: ignore[call-overload]


def test_a_call_that_nobody_awaits_is_called_what_the_caller_wrote() -> None:
    for call, name in (
        (enqueue(AsyncSession(), EVENT), "enqueue"),
        (enqueue_many(AsyncSession(), [EVENT]), "enqueue_many"),
        (cancel(AsyncSession(), timer="t"), "cancel or reschedule"),
        (reschedule(AsyncSession(), timer="t", delay=1), "cancel or reschedule"),
    ):
        assert getattr(call, "__qualname__", "") == name
        call.close()


def test_the_library_alone_says_what_its_commands_need() -> None:
    program = (
        "import sys; sys.modules['click'] = None; sys.argv = ['relay', 'migrate']; import relay.__main__ as r; r.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "relay: the package click is not installed; the library alone (pip install --no-deps) has no commands: "
        "`pip install outbox-relay` adds what they need\n"
    )


WRONG_CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("cancel", {"name": "t"}, "cancel() got an unexpected keyword argument 'name'"),
    ("reschedule", {"name": "t"}, "reschedule() got an unexpected keyword argument 'name'"),
    ("enqueue", {"topic": "orders", "key": "k"}, "enqueue() missing 1 required keyword-only argument: 'payload'"),
    ("enqueue", {"topic": "orders", "key": "k", "payload": "x", "ttl": 1}, "enqueue() got an unexpected keyword arg"),
    ("enqueue", {"topic": "orders"}, "enqueue() missing 2 required keyword-only arguments: 'key' and 'payload'"),
]


@pytest.mark.parametrize("module", ["relay.enqueue", *(f"relay.enqueue.{client}" for client in CLIENTS)])
@pytest.mark.parametrize(("function", "arguments", "message"), WRONG_CALLS)
def test_a_wrong_call_is_refused_in_the_name_of_the_function_that_was_called(
    module: str, function: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError) as raised:
        getattr(import_module(module), function)(CLIENTS.get(module.rpartition(".")[2], Session)(), **arguments)
    assert str(raised.value).startswith(message)
    assert raised.value.__cause__ is None
    shown = "".join(format_exception(raised.value))
    assert "During handling" not in shown
    assert "Event.__init__" not in shown


def test_an_error_of_what_a_caller_gives_stays_as_it_is() -> None:
    class Odd(dict[str, str]):
        def items(self) -> Any:
            raise TypeError("Event.__init__() of somebody else")

    with pytest.raises(TypeError, match="somebody else") as raised:
        enqueue(Session(), "orders", key="k", payload="x", headers=Odd(a="b"))
    assert "in items" in "".join(format_exception(raised.value))
