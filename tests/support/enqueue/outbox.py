"""An outbox that all tests of a module have in common: they empty it instead of making one each."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from relay.postgres.admin.migrate import make_roles
from tests.support.postgres.outbox import migrated
from tests.support.servers import shared as servers

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, state text NOT NULL)"


@contextmanager
def shared_outbox(postgres: servers.Postgres, *statements: str) -> Iterator[str]:
    """The DSN of a database with an outbox, its roles and a table of orders, in which `statements` were run."""
    name = servers.create_outbox(postgres)
    dsn = servers.dsn_of(postgres, name)
    asyncio.run(_prepare(dsn, statements))
    try:
        yield dsn
    finally:
        servers.drop_database(postgres, name)


async def _prepare(dsn: str, statements: tuple[str, ...]) -> None:
    async with migrated(dsn) as connection:
        await make_roles(connection)
        for statement in (ORDERS, *statements):
            await connection.execute(statement)
