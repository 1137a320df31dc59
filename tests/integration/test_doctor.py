"""What `relay doctor` says of PostgreSQL: each thing provoked, mended by what it says, and silent afterwards."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest
from pydantic import SecretStr

from relay.admin.doctor import postgres as doctor
from relay.admin.doctor.postgres import Examination
from relay.admin.doctor.rights import of_rights
from relay.admin.doctor.server import of_limits, of_starved, of_transaction
from relay.postgres.admin.configured import Limits
from relay.postgres.admin.doctor import OldTransaction, starved
from relay.postgres.admin.migrate import make_roles
from relay.postgres.admin.rights import Grant, Login, granted, statements
from relay.postgres.sql import DEFAULT_SCHEMA
from relay.settings import PostgresSettings
from tests.support.postgres.outbox import add_event, add_failure, connected, migrated
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from relay.admin.doctor.check import Check

OWNER = Login("postgres", unbound=True, usable=True)


@pytest.fixture
async def owner(database: str) -> AsyncIterator[asyncpg.Connection]:
    """The owner's connection to an outbox with its roles."""
    async with migrated(database) as connection:
        await make_roles(connection)
        # As where somebody has hardened the database: nothing is given to everybody.
        await connection.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC")
        yield connection


@asynccontextmanager
async def login_role(owner: asyncpg.Connection, dsn: str, *granted: str) -> AsyncIterator[tuple[str, str]]:
    """A role that logs in, and its DSN."""
    name = f"login_{secrets.token_hex(4)}"
    roles = f"IN ROLE {', '.join(granted)}" if granted else ""
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'geheim' {roles}")
    parts = urlsplit(dsn)
    try:
        yield name, urlunsplit(parts._replace(netloc=f"{name}:geheim@{parts.netloc.rpartition('@')[2]}"))
    finally:
        await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def looked(dsn: str) -> list[Check]:
    """What is wrong, but for what tests of single parts have: no autovacuum, and no relay."""
    checks = await Examination(PostgresSettings(dsn=SecretStr(dsn))).checks()
    usual = ("autovacuum is off", "no replica is alive")
    return [check for check in checks if check.state != "ok" and check.what not in usual]


def _revoked(grant: Grant, role: str) -> str:
    (statement,) = statements([grant], role)
    return statement.replace("GRANT", "REVOKE", 1).replace(f" TO {role}", f" FROM {role}")


@pytest.mark.parametrize("kind", ["relay", "writer", "admin"])
async def test_each_privilege_that_is_missing_is_told_with_the_statement_that_grants_it(
    owner: asyncpg.Connection, kind: str
) -> None:
    role = f"outbox_{kind}"

    async def found() -> list[str]:
        return [check.do async for check in of_rights(owner, "outbox", OWNER)]

    assert await found() == []
    wanted = [each for each in granted(role, "outbox") if each.kind != "ALL TABLES"]
    assert len(wanted) > 10
    if kind != "writer":
        wanted += [Grant("TABLE", "SELECT", f"outbox.{name}") for name in ("event", "receipt", "pending", "migration")]
    for grant in wanted:
        (statement,) = statements([grant], role)
        await owner.execute(_revoked(grant, role))
        assert await found() == [f"as the owner of the outbox, run {statement}"]
        await owner.execute(statement)
    assert await found() == []


async def test_many_missing_privileges_are_told_together_and_a_role_without_any_is_somebody_elses(
    owner: asyncpg.Connection,
) -> None:
    await owner.execute("REVOKE SELECT ON ALL TABLES IN SCHEMA outbox FROM outbox_admin")
    (check,) = [check async for check in of_rights(owner, "outbox", OWNER)]
    assert check.what.startswith("the role outbox_admin lacks ")
    assert check.do == "as the owner of the outbox, run `relay migrate --roles`"
    # What a migration grants to roles that another outbox of the cluster has.
    await owner.execute(
        "DROP OWNED BY outbox_admin; GRANT UPDATE (finished_at, counts) ON outbox.action TO outbox_admin"
    )
    assert [check async for check in of_rights(owner, "outbox", OWNER)] == []


async def test_a_login_is_told_what_it_lacks_itself(owner: asyncpg.Connection, database: str) -> None:
    async with login_role(owner, database, "outbox_relay") as (_, dsn):
        assert await looked(dsn) == []
        for grant in ("SELECT ON outbox.lane", "SELECT ON outbox.migration", "SELECT ON outbox.event"):
            await owner.execute(f"REVOKE {grant} FROM outbox_relay")
            told = [(check.state, check.do) for check in await looked(dsn)]
            assert told == [("problem", f"as the owner of the outbox, run GRANT {grant} TO outbox_relay")]
            await owner.execute(f"GRANT {grant} TO outbox_relay")
        await owner.execute("REVOKE USAGE ON SCHEMA outbox FROM outbox_relay")
        (check,) = await looked(dsn)
        assert check.do == "as the owner of the outbox, run GRANT USAGE ON SCHEMA outbox TO outbox_relay"
        await owner.execute("GRANT USAGE ON SCHEMA outbox TO outbox_relay")
        assert await looked(dsn) == []
    async with login_role(owner, database, "outbox_admin") as (name, dsn):
        (check,) = await looked(dsn)
        assert (check.state, check.what) == ("warning", f"the role {name} has not the rights of the relay")
        assert f"GRANT outbox_relay TO {name}" in check.do
        await owner.execute(f"GRANT outbox_relay TO {name}")
        assert await looked(dsn) == []


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("default_transaction_read_only", "on", "problem"),
        ("synchronous_commit", "off", "warning"),
        ("session_replication_role", "replica", "warning"),
        ("search_path", "public, pg_catalog", "warning"),
        ("track_activities", "off", "warning"),
        ("statement_timeout", "'500ms'", "warning"),
        ("idle_in_transaction_session_timeout", "'0.5s'", "warning"),
        ("idle_session_timeout", "900", "warning"),
        ("transaction_timeout", "'500ms'", "warning"),
    ],
)
async def test_a_setting_that_hurts_is_told_with_where_it_was_made_and_what_mends_it(
    owner: asyncpg.Connection, database: str, name: str, value: str, state: str
) -> None:
    if await owner.fetchval("SELECT count(*) FROM pg_settings WHERE name = $1", name) == 0:
        pytest.skip("this server has no such setting")
    async with login_role(owner, database, "outbox_relay", "outbox_writer") as (role, dsn):
        base = await owner.fetchval("SELECT current_database()::text")
        for what, where in (
            (f"ROLE {role}", f"for the role {role}"),
            (f'ROLE {role} IN DATABASE "{base}"', f"for the role {role} in the database {base}"),
            (f'DATABASE "{base}"', f"for the database {base}"),
        ):
            await owner.execute(f"ALTER {what} SET {name} = {value}")
            (check,) = await looked(dsn)
            assert check.state == state
            assert check.what.startswith(f"{name} is ")
            assert check.what.endswith(where)
            async with connected(database) as mender:
                for statement in check.do.removeprefix("as an administrator, run ").split("; "):
                    await mender.execute(statement)
            assert await looked(dsn) == []


async def test_settings_that_do_no_harm_are_not_told(owner: asyncpg.Connection, database: str) -> None:
    async with login_role(owner, database, "outbox_relay") as (role, dsn):
        await owner.execute(
            f"ALTER ROLE {role} SET statement_timeout = '30s'; ALTER ROLE {role} SET search_path = shop, public;"
            f"ALTER ROLE {role} SET idle_in_transaction_session_timeout = '5min';"
            # The relay does not write events, and sets its own.
            f"ALTER ROLE {role} SET default_transaction_read_only = on; ALTER ROLE {role} SET synchronous_commit = off"
        )
        assert await looked(dsn) == []


async def test_a_setting_of_the_whole_server_is_told(owner: asyncpg.Connection, database: str) -> None:
    await owner.execute("ALTER SYSTEM SET synchronous_commit = off")
    try:
        await owner.execute("SELECT pg_reload_conf()")

        async def told() -> bool:
            return [check.what for check in await looked(database)] == [
                "synchronous_commit is off for the whole server"
            ]

        await until("the server has read it", told)
        (check,) = await looked(database)
        first, second = check.do.removeprefix("as an administrator, run ").split("; ")
        await owner.execute(first)
        await owner.execute(second)

        async def mended() -> bool:
            return not await looked(database)

        await until("the server has read it", mended)
    finally:
        await owner.execute("ALTER SYSTEM RESET synchronous_commit")
        await owner.execute("SELECT pg_reload_conf()")


async def test_limits_of_a_role_and_the_end_of_its_password_are_told(owner: asyncpg.Connection, database: str) -> None:
    async with login_role(owner, database, "outbox_relay") as (role, dsn):
        await owner.execute(f"ALTER ROLE {role} CONNECTION LIMIT 4 VALID UNTIL '{await _in_days(owner, 3)}'")
        few, ends = await looked(dsn)
        assert few.what == f"the role {role} may have 4 connections"
        assert f"run ALTER ROLE {role} CONNECTION LIMIT 8 " in few.do
        assert ends.what.startswith(f"the password of the role {role} is valid for 3 d ")
        await owner.execute(f"ALTER ROLE {role} CONNECTION LIMIT 8 VALID UNTIL 'infinity'")
        assert await looked(dsn) == []


async def _in_days(connection: asyncpg.Connection, days: int) -> str:
    found: str = await connection.fetchval("SELECT (now() + make_interval(days => $1))::text", days)
    return found


async def test_where_there_is_no_outbox_the_server_is_looked_at_all_the_same(database: str) -> None:
    async with connected(database) as owner, login_role(owner, database) as (role, dsn), connected(database) as other:
        await owner.execute(f"ALTER ROLE {role} CONNECTION LIMIT 4; ALTER ROLE {role} SET statement_timeout = '500ms'")
        transaction = other.transaction()
        await transaction.start()
        pid = await other.fetchval("SELECT pg_backend_pid()")
        for told, settings in (
            (f"there is no outbox in the schema {DEFAULT_SCHEMA} of this database", {}),
            ("there is no outbox in the schema elsewhere of this database", {"schema": "elsewhere"}),
        ):
            given = PostgresSettings.model_validate({"dsn": SecretStr(dsn), **settings})
            missing, server, *rest = await Examination(given).checks()
            assert (missing.area, missing.state, missing.what) == ("outbox", "problem", told)
            assert server.what.startswith("PostgreSQL ")
            assert f" answers {role}, " in server.what
            whats = {check.what for check in rest if check.state == "warning"}
            assert f"the role {role} may have 4 connections" in whats
            assert f"statement_timeout is 500ms for the role {role}" in whats
            assert {check.area for check in rest} == {"postgres"}
        old = await Examination(PostgresSettings(dsn=SecretStr(database)), older_than=0.0).checks()
        await transaction.rollback()
    assert any(check.what.startswith(f"session {pid} ") for check in old)


async def test_nothing_is_read_of_a_schema_that_somebody_else_made(database: str) -> None:
    async with connected(database) as owner, login_role(owner, database) as (role, dsn):
        await owner.execute(f'GRANT CREATE ON DATABASE "{await owner.fetchval("SELECT current_database()")}" TO {role}')
        async with connected(dsn) as stranger:
            await stranger.execute(
                "CREATE SCHEMA outbox; CREATE FUNCTION outbox.spring() RETURNS int LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'sprung'; END $$; CREATE SEQUENCE outbox.event_id;"
                "CREATE VIEW outbox.replica AS SELECT now() AS lease_expires_at WHERE outbox.spring() = 1;"
                "CREATE VIEW outbox.event AS SELECT outbox.spring() AS id"
            )
        checks = await Examination(PostgresSettings(dsn=SecretStr(database))).checks()
    assert [check.area for check in checks if check.state == "problem" and check.area == "outbox"] == ["outbox"]
    assert not any("sprung" in str(check) for check in checks)
    assert any(check.what.startswith("PostgreSQL ") for check in checks)


def test_connections_are_counted_for_all_replicas() -> None:
    free = Limits(97, 40, "relay", -1, "shop", -1, None, 2)
    assert list(of_limits(free)) == []
    (full,) = of_limits(free._replace(in_use=90))
    assert full.what == "90 of 97 connections are in use"
    assert "2 replicas are alive" in full.means
    (few,) = of_limits(free._replace(database_limit=20))
    assert few.what == "the database shop may have 20 connections"
    assert few.do.startswith("as an administrator, run ALTER DATABASE shop CONNECTION LIMIT 24 ")


async def test_a_table_that_is_not_vacuumed_is_told(owner: asyncpg.Connection) -> None:
    await owner.execute(
        "INSERT INTO outbox.held (lane, id, topic) SELECT 0, n, 'orders' FROM generate_series(1, 2000) AS n;"
        "DELETE FROM outbox.held"
    )

    async def told() -> bool:
        return [each.name for each in await starved(owner, "outbox", 0.0, 1_000)] == ["held"]

    await until("the statistics have it", told)
    (table,) = await starved(owner, "outbox", 0.0, 1_000)
    assert of_starved(table, "outbox").do.startswith("end old transactions, then run VACUUM outbox.held; ")
    assert await starved(owner, "outbox", 3_600.0, 1_000) == []
    await owner.execute("VACUUM outbox.held")

    async def mended() -> bool:
        return not await starved(owner, "outbox", 0.0, 1_000)

    await until("the statistics have that, too", mended)


async def test_a_pooler_that_shares_sessions_is_told(
    owner: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def shared(_: PostgresSettings) -> AsyncIterator[asyncpg.Connection]:
        yield owner

    monkeypatch.setattr(doctor, "connected", shared)
    (check,) = await looked(database)
    assert check.state == "problem"
    assert check.what.startswith("RELAY_POSTGRES_DSN leads through a pooler")
    assert check.do == "name PostgreSQL itself, or a pool with pool_mode = session"


async def test_lanes_without_an_owner_silent_replicas_and_failed_events_are_told(
    owner: asyncpg.Connection, database: str
) -> None:
    await owner.execute(
        "INSERT INTO outbox.replica (id, name, version, renewed_at, lease_expires_at)"
        " SELECT gen_random_uuid(), name, '1', now() - silent, now() + interval '1 min'"
        " FROM (VALUES ('one', interval '0'), ('two', interval '50 s')) AS r (name, silent);"
        "UPDATE outbox.lane SET owner = (SELECT id FROM outbox.replica WHERE name = 'two'), epoch = 1,"
        " claimed_at = now() WHERE lane < 3"
    )
    await add_failure(owner, await add_event(owner))
    told = "\n".join(check.what for check in await looked(database))
    assert "lanes without a live owner: 3-15" in told
    assert "replica two has been silent for " in told
    assert "1 event failed and waits for a person" in told


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("ALTER ROLE shop PASSWORD 'geheim'", "ALTER ROLE shop PASSWORD ********"),
        ("alter user shop\n  with encrypted password\n'geheim'", "alter user shop with encrypted password ********"),
        ("SELECT dblink_connect('host=db password=geheim')", "SELECT dblink_connect('host=db password ********"),
        (
            "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:geheim@db/shop'",
            "CREATE SUBSCRIPTION s CONNECTION 'postgresql:// ********",
        ),
        ("UPDATE orders SET state = 'paid'", "UPDATE orders SET state = 'paid'"),
    ],
)
def test_a_secret_in_somebody_elses_statement_is_not_shown(query: str, shown: str) -> None:
    transaction = OldTransaction(7, None, "shop", "psql", "idle in transaction", 400.0, query, took_ids=False)
    told = of_transaction(transaction)
    assert told.what.endswith(f": {shown}")
    assert "geheim" not in str(told)
