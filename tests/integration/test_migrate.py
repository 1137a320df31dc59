"""`relay migrate` and the checks before a start, on a real server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.errors import HeldUpError, PostgresLostError, SchemaError, SettingsError
from relay.postgres import checks
from relay.postgres.admin import migrate as migrating
from relay.postgres.admin.migrate import make_roles, max_event_bytes, migrate, set_max_event_bytes
from relay.postgres.checks import check_primary, check_schema, check_sequence
from relay.postgres.errors import PostgresRefusedError, PrivilegeError, translated
from relay.postgres.sql import Migration, migrations, query
from tests.support.postgres.outbox import add_event, connected, migrated

if TYPE_CHECKING:
    from relay.local import PostgresServer

LATEST = migrations()[-1].version


def run(dsn: str, *arguments: str, schema: str = "outbox") -> Result:
    """Run the command in this process."""
    environment = {"RELAY_POSTGRES_DSN": dsn, "RELAY_POSTGRES_SCHEMA": schema}
    return CliRunner().invoke(main, ["migrate", *arguments], env=environment)


def with_parts(dsn: str, *, password: str | None = None, database: str | None = None, port: int | None = None) -> str:
    """The DSN with some of its parts changed."""
    parts = urlsplit(dsn)
    secret = password or parts.password
    netloc = f"{parts.username}:{secret}@{parts.hostname}:{port or parts.port}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}" if database else parts.path))


def test_an_empty_database_gets_an_outbox_and_a_second_run_changes_nothing(database: str) -> None:
    first, second = run(database, "--json"), run(database, "--json")
    assert (first.exit_code, second.exit_code) == (0, 0)
    names = [f"{migration.version:04} {migration.name}" for migration in migrations()]
    assert json.loads(first.output)["applied"] == names
    assert json.loads(second.output) == {
        "schema": "outbox",
        "version": LATEST,
        "applied": [],
        "pending": [],
        "max_event_bytes": 1_000_000,
    }


def test_check_changes_nothing_and_fails_while_something_is_pending(database: str) -> None:
    for _ in range(2):
        found = run(database, "--check")
        assert found.exit_code == 1
        assert "pending 0001 outbox" in found.output
        assert "run `relay migrate`" in found.output
    run(database)
    assert run(database, "--check").exit_code == 0


async def test_several_at_once_apply_each_migration_once(database: str) -> None:
    async def one() -> list[Migration]:
        async with connected(database) as connection:
            return await migrate(connection)

    applied = [migration for done in await asyncio.gather(*(one() for _ in range(5))) for migration in done]
    assert sorted(applied, key=lambda migration: migration.version) == list(migrations())


async def test_a_migration_that_fails_leaves_nothing_of_itself_and_can_be_tried_again(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration(LATEST + 1, "broken", "CREATE TABLE outbox.half (); SELECT 1 / 0;", "0" * 64)
    monkeypatch.setattr(checks, "migrations", lambda schema: (*migrations(schema), broken))
    async with connected(database) as connection:
        for _ in range(2):
            with pytest.raises(Exception, match="division by zero"):
                await migrate(connection)
        assert await connection.fetchval("SELECT to_regclass('outbox.half')") is None
        assert await connection.fetchval("SELECT max(version) FROM outbox.migration") == LATEST
        mended = replace(broken, sql="CREATE TABLE outbox.half ();")
        monkeypatch.setattr(checks, "migrations", lambda schema: (*migrations(schema), mended))
        assert await migrate(connection) == [mended]


async def test_a_newer_database_is_refused_unless_it_says_that_this_program_may_go_on(database: str) -> None:
    async with migrated(database) as connection:
        record = query("record_migration")
        await connection.execute(record, LATEST + 1, "expand", "0" * 64, LATEST)
        await check_schema(connection)
        assert await migrate(connection) == []
        checked = await asyncio.to_thread(run, database, "--check")
        assert (checked.exit_code, f"(version {LATEST + 1})" in checked.output) == (0, True)

        await connection.execute(record, LATEST + 2, "contract", "0" * 64, LATEST + 1)
        await connection.execute(record, LATEST + 3, "expand_again", "0" * 64, LATEST)
        for check in (check_schema, migrate):
            with pytest.raises(
                SchemaError, match=rf"needs a program that knows version {LATEST + 1} or later; this program"
            ):
                await check(connection)


async def test_an_outbox_of_the_first_version_says_as_much_about_itself_afterwards(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = migrations()
    async with connected(database) as connection:
        with monkeypatch.context() as at_first:
            at_first.setattr(checks, "migrations", lambda schema: (first,))
            assert await migrate(connection) == [first]
            await check_schema(connection)
        assert await migrate(connection) == list(migrations()[1:])
        rows = await connection.fetch("SELECT version, compatible_from, applied_at FROM outbox.migration ORDER BY 1")
        assert [(row[0], row[1]) for row in rows] == [(each.version, each.compatible_from) for each in migrations()]
        assert all(row["applied_at"] for row in rows)


async def test_a_migration_applied_with_another_text_is_refused(database: str) -> None:
    async with migrated(database) as connection:
        await connection.execute("UPDATE outbox.migration SET checksum = repeat('0', 64) WHERE version = 1")
        for check in (check_schema, migrate):
            with pytest.raises(SchemaError, match="0001 outbox was applied with a different text"):
                await check(connection)


async def test_a_gap_in_what_was_applied_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    second = Migration(LATEST + 1, "second", "SELECT 1;", "0" * 64)
    monkeypatch.setattr(checks, "migrations", lambda schema: (*migrations(schema), second))
    async with migrated(database) as connection:
        await connection.execute("DELETE FROM outbox.migration WHERE version = 1")
        with pytest.raises(SchemaError, match="0001 outbox is missing"):
            await migrate(connection)


async def test_a_database_without_outbox_or_with_an_older_one_says_what_to_run(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(database) as connection:
        with pytest.raises(SchemaError, match=r"there is no outbox in the schema outbox.*run `relay migrate`"):
            await check_schema(connection)
        await migrate(connection)
        await check_schema(connection)
        later = Migration(LATEST + 1, "later", "SELECT 1;", "0" * 64)
        monkeypatch.setattr(checks, "migrations", lambda schema: (*migrations(schema), later))
        with pytest.raises(SchemaError, match=rf"is at version {LATEST} and .* needs version {LATEST + 1}"):
            await check_schema(connection)


async def test_a_server_before_version_13_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "OLDEST_SERVER", 990_000)
    async with connected(database) as connection:
        with pytest.raises(SchemaError, match="needs 13 or later"):
            await migrate(connection)


def test_the_printed_sql_makes_the_same_outbox(database: str) -> None:
    printed = run(database, "--sql", schema="billing")
    assert printed.exit_code == 0

    async def apply() -> None:
        async with connected(database) as connection:
            await connection.execute(printed.output)

    asyncio.run(apply())
    assert run(database, "--check", schema="billing").exit_code == 0
    assert run(database, "--sql", schema="billing").output == ""


def test_one_database_holds_several_outboxes(database: str) -> None:
    for schema in ("outbox", "billing"):
        assert run(database, schema=schema).exit_code == 0

    async def enqueue_in_one() -> tuple[int, int]:
        async with connected(database) as connection:
            await connection.execute("SELECT billing.enqueue('invoices', 'k', 'x')")
            return (
                await connection.fetchval("SELECT count(*) FROM billing.pending"),
                await connection.fetchval("SELECT count(*) FROM outbox.pending"),
            )

    assert asyncio.run(enqueue_in_one()) == (1, 0)


async def test_a_schema_made_beforehand_is_used(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute("CREATE SCHEMA outbox")
        assert await migrate(connection) == list(migrations())


async def test_a_word_of_sql_is_no_schema_name(database: str) -> None:
    async with connected(database) as connection:
        with pytest.raises(SettingsError, match="RELAY_POSTGRES_SCHEMA"):
            await migrate(connection, "user")


def test_the_size_limit_can_be_changed_and_holds_for_new_segments_too(database: str) -> None:
    assert run(database, "--max-event-bytes", "100").exit_code == 0

    async def try_sizes() -> None:
        async with connected(database) as connection:
            await connection.execute("SELECT outbox.add_segment(5000001, 5000011), setval('outbox.event_id', 5000000)")
            # Empty headers are the two bytes {}.
            await connection.execute("SELECT outbox.enqueue('orders', NULL, repeat('x', 98))")
            with pytest.raises(Exception, match="event_size"):
                await connection.execute("SELECT outbox.enqueue('orders', NULL, repeat('x', 99))")

    asyncio.run(try_sizes())
    assert json.loads(run(database, "--json").output)["max_event_bytes"] == 100
    assert run(database, "--max-event-bytes", "0").exit_code == 2


async def test_changing_the_size_limit_waits_for_an_open_writer_in_small_steps(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "LOCK_PAUSE", 0.01)
    monkeypatch.setattr(migrating, "LOCK_ATTEMPTS", 10_000)
    async with migrated(database) as connection, connected(database) as writer, connected(database) as other:
        transaction = writer.transaction()
        await transaction.start()
        await add_event(writer)
        change = asyncio.create_task(set_max_event_bytes(connection, 2_000_000))
        for _ in range(20):
            # Others go on: nobody queues behind the change for longer than its lock_timeout.
            await asyncio.wait_for(add_event(other), 5)
        assert not change.done()
        await transaction.commit()
        assert await change
        assert await max_event_bytes(connection) == 2_000_000
        assert not await set_max_event_bytes(connection, 2_000_000)


async def test_a_size_limit_that_cannot_be_changed_says_so(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "LOCK_ATTEMPTS", 2)
    monkeypatch.setattr(migrating, "LOCK_PAUSE", 0.0)
    async with migrated(database) as connection, connected(database) as writer, writer.transaction():
        await add_event(writer)
        with pytest.raises(HeldUpError, match=f"the session with pid {writer.get_server_pid()}"):
            await set_max_event_bytes(connection, 2_000_000)


async def test_a_migration_waits_for_an_open_writer_in_small_steps_and_names_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "LOCK_PAUSE", 0.01)
    monkeypatch.setattr(migrating, "LOCK_ATTEMPTS", 3)
    door = next(each.version for each in migrations() if each.name == "refused_at_the_door")
    monkeypatch.setattr(checks, "migrations", lambda _: migrations()[: door - 1])
    async with connected(database) as connection, connected(database) as writer, connected(database) as other:
        await migrate(connection)
        transaction = writer.transaction()
        await transaction.start()
        await add_event(writer)
        monkeypatch.undo()
        monkeypatch.setattr(migrating, "LOCK_ATTEMPTS", 3)
        with pytest.raises(HeldUpError, match=f"the session with pid {writer.get_server_pid()}"):
            await migrate(connection)
        await asyncio.wait_for(add_event(other), 5)
        await transaction.commit()
        assert (await migrate(connection))[0].version == door


@pytest.mark.parametrize("before", [[], ["CREATE SCHEMA outbox"]], ids=["no schema", "empty schema"])
async def test_a_prepared_transaction_in_the_way_of_the_first_migration_is_named(
    database: str, before: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "LOCK_ATTEMPTS", 1)
    change = "COMMENT ON SCHEMA outbox IS 'mine'" if before else "CREATE SCHEMA outbox"
    async with connected(database) as connection, connected(database) as other:
        for statement in (*before, "BEGIN", change, "PREPARE TRANSACTION 'forgotten schema'"):
            await other.execute(statement)
        try:
            with pytest.raises(HeldUpError, match="the prepared transaction 'forgotten schema'"):
                await migrate(connection)
        finally:
            await other.execute("ROLLBACK PREPARED 'forgotten schema'")
        assert await migrate(connection)


async def test_a_role_that_may_not_migrate_hears_so(database: str) -> None:
    async with migrated(database) as connection:
        await make_roles(connection)
        await connection.execute("SET ROLE outbox_relay")
        with pytest.raises(PrivilegeError, match="permission denied"):
            await migrate(connection, "another")
        with pytest.raises(PrivilegeError, match="permission denied"):
            await set_max_event_bytes(connection, 5)


def test_options_that_contradict_each_other_are_refused(database: str) -> None:
    assert run(database, "--check", "--roles").exit_code == 2
    assert run(database, "--sql", "--json").exit_code == 2


def test_a_wrong_password_or_database_ends_with_3_and_does_not_show_the_password(database: str) -> None:
    for dsn in (with_parts(database, password="geheim7f3a"), with_parts(database, database="nowhere")):
        refused = run(dsn)
        assert refused.exit_code == 3
        assert "RELAY_POSTGRES_DSN" in refused.output
        assert "geheim7f3a" not in refused.output
        assert str(urlsplit(database).password) not in refused.output


def test_an_unreachable_server_ends_with_3(database: str) -> None:
    refused = run(with_parts(database, port=1))
    assert refused.exit_code == 3
    assert "connection refused" in refused.output


async def test_the_refusals_have_classes_of_their_own(database: str) -> None:
    with pytest.raises(PostgresRefusedError), translated():
        async with connected(with_parts(database, password="wrong")):
            pass
    with pytest.raises(PostgresLostError), translated():
        async with connected(with_parts(database, port=1)):
            pass


@pytest.mark.parametrize("option", ["CACHE 20", "INCREMENT BY 2", "CYCLE"])
async def test_a_sequence_that_gives_ids_out_of_order_is_refused(database: str, option: str) -> None:
    async with migrated(database) as connection:
        await check_sequence(connection)
        await connection.execute(f"ALTER SEQUENCE outbox.event_id {option}")
        with pytest.raises(SchemaError, match=r"ALTER SEQUENCE outbox\.event_id INCREMENT BY 1 CACHE 1 NO CYCLE"):
            await check_sequence(connection)
        await connection.execute("ALTER SEQUENCE outbox.event_id INCREMENT BY 1 CACHE 1 NO CYCLE")
        await check_sequence(connection)


async def test_a_sequence_behind_an_id_or_a_position_is_refused(database: str) -> None:
    async with migrated(database) as connection:
        for _ in range(3):
            await add_event(connection)
        await check_sequence(connection)
        await connection.execute("SELECT setval('outbox.event_id', 2)")
        with pytest.raises(SchemaError, match=r"behind id 3, .* setval\('outbox.event_id', 3\)"):
            await check_sequence(connection)
        await connection.execute("SELECT setval('outbox.event_id', 3)")
        await check_sequence(connection)
        await connection.execute("UPDATE outbox.lane SET position = 7 WHERE lane = 4")
        with pytest.raises(SchemaError, match="behind id 7"):
            await check_sequence(connection)


async def test_a_standby_is_refused_in_a_way_that_is_waited_for(own_postgres: PostgresServer) -> None:
    async with connected(own_postgres.dsn) as connection:
        await check_primary(connection)
    await asyncio.to_thread(own_postgres.stop)
    (own_postgres.folder / "data" / "standby.signal").touch()
    await asyncio.to_thread(own_postgres.start)
    async with connected(own_postgres.dsn) as connection:
        with pytest.raises(PostgresLostError, match="in recovery"):
            await check_primary(connection)


def test_a_limit_that_somebody_dropped_is_missed_and_restored(database: str) -> None:
    assert run(database).exit_code == 0

    async def drop() -> None:
        async with connected(database) as connection:
            await connection.execute("ALTER TABLE outbox.event DROP CONSTRAINT event_size")

    asyncio.run(drop())
    for arguments in ([], ["--check"]):
        missing = run(database, *arguments)
        assert missing.exit_code == 1
        assert missing.output == (
            "relay: the CHECK constraint event_size of the table outbox.event is missing, so events of any size are "
            "taken; restore it: `relay migrate --max-event-bytes 1000000`\n"
        )
    restored = run(database, "--max-event-bytes", "1000")
    assert restored.exit_code == 0
    assert restored.output.startswith("events may now have at most 1,000 bytes of key, payload, headers and type\n")
    assert json.loads(run(database, "--json").output)["max_event_bytes"] == 1_000
