"""The PostgreSQL of the tests of single parts, in which nothing happens but what they do, and an outbox in it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from tests.support.postgres.outbox import migrated
from tests.support.servers import shared as servers

if TYPE_CHECKING:
    from collections.abc import Iterator

# An environment that is older than the library's clients leaves their tests out: pip install -e '.[dev]'.
if not all(find_spec(name) for name in ("django", "psycopg", "psycopg2", "sqlalchemy")):
    collect_ignore = ["test_enqueue_clients.py", "test_enqueue_contract.py", "test_enqueue_examples.py"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """Without autovacuum, which takes transaction ids and snapshots whenever it likes; tests count both."""
    with (
        servers.server_folder() as folder,
        servers.postgres_for_the_session(folder, {"autovacuum": "off"}) as server,
    ):
        yield server


@pytest.fixture
async def outbox(database: str, with_outbox: None) -> str:
    """The DSN of a database with an outbox."""
    async with migrated(database):
        return database
