"""Least privilege: what each role was granted is enough for its work, and nothing of it can be taken away.

A statement is planned as the role: EXPLAIN asks for the privileges that its execution would ask for, and does nothing.
What is asked for only while a statement runs, in defaults, functions and triggers, is tried by running it.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from asyncpg import exceptions as pg

import relay
from relay.postgres.admin.migrate import make_roles
from relay.postgres.sql import _queries, query
from tests.support.postgres.outbox import migrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FOLDER = Path(relay.__file__).parent / "postgres"

# The schema's owner runs these, who needs no grant.
OF_THE_OWNER = {path.name for path in (FOLDER / "admin").glob("migrate*.py")}

RUN = {
    "outbox_writer": {
        "insert": "INSERT INTO outbox.event (event_id, topic, key, payload, headers, type)"
        " VALUES (gen_random_uuid(), 'orders', 'k', 'x', '{}', 't')",
        "enqueue text": "SELECT outbox.enqueue('orders', 'k', 'x', '{}'::jsonb, 't')",
        "enqueue jsonb": "SELECT outbox.enqueue('orders', 'k', '{}'::jsonb, '{}'::jsonb, 't')",
        "enqueue traced": "SET LOCAL outbox.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';"
        "SELECT outbox.enqueue('orders', 'k', 'x')",
        "a trigger": "CREATE TEMP TABLE customer (id int); CREATE TRIGGER capture AFTER INSERT ON customer"
        " FOR EACH ROW EXECUTE FUNCTION outbox.capture('customers', 'id'); INSERT INTO customer VALUES (1)",
        "wake_up": "SELECT outbox.wake_up()",
        "schedule at": "INSERT INTO outbox.scheduled (event_id, topic, key, payload, headers, type, deliver_at, timer)"
        " VALUES (gen_random_uuid(), 'orders', 'k', 'x', '{}', 't', now(), 'timer')",
        "schedule in": "INSERT INTO outbox.scheduled (topic, delay) VALUES ('orders', '1 h')",
        "enqueue_at text": "SELECT outbox.enqueue_at(now(), 'orders', 'k', 'x', '{}'::jsonb, 't', 'timer')",
        "enqueue_at jsonb": "SELECT outbox.enqueue_at(now(), 'orders', 'k', '{}'::jsonb, '{}'::jsonb, 't', 'timer')",
        "enqueue_in text": "SELECT outbox.enqueue_in('1 h', 'orders', 'k', 'x', '{}'::jsonb, 't', 'timer')",
        "enqueue_in jsonb": "SELECT outbox.enqueue_in('1 h', 'orders', 'k', '{}'::jsonb, '{}'::jsonb, 't', 'timer')",
        "cancel": "SELECT outbox.cancel_scheduled(timer => 'timer')",
        "reschedule": "SELECT outbox.reschedule(timer => 'timer', delay => '1 h')",
    },
    "outbox_relay": {
        "an older program drops a segment": "SELECT outbox.drop_segment(1)",
        "an older program looks what is due": "SELECT outbox.replay_needs(1, 2)",
        "an older program looks why not": "SELECT outbox.unsettled_event(1)",
        "a replay ends": "UPDATE outbox.action SET counts = '{\"published\": 1}', finished_at = now()",
    },
    "outbox_admin": {
        "a person asks": "INSERT INTO outbox.action (kind, filter) VALUES ('discard', '{}')",
        "the limit is shown": "SELECT outbox.max_event_bytes()",
    },
}
"""What is run and not only planned: for writers all that they do, by the library or by SQL of their own, for the others
what calls triggers."""


def statements_of(*modules: Path) -> dict[str, str]:
    """The named statements that these modules use, by their names."""
    names = set(_queries())
    used = {name for module in modules for name in re.findall(r'"([a-z0-9_]+)"', module.read_text()) if name in names}
    return {name: text for name in sorted(used) if _can_be_planned(text := query(name))}


def _can_be_planned(text: str) -> bool:
    words = re.sub(r"^\s*--[^\n]*$", "", text, flags=re.MULTILINE).split()
    return words[0].upper() in ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE") and "$" not in words[0]


def work_of(role: str) -> dict[str, str]:
    """What the role does, statement by statement."""
    if role == "outbox_writer":
        return {}
    if role == "outbox_relay":
        # Every session of the relay begins with the checks.
        return statements_of(*(FOLDER / "flow").glob("*.py"), FOLDER / "checks.py", FOLDER / "connect.py")
    people = [path for path in (FOLDER / "admin").glob("*.py") if path.name not in OF_THE_OWNER]
    return statements_of(*people)


@pytest.fixture
async def outbox(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with migrated(database) as connection:
        await connection.execute("INSERT INTO outbox.action (kind, filter) VALUES ('replay', '{}')")
        await make_roles(connection)
        # As where somebody has hardened the database: nothing is given to everybody.
        await connection.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC")
        yield connection


GRANTED = """
WITH granted AS (
    SELECT format('%s ON SCHEMA outbox', g.privilege_type) AS what, g.grantee
    FROM pg_namespace n, aclexplode(n.nspacl) g WHERE n.nspname = 'outbox'
    UNION ALL
    SELECT format('%s ON %s outbox.%I', g.privilege_type,
                  CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.relname), g.grantee
    FROM pg_class c, aclexplode(c.relacl) g
    -- What a view or a partition shows is in the tables that the role may read.
    WHERE c.relnamespace = 'outbox'::regnamespace AND NOT c.relispartition AND c.relkind <> 'v'
    UNION ALL
    SELECT format('%s (%I) ON TABLE outbox.%I', g.privilege_type, a.attname, c.relname), g.grantee
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) g
    WHERE c.relnamespace = 'outbox'::regnamespace AND NOT c.relispartition
    UNION ALL
    SELECT format('%s ON FUNCTION %s', g.privilege_type, p.oid::regprocedure), g.grantee
    FROM pg_proc p, aclexplode(p.proacl) g WHERE p.pronamespace = 'outbox'::regnamespace
)
SELECT what FROM granted WHERE grantee = $1::regrole ORDER BY what
"""


async def granted_to(connection: asyncpg.Connection, role: str) -> list[str]:
    return [row["what"] for row in await connection.fetch(GRANTED, role)]


@asynccontextmanager
async def undone(connection: asyncpg.Connection) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def refused(connection: asyncpg.Connection, role: str, work: dict[str, str]) -> dict[str, str]:
    """The statements that the role may not run now, with PostgreSQL's words."""
    found: dict[str, str] = {}
    await connection.execute(f"SET LOCAL ROLE {role}; SET LOCAL plan_cache_mode = force_generic_plan")
    for name, text in work.items():
        try:
            async with undone(connection):
                await connection.execute(text)
        except pg.InsufficientPrivilegeError as error:
            found[name] = str(error)
    await connection.execute("RESET ROLE")
    return found


async def prepare(connection: asyncpg.Connection, work: dict[str, str]) -> dict[str, str]:
    """Prepare statements; returns what plans each of them, as it would be run with any arguments."""
    plans: dict[str, str] = {}
    for name, text in work.items():
        count = max((int(number) for number in re.findall(r"\$(\d+)", text)), default=0)
        arguments = f"({', '.join(['NULL'] * count)})" if count else ""
        await connection.execute(f"PREPARE planned_{name} AS {text}")
        plans[name] = f"EXPLAIN EXECUTE planned_{name}{arguments}"
    return plans


@pytest.mark.parametrize("role", ["outbox_writer", "outbox_relay", "outbox_admin"])
async def test_each_privilege_is_needed_and_all_together_are_enough(outbox: asyncpg.Connection, role: str) -> None:
    work = RUN[role] | await prepare(outbox, work_of(role))
    async with undone(outbox):
        assert await refused(outbox, role, work) == {}
    needless = []
    for what in await granted_to(outbox, role):
        async with undone(outbox):
            await outbox.execute(f"REVOKE {what} FROM {role}")
            if not await refused(outbox, role, work):
                needless.append(what)
    assert not needless, f"{role} does not need " + "; ".join(needless)
