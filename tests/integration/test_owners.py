"""A schema or tables that somebody else made beforehand are not taken for our own."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.errors import HeldUpError, SchemaError
from relay.postgres import checks
from relay.postgres.admin import migrate as migrating
from relay.postgres.admin.migrate import make_roles, migrate, set_max_event_bytes
from relay.postgres.checks import check_schema
from relay.postgres.connect import open_connection
from relay.postgres.flow.housekeeping import HousekeepingConnection
from relay.postgres.owners import Owned, check_owners, names
from relay.postgres.sql import Migration, migrations
from tests.support.postgres.attacker import Attacker, attacker_of, forget
from tests.support.postgres.outbox import add_event, add_failure, connected, migrated
from tests.support.postgres.receipts import add_receipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def admin(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection."""
    async with connected(database) as connection:
        yield connection


@pytest.fixture
async def attacker(admin: asyncpg.Connection, database: str) -> AsyncIterator[Attacker]:
    """A role that may create schemas in the database."""
    attacker = await attacker_of(admin, database)
    yield attacker
    assert not await attacker.gained(admin)
    await forget(admin, attacker)


def run(dsn: str, *arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, list(arguments), env={"RELAY_POSTGRES_DSN": dsn})


@asynccontextmanager
async def user(admin: asyncpg.Connection, dsn: str, more: str = "") -> AsyncIterator[tuple[str, str]]:
    """The name and the DSN of a new role that logs in."""
    name = f"user_{secrets.token_hex(4)}"
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' {more}")
    parts = urlsplit(dsn)
    try:
        yield name, urlunsplit(parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}"))
    finally:
        await admin.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def test_a_schema_that_somebody_else_made_is_refused_by_name(
    admin: asyncpg.Connection, attacker: Attacker, database: str
) -> None:
    async with connected(attacker.dsn) as connection:
        await connection.execute("CREATE SCHEMA outbox")
    refused = await asyncio.to_thread(run, database, "migrate", "--roles")
    assert refused.exit_code == 1
    assert f"the schema outbox belongs to {attacker.name}" in refused.output
    assert await admin.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'outbox'::regnamespace") == 0


@pytest.mark.parametrize("squatted", ["TABLE outbox.event_5000001 ()", "VIEW outbox.lane AS SELECT 1 AS lane"])
async def test_a_table_that_somebody_else_made_in_our_schema_is_refused_by_name(
    admin: asyncpg.Connection, attacker: Attacker, squatted: str
) -> None:
    await admin.execute(f"CREATE SCHEMA outbox; GRANT CREATE, USAGE ON SCHEMA outbox TO {attacker.name}")
    async with connected(attacker.dsn) as connection:
        await connection.execute(f"CREATE {squatted}")
    with pytest.raises(SchemaError, match=f"outbox.* belongs to {attacker.name}"):
        await migrate(admin)


async def test_a_schema_in_which_everybody_may_create_is_refused(admin: asyncpg.Connection) -> None:
    await admin.execute("CREATE SCHEMA outbox; GRANT CREATE ON SCHEMA outbox TO PUBLIC")
    with pytest.raises(SchemaError, match="REVOKE CREATE ON SCHEMA outbox FROM PUBLIC"):
        await migrate(admin)


async def test_an_outbox_that_somebody_else_made_runs_nothing_with_our_rights(
    admin: asyncpg.Connection, attacker: Attacker, database: str
) -> None:
    printed = (await asyncio.to_thread(run, database, "migrate", "--sql")).output
    trap = "LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('hostile.sprung'); RAISE 'trapped'; END $$"
    async with connected(attacker.dsn) as connection:
        await connection.execute(printed)
        await connection.execute(
            f"CREATE OR REPLACE FUNCTION outbox.set_max_event_bytes(max_bytes bigint) RETURNS void {trap};"
            f"CREATE OR REPLACE FUNCTION outbox.max_event_bytes() RETURNS bigint {trap};"
            f"CREATE FUNCTION outbox.evil() RETURNS integer {trap};"
            "DROP VIEW outbox.segment; CREATE VIEW outbox.segment AS SELECT 'a'::text AS name, 1::bigint AS lower_id,"
            " 1::bigint + outbox.evil() AS upper_id;"
            "ALTER TABLE outbox.migration RENAME TO migrations;"
            "CREATE VIEW outbox.migration AS SELECT version + coalesce(outbox.evil(), 0) AS version, name, checksum,"
            " applied_at, compatible_from FROM outbox.migrations"
        )
    for command in (
        ("migrate",), ("migrate", "--roles"), ("migrate", "--check"), ("migrate", "--sql"),
        ("migrate", "--max-event-bytes", "7"), ("status",), ("lanes",), ("failed", "list"), ("replay", "list"),
    ):  # fmt: skip
        refused = await asyncio.to_thread(run, database, *command)
        assert refused.exit_code == 1, (command, refused.output)
        assert f"belongs to {attacker.name}" in refused.output


async def test_the_owner_can_be_named_and_then_owns_everything(admin: asyncpg.Connection, database: str) -> None:
    async with user(admin, database) as (name, _):
        done = await asyncio.to_thread(run, database, "migrate", "--roles", "--max-event-bytes", "77", "--owner", name)
        assert done.exit_code == 0, done.output
        owners = await admin.fetch(
            "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'outbox'::regnamespace"
            " UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace"
            " UNION SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'outbox'"
        )
        assert [row[0] for row in owners] == [name]
        # As a superuser they are not ours, unless it is said.
        assert (await asyncio.to_thread(run, database, "status")).exit_code == 1
        assert (await asyncio.to_thread(run, database, "migrate", "--roles")).exit_code == 1
        assert (await asyncio.to_thread(run, database, "migrate", "--roles", "--owner", name)).exit_code == 0
        await admin.execute(f"GRANT {name} TO {urlsplit(database).username}")
        assert (await asyncio.to_thread(run, database, "status")).exit_code == 0
        await admin.execute("DROP SCHEMA outbox CASCADE")


async def test_an_owner_that_is_not_there_is_named(database: str) -> None:
    refused = await asyncio.to_thread(run, database, "migrate", "--owner", "nobody-here")
    assert refused.exit_code == 1
    assert "nobody-here" in refused.output
    assert "Traceback" not in refused.output


async def test_an_owner_that_the_user_may_not_act_as_is_named_with_the_grant_that_is_missing(
    admin: asyncpg.Connection, database: str
) -> None:
    async with user(admin, database) as (owner, _), user(admin, database) as (name, dsn):
        refused = await asyncio.to_thread(run, dsn, "migrate", "--owner", owner)
        assert refused.exit_code == 1
        assert refused.output == (
            f"relay: the role {name} cannot act as {owner}, because it is not a member of that role; as an "
            f"administrator, run GRANT {owner} TO {name}, or connect as {owner}\n"
        )


@pytest.mark.parametrize(
    ("command", "table"),
    [
        (["lanes", "release", "5"], "lane_intent"),
        (["topics", "pause", "orders"], "topic_intent"),
        (["failed", "discard", "1", "--reason", "x"], "action"),
        (["replay", "--topic", "orders", "--since", "1h", "--yes"], "action"),
    ],
)
async def test_a_command_that_the_relay_s_role_may_not_run_names_the_role_that_may(
    admin: asyncpg.Connection, database: str, command: list[str], table: str
) -> None:
    await migrate(admin)
    await make_roles(admin)
    await add_failure(admin, await add_event(admin))
    await add_event(admin)
    await add_receipt(admin, 2)
    async with user(admin, database, "IN ROLE outbox_relay") as (name, dsn):
        assert (await asyncio.to_thread(run, dsn, "status")).exit_code == 0
        refused = await asyncio.to_thread(run, dsn, *command)
        assert refused.exit_code == 1
        assert refused.output == (
            f"relay: PostgreSQL: permission denied for table {table}; this command needs the rights of the role "
            f"outbox_admin: as an administrator, run GRANT outbox_admin TO {name} (`relay migrate --roles` creates "
            "it)\n"
        )
        await admin.execute(f"GRANT outbox_admin TO {name}")
        assert (await asyncio.to_thread(run, dsn, *command)).exit_code == 0


async def test_a_role_without_any_right_is_told_which_one_status_needs(
    admin: asyncpg.Connection, database: str
) -> None:
    await migrate(admin)
    async with user(admin, database) as (name, dsn):
        for command in (["status"], ["failed", "list"], ["lanes"]):
            refused = await asyncio.to_thread(run, dsn, *command)
            assert refused.exit_code == 1
            assert f"run GRANT outbox_admin TO {name}" in refused.output


async def test_a_schema_made_for_a_role_is_used_by_those_who_were_made_members_of_it(
    admin: asyncpg.Connection, database: str
) -> None:
    async with user(admin, database) as (owner, _), user(admin, database, f"IN ROLE {owner}") as (_, dsn):
        await admin.execute(f"CREATE SCHEMA outbox AUTHORIZATION {owner}")
        async with connected(dsn) as connection:
            assert await migrate(connection)
            await set_max_event_bytes(connection, 77)
            await check_schema(connection)
        await admin.execute("DROP SCHEMA outbox CASCADE")


async def test_roles_that_only_use_an_outbox_need_not_own_it(admin: asyncpg.Connection, database: str) -> None:
    await migrate(admin)
    await make_roles(admin)
    for role in ("outbox_relay", "outbox_admin"):
        async with user(admin, database, f"IN ROLE {role}") as (_, dsn):
            assert (await asyncio.to_thread(run, dsn, "status")).exit_code == 0
            assert (await asyncio.to_thread(run, dsn, "migrate", "--check")).exit_code == (role == "none")


async def test_all_that_the_migrations_make_is_looked_at(database: str) -> None:
    async with migrated(database) as connection:
        made = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r','p','v','S')"
            " AND relname !~ '^(event|receipt|delivery)_[0-9]+$' AND relname !~ '_id_seq$'"
            " UNION SELECT proname FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace"
        )
    assert {row[0] for row in made} == set(names()) - {"delivery"}, "which has another name now"


async def test_locks_that_anybody_can_take_hold_up_nothing(
    admin: asyncpg.Connection, attacker: Attacker, database: str
) -> None:
    async with connected(attacker.dsn) as connection:
        for name in ("outbox.migration", "outbox.segment"):
            await connection.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", name)
        async with asyncio.timeout(60):
            await migrate(admin)
            await admin.execute("SELECT setval('outbox.event_id', 5000000)")
            relay = await open_connection(database, 10, "a test")
            housekeeping = HousekeepingConnection(relay, "outbox")
            assert await housekeeping.ensure_segments(1000, 1) == ["event_5000001"]
            await admin.execute("UPDATE outbox.lane SET position = 5000001")
            (due,) = await housekeeping.due_segments(0.0)
            assert await housekeeping.retire_segment(due, 0.0, 0.0) == 0
            await relay.close()


@pytest.mark.parametrize("statement", ["COMMENT ON SCHEMA outbox IS 'mine'", "LOCK TABLE outbox.migration", None])
async def test_a_session_that_holds_up_a_migration_is_named_after_a_while(
    admin: asyncpg.Connection, attacker: Attacker, database: str, monkeypatch: pytest.MonkeyPatch, statement: str | None
) -> None:
    monkeypatch.setattr(migrating, "LOCK_ATTEMPTS", 2)
    if statement is not None:
        await migrate(admin)
        later = Migration(migrations()[-1].version + 1, "later", "SELECT 1;", "0" * 64)
        monkeypatch.setattr(checks, "migrations", lambda schema: (*migrations(schema), later))
    holder = database if statement is not None else attacker.dsn
    async with connected(holder) as other:
        await other.execute("SET application_name = 'a long job'")
        async with other.transaction():
            await other.execute(statement or "CREATE SCHEMA outbox")
            with pytest.raises(
                HeldUpError, match=rf"pid {other.get_server_pid()} \(role \w+, application 'a long job'"
            ):
                await migrate(admin)


TRAP = "LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('hostile.sprung'); RETURN NULL; END $$"


async def test_an_attacker_that_makes_us_a_member_of_itself_is_not_taken_for_one_of_us(
    admin: asyncpg.Connection, attacker: Attacker, database: str
) -> None:
    """Up to PostgreSQL 14 every role may do that; later one that makes roles can do it with those that it made."""
    server = await admin.fetchval("SELECT current_setting('server_version_num')::int")
    owner = attacker.name if server < 150_000 else f"made_by_{attacker.name}"
    if owner != attacker.name:
        await admin.execute(f"ALTER ROLE {attacker.name} CREATEROLE")
    try:
        async with connected(attacker.dsn) as connection:
            if owner != attacker.name:
                await connection.execute(f"CREATE ROLE {owner}; GRANT {owner} TO {attacker.name}")
            await connection.execute(
                f"CREATE SCHEMA outbox AUTHORIZATION {owner}; GRANT {owner} TO {urlsplit(database).username}"
            )
        for command in (("migrate",), ("migrate", "--check"), ("status",)):
            refused = await asyncio.to_thread(run, database, *command)
            assert refused.exit_code == 1, (command, refused.output)
            if command == ("migrate",):
                assert f"belongs to {owner}" in refused.output
        assert await admin.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'outbox'::regnamespace") == 0
    finally:
        await admin.execute("DROP SCHEMA IF EXISTS outbox CASCADE")
        if owner != attacker.name:
            await admin.execute(f"DROP ROLE {owner}")


@pytest.mark.parametrize("more", ["CREATEDB", "CREATEROLE"])
async def test_an_outbox_that_somebody_else_made_runs_nothing_with_the_rights_of_who_migrates(
    admin: asyncpg.Connection, attacker: Attacker, database: str, more: str
) -> None:
    """Not only a superuser has rights to lose: here the owner of the database, and a role that may create in it."""
    async with user(admin, database, more) as (name, dsn):
        database_name = await admin.fetchval("SELECT quote_ident(current_database())")
        if more == "CREATEDB":
            await admin.execute(f"ALTER DATABASE {database_name} OWNER TO {name}")
        await admin.execute(f"GRANT CREATE ON DATABASE {database_name} TO {name}, {attacker.name}")
        known = "".join(
            f"({each.version}, '{each.name}', '{each.checksum}', now(), {each.compatible_from}),"
            for each in migrations()
        ).rstrip(",")
        async with connected(attacker.dsn) as connection:
            await connection.execute(
                "CREATE SCHEMA outbox; GRANT ALL ON SCHEMA outbox TO PUBLIC;"
                "REVOKE CREATE ON SCHEMA outbox FROM PUBLIC;"
                f"CREATE FUNCTION outbox.max_event_bytes() RETURNS bigint {TRAP};"
                f"CREATE FUNCTION hostile.evil() RETURNS integer {TRAP};"
                "CREATE TABLE outbox.migrations (version int, name text, checksum text, applied_at timestamptz,"
                f" compatible_from int); INSERT INTO outbox.migrations VALUES {known};"
                "CREATE VIEW outbox.migration AS"
                " SELECT version + coalesce(hostile.evil(), 0) AS version, name, checksum, applied_at, compatible_from"
                " FROM outbox.migrations; GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO PUBLIC"
            )
        try:
            refused = await asyncio.to_thread(run, dsn, "migrate")
            assert refused.exit_code == 1, refused.output
            assert f"belongs to {attacker.name}" in refused.output
            assert not await attacker.gained(admin)
            if more == "CREATEDB":
                for command in (("migrate", "--check"), ("migrate", "--sql"), ("status",)):
                    assert (await asyncio.to_thread(run, dsn, *command)).exit_code == 1
                    assert not await attacker.gained(admin)
        finally:
            await admin.execute(f"ALTER DATABASE {database_name} OWNER TO {urlsplit(database).username}")


async def test_the_printed_sql_refuses_a_schema_that_somebody_else_made(
    admin: asyncpg.Connection, attacker: Attacker, database: str
) -> None:
    printed = (await asyncio.to_thread(run, database, "migrate", "--sql")).output
    async with connected(attacker.dsn) as connection:
        await connection.execute("CREATE SCHEMA outbox")
    with pytest.raises(asyncpg.RaiseError, match=f"schema outbox belongs to {attacker.name}"):
        await admin.execute(printed)
    await admin.execute("ROLLBACK; DROP SCHEMA outbox")
    await admin.execute(printed)
    assert (await asyncio.to_thread(run, database, "migrate", "--check")).exit_code == 0


async def test_a_schema_that_is_out_of_sight_while_owners_are_looked_at_is_not_used(
    admin: asyncpg.Connection, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns a schema can rename it back and forth, a thousand times a second."""
    async with connected(attacker.dsn) as connection:
        await connection.execute(
            f"CREATE SCHEMA outbox; CREATE FUNCTION hostile.evil() RETURNS integer {TRAP};"
            "CREATE VIEW outbox.migration AS SELECT coalesce(hostile.evil(), 0) AS version, 'a' AS name,"
            " 'a' AS checksum, 1 AS compatible_from"
        )
        looks = 0

        async def out_of_sight(*given: Any) -> list[Owned]:
            nonlocal looks
            looks += 1
            hide = looks <= 3  # By those before and in `_pending`, and by the first before the migration.
            if hide:
                await connection.execute("ALTER SCHEMA outbox RENAME TO away")
            try:
                return await check_owners(*given)
            finally:
                if hide:
                    await connection.execute("ALTER SCHEMA away RENAME TO outbox")

        for module in (checks, migrating):
            monkeypatch.setattr(module, "check_owners", out_of_sight)
        with pytest.raises(SchemaError, match=f"outbox belongs to {attacker.name}"):
            await migrate(admin)
        assert looks == 4
        assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname = 'event'") == 0


@pytest.mark.parametrize("how", ["LOGIN PASSWORD 'mine'", "NOLOGIN"])
async def test_roles_that_somebody_else_made_are_given_nothing(
    admin: asyncpg.Connection, database: str, how: str
) -> None:
    async with user(admin, database, "CREATEROLE") as (name, dsn):
        await admin.execute(f"GRANT CREATE ON DATABASE {await admin.fetchval('SELECT current_database()')} TO {name}")
        async with connected(dsn) as connection:
            await connection.execute(f"CREATE ROLE mine_relay {how}")
        made = await asyncio.to_thread(
            lambda: CliRunner().invoke(
                main, ["migrate", "--roles"], env={"RELAY_POSTGRES_DSN": database, "RELAY_POSTGRES_SCHEMA": "mine"}
            )
        )
        try:
            server = await admin.fetchval("SELECT current_setting('server_version_num')::int")
            if how == "NOLOGIN" and server < 160_000:
                # Whoever may create roles has all of them there, whoever made them.
                assert made.exit_code == 0
            else:
                assert made.exit_code == 1
                assert "the role mine_relay" in made.output
                assert not await admin.fetchval("SELECT has_schema_privilege('mine_relay', 'mine', 'USAGE')")
                # Granted by who owns the schema, it is meant.
                await admin.execute("GRANT USAGE ON SCHEMA mine TO mine_relay")
                await make_roles(admin, "mine")
        finally:
            await admin.execute("DROP SCHEMA IF EXISTS mine CASCADE")
            for role in ("mine_relay", "mine_writer", "mine_admin"):
                await admin.execute(f"DROP ROLE IF EXISTS {role}")
