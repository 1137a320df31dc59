"""The examples of relay/enqueue/README.md for each client, and for typed events, run as they stand there."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.documents import blocks, page
from tests.support.enqueue.clients import CLIENTS
from tests.support.enqueue.registry import running_stub
from tests.support.postgres.outbox import migrated

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

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


async def test_the_example_of_a_typed_event_writes_json(database: str) -> None:
    async with migrated(database) as connection:
        await connection.execute(ORDERS)
        await names_of("Typed events")["place"](connection, 43, Decimal("9.90"))
        assert await events(connection) == [(b"43", b'{"order_id":43,"total":"9.90"}', "order.placed")]


def test_the_example_with_a_registry_registers_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastavro")
    with running_stub() as stub:
        monkeypatch.setenv("REGISTRY_URL", stub.url)
        assert names_of("With a schema registry")["placed"].id == 300


async def test_the_recipe_for_large_things_enqueues_a_claim_check(database: str, tmp_path: Path) -> None:
    async with migrated(database) as connection:
        await connection.execute(ORDERS)
        await names_of("What not to do")["attach"](connection, 42, b"large", tmp_path)
        ((_, payload, _),) = await events(connection)
    name = json.loads(payload)["document"]
    assert (tmp_path / name).read_bytes() == b"large"
