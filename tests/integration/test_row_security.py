"""Row level security on the outbox's tables: an error or a refusal, and never a loss."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from relay.errors import SchemaError
from relay.postgres.admin.migrate import make_roles
from relay.postgres.checks import check_row_security
from relay.postgres.connect import drop, open_connection
from relay.postgres.errors import PrivilegeError
from relay.postgres.flow.segments import ensure_segments
from tests.support.postgres.outbox import add_event, migrated
from tests.support.postgres.segments import prune

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def owner(database: str) -> AsyncIterator[asyncpg.Connection]:
    """The connection of the outbox's owner; there is an event."""
    async with migrated(database) as connection:
        await make_roles(connection)
        await add_event(connection)
        yield connection


@pytest.fixture
async def relay(owner: asyncpg.Connection, database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the relay's, of a user with the relay's role."""
    name = f"user_{secrets.token_hex(4)}"
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' IN ROLE outbox_relay")
    parts = urlsplit(database)
    dsn = urlunsplit(parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}"))
    connection = await open_connection(dsn, 10, "a test")
    yield connection
    drop(connection)
    await owner.execute(f"DROP ROLE {name}")


async def test_the_start_names_the_tables_that_it_applies_to(
    owner: asyncpg.Connection, relay: asyncpg.Connection
) -> None:
    await check_row_security(relay)
    await owner.execute("ALTER TABLE outbox.event ENABLE ROW LEVEL SECURITY")
    await owner.execute("ALTER TABLE outbox.held ENABLE ROW LEVEL SECURITY")
    with pytest.raises(SchemaError, match=r"role user_\w+ on outbox\.event, outbox\.held, .* BYPASSRLS"):
        await check_row_security(relay)
    # The owner is not bound by it.
    await check_row_security(owner)
    name = await relay.fetchval("SELECT current_user")
    await owner.execute(f"ALTER ROLE {name} BYPASSRLS")
    await check_row_security(relay)


@pytest.mark.parametrize("policy", [None, "CREATE POLICY another ON outbox.event USING (topic = 'another')"])
async def test_events_are_not_hidden_and_not_lost(
    owner: asyncpg.Connection, relay: asyncpg.Connection, policy: str | None
) -> None:
    await owner.execute("ALTER TABLE outbox.event ENABLE ROW LEVEL SECURITY")
    if policy is not None:
        await owner.execute(policy)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await relay.fetch("SELECT id FROM outbox.event")
    # Even if everything had been passed over.
    await owner.execute("UPDATE outbox.lane SET position = 5000001")
    await owner.execute("SELECT setval('outbox.event_id', 5000000)")
    await ensure_segments(relay, 1000, 1)
    assert await relay.fetchval("SELECT outbox.drop_segment(1)") is False
    with pytest.raises(PrivilegeError, match="row-level security"):
        await prune(relay, 0)
    assert await owner.fetchval("SELECT count(*) FROM outbox.event") == 1


async def test_no_segment_is_dropped_where_row_security_binds_the_owner_too(owner: asyncpg.Connection) -> None:
    await owner.execute(
        "CREATE ROLE plain; GRANT ALL ON SCHEMA outbox TO plain;"
        "UPDATE outbox.lane SET position = 5000001; SELECT setval('outbox.event_id', 5000000)"
    )
    try:
        await ensure_segments(owner, 1000, 1)
        for table in ("event", "event_1", "receipt", "receipt_1"):
            await owner.execute(f"ALTER TABLE outbox.{table} OWNER TO plain")
            await owner.execute(f"ALTER TABLE outbox.{table} ENABLE ROW LEVEL SECURITY")
            await owner.execute(f"ALTER TABLE outbox.{table} FORCE ROW LEVEL SECURITY")
        for function in ("drop_segment", "retire_segment", "copy_kept", "unsettled_event"):
            await owner.execute(f"ALTER FUNCTION outbox.{function} OWNER TO plain")
        await owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA outbox TO plain")
        await owner.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO plain")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await owner.fetchval("SELECT outbox.drop_segment(1)")
        assert await owner.fetchval("SELECT count(*) FROM outbox.event") == 1
    finally:
        await owner.execute("DROP SCHEMA outbox CASCADE; DROP OWNED BY plain; DROP ROLE plain")
