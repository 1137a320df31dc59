"""A role that may create schemas in the database gains nothing from whoever works with the outbox there."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from click.testing import CliRunner

from relay.cli import main
from relay.enqueue import Event
from relay.postgres.connect import open_connection
from relay.postgres.flow.housekeeping import HousekeepingConnection
from tests.support.postgres.attacker import Attacker, attacker_of, forget, shadow_all, shadow_for
from tests.support.postgres.outbox import add_event, add_failure, connected
from tests.support.postgres.receipts import add_receipts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SQL = "\n".join(file.read_text() for file in Path(__file__).parents[2].joinpath("sql").rglob("*.sql"))
FUNCTIONS = sorted(set(re.findall(r"\b([a-z_][a-z0-9_]*)\(", SQL)))
OPERATORS = ["=", "<>", "<", ">", "<=", ">=", "||", "+", "-", "*", "/", "&", "->", "->>", "?", "~", "!~", "~~", "@>"]


@pytest.fixture
async def observer(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection that no attack concerns."""
    async with connected(database) as connection:
        await connection.execute("SET search_path = pg_catalog")
        yield connection


@pytest.fixture
async def attacker(observer: asyncpg.Connection, database: str) -> AsyncIterator[Attacker]:
    """Has schemas for whoever comes now, and the database's search path names one of them first."""
    attacker = await attacker_of(observer, database)
    await shadow_for(attacker, str(urlsplit(database).username))
    assert await shadow_all(attacker, FUNCTIONS, OPERATORS) > 500
    name = await observer.fetchval("SELECT quote_ident(current_database())")
    await observer.execute(f"""ALTER DATABASE {name} SET search_path = hostile, "$user", public, pg_catalog""")
    yield attacker
    assert not await attacker.gained(observer)
    await forget(observer, attacker)


def run(dsn: str, *arguments: str) -> str:
    """Run a command, which must work; returns what it prints."""
    result = CliRunner().invoke(main, list(arguments), env={"RELAY_POSTGRES_DSN": dsn})
    assert result.exit_code == 0, (arguments, result.output)
    return result.output


async def test_the_traps_are_sprung_by_statements_that_are_not_qualified(
    attacker: Attacker, observer: asyncpg.Connection, database: str
) -> None:
    async with connected(database) as connection:
        for statement in (
            "SELECT quote_ident('a')",
            "SELECT 1 + 1",
            "SELECT 'x'::text",
            "SELECT unnest('{1}'::bigint[])",
        ):
            with pytest.raises(asyncpg.RaiseError, match="trapped"):
                await connection.execute(statement)
            assert await attacker.gained(observer)


async def test_an_exact_match_in_a_schema_of_the_users_name_springs_a_trap(
    attacker: Attacker, observer: asyncpg.Connection, database: str
) -> None:
    async with connected(database) as connection:
        await connection.execute("""SET search_path = "$user", public""")
        with pytest.raises(asyncpg.RaiseError, match="trapped: hashtextextended"):
            await connection.execute("SELECT hashtextextended('outbox.migration', 0)")
    assert await attacker.gained(observer)


@pytest.mark.parametrize("path", ["""hostile, "$user", public, pg_catalog""", """"$user", public"""])
async def test_commands_of_people_spring_none(
    attacker: Attacker, observer: asyncpg.Connection, database: str, path: str
) -> None:
    name = await observer.fetchval("SELECT quote_ident(current_database())")
    await observer.execute(f"ALTER DATABASE {name} SET search_path = {path}")
    await asyncio.to_thread(_run_everything, database)
    await observer.execute("SELECT outbox.enqueue('orders', 'k', 'x')")
    assert json.loads(await asyncio.to_thread(run, database, "status", "--json"))["newest_id"] == 1


def _run_everything(dsn: str) -> None:
    run(dsn, "migrate", "--roles", "--max-event-bytes", "5000")
    run(dsn, "migrate", "--check")
    run(dsn, "status")
    run(dsn, "lanes")
    run(dsn, "lanes", "release", "3", "--reason", "x")
    run(dsn, "failed", "list")
    run(dsn, "failed", "actions")
    run(dsn, "replay", "list")
    run(dsn, "export")


async def test_the_printed_sql_springs_none(attacker: Attacker, database: str) -> None:
    printed = await asyncio.to_thread(
        lambda: CliRunner().invoke(main, ["migrate", "--sql"], env={"RELAY_POSTGRES_DSN": database}).output
    )
    async with connected(database) as connection:
        await connection.execute(printed)
    await asyncio.to_thread(run, database, "migrate", "--check")


PATHS = ("""hostile, "$user", public, pg_catalog""", """"$user", public""", "hostile")


async def test_enqueueing_on_a_callers_connection_springs_none(attacker: Attacker, database: str) -> None:
    pytest.importorskip("django")
    from tests.support.enqueue.clients import CLIENTS

    await asyncio.to_thread(run, database, "migrate")
    # SQLAlchemy's own first statements on a connection do spring traps: they must not come from the database's path.
    await _with_the_usual_path(database)
    events = [Event("orders", key="k", payload="x", headers={"a": "b"}, type="t") for _ in range(3)]
    tried = 0
    for make_client in CLIENTS.values():
        client = make_client()
        # Some have given up this version of PostgreSQL.
        with suppress(pytest.skip.Exception):
            async with client.opened(database):
                for path in PATHS:
                    async with client.transaction():
                        await client.execute(f"SET LOCAL search_path = {path}")
                        await client.enqueue(headers={"a": "b"}, type="t")
                        await client.enqueue_many(events)
            tried += 1
    async with connected(database) as connection:
        written = await connection.fetchval("SELECT pg_catalog.count(*) FROM outbox.event")
    assert tried >= len(CLIENTS) - 1
    assert written == 4 * len(PATHS) * tried


async def _with_the_usual_path(dsn: str) -> None:
    async with connected(dsn) as connection:
        await connection.execute("SET search_path = pg_catalog")
        name = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(f"ALTER DATABASE {name} RESET search_path")


async def test_the_functions_for_writers_spring_none_on_a_callers_connection(attacker: Attacker, database: str) -> None:
    await asyncio.to_thread(run, database, "migrate")
    async with connected(database) as connection:
        for path in PATHS:
            await connection.execute(f"SET search_path = {path}")
            for trace in ("", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
                await connection.execute(f"SET outbox.traceparent = '{trace}'")
                await connection.execute("INSERT INTO outbox.event (topic) VALUES ('orders')")
                for call in _calls():
                    await connection.execute(f"SELECT {call}")
        # The search path must not be gone, either: it is the caller's.
        assert await connection.fetchval("SHOW search_path") == "hostile"


def _calls() -> list[str]:
    return [
        "outbox.enqueue('orders', 'k', 'x')",
        "outbox.enqueue('orders', NULL, NULL, NULL, 't')",
        "outbox.enqueue('orders', 'k', pg_catalog.jsonb_build_object('a', 1))",
        "outbox.enqueue('orders', 'k', payload => 'named', type => 'T')",
        "outbox.trace_headers()",
        "outbox.with_trace('{}')",
        "outbox.wake_up()",
        "outbox.max_event_bytes()",
        "outbox.replay_needs(1, 5)",
        "outbox.ids_needed(1, 5)",
        "outbox.unsettled_event(1)",
        "outbox.drop_segment(1)",
        "outbox.retire_segment(1, pg_catalog.now(), pg_catalog.now(), 0.5)",
        "outbox.forget_actions(1, 1)",
    ]


async def test_the_triggers_spring_none_on_a_callers_connection(
    attacker: Attacker, observer: asyncpg.Connection, database: str
) -> None:
    await asyncio.to_thread(run, database, "migrate")
    await observer.execute(
        "CREATE TABLE public.outboxevent (id uuid, aggregatetype text, aggregateid text, type text, payload jsonb);"
        "CREATE TABLE public.customer (id bigint, name text, photo bytea, at timestamptz);"
        "CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON public.customer"
        " FOR EACH ROW EXECUTE FUNCTION outbox.capture('customers', 'id', 'name')"
    )
    await asyncio.to_thread(run, database, "migrate", "--from-debezium", "public.outboxevent")
    await asyncio.to_thread(run, database, "migrate", "--from-debezium", "public.outboxevent", "--apply")
    async with connected(database) as connection:
        for path in PATHS:
            await connection.execute(f"SET search_path = {path}")
            await connection.execute(
                "INSERT INTO public.outboxevent VALUES"
                " ('7c9e6679-7425-40de-944b-e07fc1f90ae7', 'order', '1', 'placed', '{}');"
                "INSERT INTO public.customer VALUES (1, 'a', 'b', '2026-01-01'); DELETE FROM public.customer"
            )
    assert await observer.fetchval("SELECT count(*) FROM outbox.event") == 3 * len(PATHS)


async def test_segments_are_made_and_dropped_and_spring_none(
    attacker: Attacker, observer: asyncpg.Connection, database: str
) -> None:
    await asyncio.to_thread(run, database, "migrate")
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT outbox.add_segment(5000001, 5000011)") == "event_5000001"
        await connection.execute("SELECT outbox.set_max_event_bytes(3000)")
    needed = [await add_event(observer, key) for key in ("a", "b", "c")]
    await add_receipts(observer)
    await add_failure(observer, needed[0])
    await observer.execute("SELECT setval('outbox.event_id', 5000005); UPDATE outbox.lane SET position = 5000001")
    relay = await open_connection(database, 10, "a test")
    housekeeping: Any = HousekeepingConnection(relay, "outbox")
    assert await housekeeping.ensure_segments(1000, 1) == ["event_5000011"]
    for kept in (1, 0):
        (due,) = await housekeeping.due_segments(0.0)
        assert await housekeeping.retire_segment(due, 0.0, 0.0) == kept
        await observer.execute("UPDATE outbox.failure SET state = 'discarded'")
    assert await housekeeping.forget_actions(86400.0) is False
    assert await housekeeping.check_kept(10) == []
    await relay.close()


async def test_what_the_outbox_has_stored_calls_nothing_of_others(attacker: Attacker, database: str) -> None:
    """Defaults, checks, the generated column and views: what their names meant when they were made."""
    await asyncio.to_thread(run, database, "migrate", "--roles")
    async with connected(database) as connection:
        await connection.execute("SET search_path = pg_catalog")
        foreign = await connection.fetch(
            "SELECT d.classid::regclass, pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)"
            " FROM pg_depend AS d"
            " JOIN LATERAL pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) AS o ON true"
            " JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) AS by ON true"
            " WHERE by.identity ~ '\\moutbox\\.' AND o.schema IN ('hostile', 'public')"
        )
    assert foreign == []
