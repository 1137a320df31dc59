"""The examples of relay/enqueue/README.md for each client, and for typed events, run as they stand there."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from decimal import Decimal
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import django.db.models
import django.http
import pytest

from relay.enqueue import enqueue, wake_up
from tests.support.documents import blocks, page
from tests.support.enqueue.clients import CLIENTS
from tests.support.enqueue.registry import running_stub
from tests.support.postgres.outbox import migrated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncpg

pytestmark = pytest.mark.usefixtures("with_outbox")

PAGE = page("relay/enqueue/README.md")
SECTIONS = dict(re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
OF_CLIENTS = {
    "psycopg": "psycopg",
    "psycopg, asynchronous": "psycopg-async",
    "psycopg2": "psycopg2",
    "SQLAlchemy": "sqlalchemy-session-psycopg",
    "SQLAlchemy, asynchronous": "sqlalchemy-async-session-asyncpg",
    "Django": "django",
}
ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, state text); INSERT INTO orders VALUES (42, 'placed')"


def names_of(section: str) -> dict[str, Any]:
    """What the program of a section defines."""
    (program,) = blocks(SECTIONS[section], "python")
    found: dict[str, Any] = {"__name__": __name__}
    exec(program, found)
    return found


async def events(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """Key, payload and type of all events."""
    return [tuple(row) for row in await connection.fetch("SELECT key, payload, type FROM outbox.event ORDER BY id")]


@pytest.mark.parametrize("section", OF_CLIENTS)
async def test_the_example_of_each_client_writes_the_change_and_the_event(database: str, section: str) -> None:
    pay = names_of(section)["pay"]
    client = CLIENTS[OF_CLIENTS[section]]()
    async with migrated(database) as connection:
        await connection.execute(ORDERS)
        async with client.opened(database):
            await client.call(pay, *([] if section == "Django" else [client.connection]), 42)
        assert await events(connection) == [(b"42", b"paid", "order.paid")]
        assert await connection.fetchval("SELECT state FROM orders") == "paid"


@pytest.mark.parametrize(("number", "name"), [(0, "sqlalchemy-session-psycopg"), (1, "psycopg")])
async def test_the_examples_of_wake_ups_wake_the_relay_up(
    database: str, number: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_POSTGRES_DSN", database)
    programs = blocks(SECTIONS["Wake-ups"], "python")
    found: dict[str, Any] = {"__name__": __name__}
    client = CLIENTS[name]()
    heard = asyncio.Event()
    async with migrated(database) as connection:
        await connection.execute(ORDERS)
        await connection.add_listener("outbox", lambda *_: heard.set())
        try:
            for program in programs[: number + 1]:
                exec(program, found)
            async with client.opened(database):
                await client.call(found["pay"], client.connection, 42)
            await asyncio.wait_for(heard.wait(), 30)
        finally:
            wake_up.stop()
        assert await events(connection) == [(b"42", b"paid", "order.paid")]


async def test_the_example_of_a_typed_event_writes_json(database: str) -> None:
    async with migrated(database) as connection:
        await connection.execute(ORDERS)
        await names_of("Typed events")["place"](connection, 43, Decimal("9.90"))
        assert await events(connection) == [(b"43", b'{"order_id":43,"total":"9.90"}', "order.placed")]


async def test_the_example_of_a_timer_schedules_reschedules_and_cancels(database: str) -> None:
    names = names_of("Timers")
    async with migrated(database) as connection:
        await connection.execute(ORDERS)
        await names["reserve"](connection, 42)
        due = "SELECT round(extract(epoch FROM deliver_at - now()) / 60) FROM outbox.scheduled"
        assert await connection.fetchval(due) == 15
        await connection.execute("UPDATE outbox.scheduled SET deliver_at = now()")
        assert await names["extend"](connection, 42) is True
        assert await connection.fetchval(due) == 15
        assert await names["pay"](connection, 42) is True
        assert await names["pay"](connection, 42) is False
        assert await names["extend"](connection, 42) is False
        assert await events(connection) == []


async def test_the_example_of_many_events_writes_one_for_each_change(database: str) -> None:
    found: dict[str, Any] = {}
    exec(blocks(SECTIONS["With asyncpg"], "python")[1], found)
    async with migrated(database) as connection:
        await connection.execute(f"{ORDERS}, (43, 'paid'), (44, 'paid')")
        await found["ship"](connection)
        shipped = [(b"43", b"shipped", "order.shipped"), (b"44", b"shipped", "order.shipped")]
        assert sorted(await events(connection)) == shipped


async def answered(app: Any, path: str, when_it_answers: Callable[[], Awaitable[None]]) -> int:
    """The status of an application's answer to a POST."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            await when_it_answers()

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
    place = {"path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": []}
    await app(scope | place | {"server": ("test", 80), "client": ("test", 1)}, receive, send)
    return statuses[0]


async def test_the_example_of_fastapi_has_committed_when_it_answers(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi")
    monkeypatch.setenv("RELAY_POSTGRES_DSN", database)
    found = names_of("FastAPI")
    committed: list[list[tuple[Any, ...]]] = []
    async with migrated(database) as connection:
        await connection.execute(ORDERS)

        async def look() -> None:
            committed.append(await events(connection))

        try:
            assert await answered(found["app"], "/orders/41/pay", look) == 404
            assert await answered(found["app"], "/orders/42/pay", look) == 204
        finally:
            await found["engine"].dispose()
    assert committed == [[], [(b"42", b"paid", "order.paid")]]


async def test_the_example_of_a_view_of_django_writes_the_change_and_the_event(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = CLIENTS["django"]()
    async with migrated(database) as connection:
        await connection.execute(ORDERS)
        async with client.opened(database):
            shop = ModuleType("shop.models")
            vars(shop)["Order"] = order_model()
            monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
            monkeypatch.setitem(sys.modules, "shop.models", shop)
            pay = names_of("A Django view")["pay"]
            request = django.http.HttpRequest()
            request.method = "POST"
            assert (await client.call(pay, request, 41)).status_code == 404
            assert (await client.call(pay, request, 42)).status_code == 204
        assert await events(connection) == [(b"42", b"paid", "order.paid")]
        assert await connection.fetchval("SELECT state FROM orders") == "paid"


@cache
def order_model() -> type[django.db.models.Model]:
    """A model of the table `orders`. Django takes each only once."""

    class Order(django.db.models.Model):
        id: Any = django.db.models.BigIntegerField(primary_key=True)
        state: Any = django.db.models.TextField()

        class Meta:
            app_label = "shop"
            db_table = "orders"

    return Order


async def test_the_example_with_a_registry_writes_an_event_with_the_id_of_its_schema(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastavro")
    found = names_of("With a schema registry")
    async with migrated(database) as connection:
        with running_stub() as stub:
            monkeypatch.setenv("REGISTRY_URL", stub.url)
            found["start"]()
        async with connection.transaction():
            await enqueue(connection, found["OrderPlaced"](42))
        assert await events(connection) == [(b"42", b"\0" + (300).to_bytes(4, "big") + b"\x54", "order.placed")]


async def test_the_recipe_for_large_things_enqueues_a_claim_check(database: str, tmp_path: Path) -> None:
    async with migrated(database) as connection:
        await connection.execute(ORDERS)
        await names_of("What not to do")["attach"](connection, 42, b"large", tmp_path)
        ((_, payload, _),) = await events(connection)
    name = json.loads(payload)["document"]
    assert (tmp_path / name).read_bytes() == b"large"
