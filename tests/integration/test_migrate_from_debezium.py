"""`relay migrate --from-debezium`: which tables are taken over, what becomes of their rows, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.postgres.admin import migrate as migrating
from relay.postgres.admin.migrate import make_roles
from tests.support.postgres.outbox import connected, migrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEFAULT = """
CREATE TABLE outboxevent (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype varchar(255) NOT NULL,
    aggregateid varchar(255),
    type varchar(255) NOT NULL,
    payload jsonb
)
"""
INSERT = "INSERT INTO outboxevent (id, aggregatetype, aggregateid, type, payload) VALUES ($1, $2, $3, $4, $5)"


@pytest.fixture
async def shop(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    """A database with the table of Debezium's documentation, and an outbox."""
    async with migrated(database) as connection:
        await connection.execute(DEFAULT)
        yield connection


def run(dsn: str, *arguments: str, schema: str = "outbox") -> Result:
    """Run the command in this process."""
    environment = {"RELAY_POSTGRES_DSN": dsn, "RELAY_POSTGRES_SCHEMA": schema}
    return CliRunner().invoke(main, ["migrate", *arguments], env=environment)


async def adopt(dsn: str, table: str = "outboxevent", *arguments: str, schema: str = "outbox") -> str:
    """Take a table over; returns what is said."""
    done = await asyncio.to_thread(run, dsn, "--from-debezium", table, "--apply", *arguments, schema=schema)
    assert done.exit_code == 0, done.output
    return done.output


async def refused(dsn: str, table: str, *arguments: str) -> str:
    """Try to take a table over; returns why it is not."""
    done = await asyncio.to_thread(run, dsn, "--from-debezium", table, *arguments)
    assert done.exit_code in (1, 2), done.output
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


async def events(connection: asyncpg.Connection, schema: str = "outbox") -> list[tuple[Any, ...]]:
    """Topic, key, payload, headers and type of all events."""
    rows = await connection.fetch(f"SELECT topic, key, payload, headers, type FROM {schema}.event ORDER BY id")
    return [(row[0], row[1], row[2], json.loads(row[3]), row[4]) for row in rows]


async def as_role(connection: asyncpg.Connection, dsn: str, statements: str = "") -> tuple[str, str]:
    """A new role that may log in, and the DSN with it; {role} stands for it in `statements`."""
    role = f"shop_{uuid4().hex[:8]}"
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; {statements.format(role=role)}")
    parts = urlsplit(dsn)
    return role, urlunsplit(parts._replace(netloc=f"{role}:x@{parts.hostname}:{parts.port}"))


async def test_a_row_becomes_an_event_with_debeziums_topic_key_payload_and_header(
    shop: asyncpg.Connection, database: str
) -> None:
    said = await adopt(database, "public.outboxevent")
    assert "rows that are inserted into public.outboxevent from now on are events" in said
    id_ = uuid4()
    await shop.execute(INSERT, id_, "order", "42", "OrderPlaced", '{"total": 1}')
    await shop.execute("DELETE FROM outboxevent")
    await shop.execute(INSERT, id_, "order", None, "OrderLost", None)
    assert await events(shop) == [
        ("outbox.event.order", b"42", b'{"total": 1}', {"id": str(id_)}, "OrderPlaced"),
        ("outbox.event.order", None, None, {"id": str(id_)}, "OrderLost"),
    ]
    assert {row["event_id"] for row in await shop.fetch("SELECT event_id FROM outbox.event")} == {id_}


async def test_an_event_exists_only_if_its_row_is_committed_and_only_for_rows_that_are_inserted(
    shop: asyncpg.Connection, database: str
) -> None:
    await adopt(database)
    id_ = uuid4()
    transaction = shop.transaction()
    await transaction.start()
    await shop.execute(INSERT, uuid4(), "order", "1", "x", "{}")
    await transaction.rollback()
    await shop.execute(INSERT, id_, "order", "1", "x", "{}")
    await shop.execute(f"{INSERT} ON CONFLICT DO NOTHING", id_, "order", "2", "x", "{}")
    await shop.execute("UPDATE outboxevent SET type = 'y'")
    await shop.execute("DELETE FROM outboxevent")
    columns = ["aggregatetype", "aggregateid", "type", "payload"]
    rows = [("order", str(number), "x", "{}") for number in (3, 4)]
    await shop.copy_records_to_table("outboxevent", records=rows, columns=columns)
    assert [key for _, key, *_ in await events(shop)] == [b"1", b"3", b"4"]


async def test_what_is_printed_does_the_same_and_changes_nothing_before_it_is_run(
    shop: asyncpg.Connection, database: str
) -> None:
    done = await asyncio.to_thread(run, database, "--from-debezium", "outboxevent")
    assert done.exit_code == 0
    await shop.execute(INSERT, uuid4(), "order", "1", "x", "{}")
    await shop.execute(done.output)
    await shop.execute(INSERT, uuid4(), "order", "2", "x", "{}")
    assert [key for _, key, *_ in await events(shop)] == [b"2"]


async def test_what_a_configuration_says_is_no_statement_of_what_is_printed(
    shop: asyncpg.Connection, database: str, tmp_path: Path
) -> None:
    config = {
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "header.converter": "x\nDROP TABLE outboxevent;\n--",
    }
    file = tmp_path / "connector.json"
    file.write_text(json.dumps(config))
    done = await asyncio.to_thread(run, database, "--from-debezium", "outboxevent", "--connector", str(file))
    assert [line for line in done.output.splitlines() if "DROP TABLE" in line] == [
        "-- Headers will be written as they are, and not as x DROP TABLE outboxevent; -- writes them."
    ]


async def test_a_second_run_takes_the_place_of_the_first(
    shop: asyncpg.Connection, database: str, tmp_path: Path
) -> None:
    await adopt(database)
    connector = tmp_path / "connector.json"
    connector.write_text(
        json.dumps(
            {
                "name": "shop",
                "config": {
                    "database.password": "geheim",
                    "transforms": "outbox",
                    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
                    "transforms.outbox.route.topic.replacement": "${routedByValue}.events",
                    "transforms.outbox.table.field.event.key": "type",
                    "transforms.outbox.table.fields.additional.placement": "aggregateid:header:it's,type:header",
                    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
                },
            }
        )
    )
    said = await adopt(database, "outboxevent", "--connector", str(connector))
    assert "note: The configuration names no key.converter" in said
    assert "geheim" not in said
    id_ = uuid4()
    await shop.execute(INSERT, id_, "order", None, "OrderPlaced", "{}")
    assert await events(shop) == [
        ("order.events", b"OrderPlaced", b"{}", {"id": str(id_), "type": "OrderPlaced"}, "OrderPlaced")
    ]
    await shop.execute(INSERT, uuid4(), "order", "\\'", "x", "{}")
    assert (await events(shop))[1][3]["it's"] == "\\'"


@pytest.mark.parametrize(
    ("kinds", "row", "event"),
    [
        ("text text text text text", "'a', 'order', 'k', 'x', 'ü €'", (b"k", "ü €".encode(), "a")),
        ("bigint text uuid text bytea", r"7, 'order', gen_random_uuid(), 'x', '\x00ff'", (None, b"\x00\xff", "7")),
        ("uuid text bigint text json", "gen_random_uuid(), 'order', 42, 'x', '{ \"a\":1}'", (b"42", b'{ "a":1}', None)),
        ("uuid text bytea text text", r"gen_random_uuid(), 'order', '\x00ff', 'x', ''", (b"\x00\xff", b"", None)),
        ("code kind code kind code", "'i', 'order', 'k', 'order', 'p'", (b"k", b"p", "i")),
        ("uuid text char(3) text json", "gen_random_uuid(), 'order', 'k', 'x', NULL", (b"k", None, None)),
    ],
)
async def test_columns_may_have_any_type_that_debezium_writes_as_it_is(
    database: str, kinds: str, row: str, event: tuple[bytes | None, bytes | None, str | None]
) -> None:
    names = ("id", "aggregatetype", "aggregateid", "type", "payload")
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds.split(), strict=True))
    async with migrated(database) as connection:
        await connection.execute("CREATE DOMAIN code AS text CHECK (VALUE <> ''); CREATE TYPE kind AS ENUM ('order')")
        await connection.execute(f"CREATE TABLE outboxevent ({columns})")
        await adopt(database)
        await connection.execute(f"INSERT INTO outboxevent VALUES ({row})")
        ((topic, key, payload, headers, _),) = await events(connection)
        assert topic == "outbox.event.order"
        assert (event[0] or key, payload, event[2] or headers["id"]) == (key, event[1], headers["id"])


@pytest.mark.parametrize(
    ("kind", "key", "written"),
    [
        ("text", "'a\"b'", b'"a\\"b"'),
        ("bigint", "42", b"42"),
        ("uuid", "'7c9e6679-7425-40de-944b-e07fc1f90ae7'", b'"7c9e6679-7425-40de-944b-e07fc1f90ae7"'),
        ("bytea", "decode(repeat('ff', 60), 'hex')", f'"{"/" * 80}"'.encode()),
        ("text", "NULL", b"null"),
        ("int", "NULL", b"null"),
    ],
)
async def test_keys_and_payloads_can_be_json_as_debezium_writes_it(
    database: str, tmp_path: Path, kind: str, key: str, written: bytes
) -> None:
    connector = tmp_path / "application.properties"
    connector.write_text(
        "transforms=o\ntransforms.o.type=io.debezium.transforms.outbox.EventRouter\n"
        + "".join(
            f"debezium.format.{part}=json\ndebezium.format.{part}.schemas.enable=false\n" for part in ("key", "value")
        )
    )
    payload_kind = "text" if kind in ("bigint", "int", "uuid") else kind
    async with migrated(database) as connection:
        await connection.execute(
            f"CREATE TABLE outboxevent (id uuid, aggregatetype text, aggregateid {kind}, payload {payload_kind})"
        )
        await adopt(database, "outboxevent", "--connector", str(connector))
        payload = key if kind == payload_kind else "NULL"
        await connection.execute(f"INSERT INTO outboxevent VALUES (gen_random_uuid(), 'order', {key}, {payload})")
        ((_, found, value, _, _),) = await events(connection)
        assert (found, value) == (written, written if kind == payload_kind else b"null")


async def test_names_may_need_any_quotes(database: str, tmp_path: Path) -> None:
    nasty = "a\"b$row$'\\ -- <key> outbox.event {x}"
    async with migrated(database) as connection:
        quoted = await connection.fetchval("SELECT quote_ident($1)", nasty)
        await connection.execute(f"CREATE SCHEMA {quoted}")
        await connection.execute(
            f"CREATE TABLE {quoted}.{quoted} ({quoted} text, id uuid, aggregatetype text, payload text)"
        )
        connector = tmp_path / "connector.json"
        options = {"table.field.event.key": nasty, "table.fields.additional.placement": f"{nasty}:header:{nasty}"}
        connector.write_text(
            json.dumps(
                {"transforms": "o", "transforms.o.type": "io.debezium.transforms.outbox.EventRouter"}
                | {f"transforms.o.{name}": value for name, value in options.items()}
            )
        )
        for arguments in ([], ["--apply"]):
            table = f"{quoted}.{quoted}"
            done = await asyncio.to_thread(
                run, database, "--from-debezium", table, "--connector", str(connector), *arguments
            )
            assert done.exit_code == 0, done.output
            if not arguments:
                await connection.execute(done.output)
            await connection.execute("TRUNCATE outbox.event")
            await connection.execute(f"INSERT INTO {table} VALUES ('k', gen_random_uuid(), 'order', 'p')")
            ((_, key, payload, headers, kind),) = await events(connection)
            assert (key, payload, headers[nasty], kind) == (b"k", b"p", "k", None)


async def test_the_rows_of_all_parts_of_a_partitioned_table_become_events(database: str) -> None:
    async with migrated(database) as connection:
        columns = "id uuid, aggregatetype text, aggregateid text, type text, payload text"
        await connection.execute(
            f"CREATE TABLE outboxevent ({columns}) PARTITION BY LIST (aggregatetype);"
            "CREATE TABLE orders PARTITION OF outboxevent FOR VALUES IN ('order')"
        )
        assert "is a part of public.outboxevent" in await refused(database, "public.orders")
        await adopt(database)
        await connection.execute("CREATE TABLE others PARTITION OF outboxevent DEFAULT")
        for table, kind in (("outboxevent", "order"), ("orders", "order"), ("outboxevent", "x"), ("others", "y")):
            await connection.execute(f"INSERT INTO {table} VALUES (gen_random_uuid(), '{kind}', '1', 't', 'p')")
        assert [topic for topic, *_ in await events(connection)] == [
            f"outbox.event.{kind}" for kind in ("order", "order", "x", "y")
        ]


async def test_an_outbox_with_another_name_is_written_into(database: str) -> None:
    async with migrated(database, "billing") as connection:
        await connection.execute(DEFAULT.replace("outboxevent", "outbox"))
        await adopt(database, "public.outbox", schema="billing")
        await connection.execute(INSERT.replace("outboxevent", "outbox"), uuid4(), "order", "1", "x", "{}")
        assert [topic for topic, *_ in await events(connection, "billing")] == ["outbox.event.order"]


async def test_an_event_has_the_trace_of_its_transaction(shop: asyncpg.Connection, database: str) -> None:
    await adopt(database)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with shop.transaction():
        await shop.execute(f"SET LOCAL outbox.traceparent = '{trace}'")
        await shop.execute(INSERT, uuid4(), "order", "1", "x", "{}")
    ((_, _, _, headers, _),) = await events(shop)
    assert headers["traceparent"] == trace


async def test_rows_that_were_never_sent_become_events_when_they_are_inserted_again(
    shop: asyncpg.Connection, database: str
) -> None:
    await shop.execute(INSERT, uuid4(), "order", "1", "x", "{}")
    await adopt(database)
    await shop.execute(
        "WITH unsent AS (DELETE FROM outboxevent RETURNING *) INSERT INTO outboxevent SELECT * FROM unsent"
    )
    assert [key for _, key, *_ in await events(shop)] == [b"1"]
    assert await shop.fetchval("SELECT count(*) FROM outboxevent") == 1


async def test_a_row_that_the_outbox_refuses_is_not_inserted(shop: asyncpg.Connection, database: str) -> None:
    await adopt(database)
    for kind, payload in (("no topic", "{}"), ("order", json.dumps("x" * 1_000_001))):
        with pytest.raises(asyncpg.CheckViolationError, match=r"event_topic|event_size"):
            await shop.execute(INSERT, uuid4(), kind, "1", "x", payload)
    assert await shop.fetchval("SELECT count(*) FROM outboxevent") == 0


class TestRights:
    async def test_who_inserts_rows_is_given_the_right_to_enqueue_and_no_other(
        self, shop: asyncpg.Connection, database: str
    ) -> None:
        writer, dsn = await as_role(shop, database, "GRANT INSERT ON outboxevent TO {role}")
        some, _ = await as_role(shop, database, "GRANT INSERT (id) ON outboxevent TO {role}")
        reader, _ = await as_role(shop, database, "GRANT SELECT ON outboxevent TO {role}")
        # As where somebody has hardened the database.
        await shop.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC")
        said = await adopt(database)
        assert f"the role {writer} may enqueue now" in said
        assert some in said
        assert reader not in said
        async with connected(dsn) as connection:
            await connection.execute(INSERT, uuid4(), "order", "1", "x", "{}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch("SELECT FROM outbox.event")
        assert len(await events(shop)) == 1
        assert "may enqueue now" not in await adopt(database)
        await shop.execute(f"DROP OWNED BY {writer}, {some}, {reader}; DROP ROLE {writer}, {some}, {reader}")

    async def test_a_table_that_everybody_may_insert_into_is_refused(
        self, shop: asyncpg.Connection, database: str
    ) -> None:
        await shop.execute("GRANT INSERT ON outboxevent TO PUBLIC")
        assert "every role may insert into public.outboxevent" in await refused(database, "outboxevent", "--apply")

    async def test_who_may_not_make_the_trigger_hears_which_right_is_missing(
        self, shop: asyncpg.Connection, database: str
    ) -> None:
        owner, dsn = await as_role(shop, database)
        name = await shop.fetchval("SELECT quote_ident(current_database())")
        await shop.execute(f"DROP SCHEMA outbox CASCADE; GRANT CREATE ON DATABASE {name} TO {owner}")
        assert (await asyncio.to_thread(run, dsn)).exit_code == 0
        assert f"GRANT TRIGGER ON public.outboxevent TO {owner}" in await refused(dsn, "outboxevent", "--apply")
        await shop.execute(f"GRANT TRIGGER ON outboxevent TO {owner}")
        await adopt(dsn)
        await shop.execute(INSERT, uuid4(), "order", "1", "x", "{}")
        assert len(await events(shop)) == 1
        await shop.execute(f"DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}")

    async def test_who_does_not_own_the_outbox_is_refused(self, shop: asyncpg.Connection, database: str) -> None:
        role, dsn = await as_role(shop, database, "GRANT ALL ON outboxevent TO {role}")
        await make_roles(shop)
        await shop.execute(f"GRANT outbox_admin TO {role}")
        assert "belongs to" in await refused(dsn, "outboxevent", "--apply")
        await shop.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


class TestRefused:
    @pytest.mark.parametrize("table", ["nothing", "nowhere.nothing", "public.Outboxevent2", '"OutboxEvent"'])
    async def test_a_table_that_is_not_there(self, shop: asyncpg.Connection, database: str, table: str) -> None:
        assert f"there is no table {table} in this database" in await refused(database, table)

    @pytest.mark.parametrize("table", ["", "a.b.c", "a b", '"', "public.", "outboxevent; DROP TABLE outboxevent"])
    async def test_a_name_that_is_none(self, shop: asyncpg.Connection, database: str, table: str) -> None:
        assert "is not the name of a table" in await refused(database, table)

    @pytest.mark.parametrize(
        ("statement", "table", "reason"),
        [
            ("SELECT", "outbox.event", "is a table of the relay's own"),
            ("CREATE VIEW seen AS TABLE outboxevent", "seen", "public.seen is not a table"),
            ("CREATE TABLE child () INHERITS (outboxevent)", "outboxevent", "other tables inherit"),
            (
                "ALTER TABLE outboxevent DROP payload",
                "outboxevent",
                "has no column payload (table.field.event.payload)",
            ),
            ("ALTER TABLE outboxevent RENAME aggregateid TO key", "outboxevent", "has no column aggregateid"),
            (
                "ALTER TABLE outboxevent ALTER payload TYPE xml USING NULL",
                "outboxevent",
                "has the type xml; table.field.event.payload takes text, json, jsonb or bytea",
            ),
            (
                "ALTER TABLE outboxevent ALTER aggregateid TYPE numeric USING 1",
                "outboxevent",
                "the column aggregateid of public.outboxevent has the type numeric",
            ),
            (
                "ALTER TABLE outboxevent ALTER aggregatetype TYPE int USING 1",
                "outboxevent",
                "has the type int4; route.by.field takes text or enum",
            ),
            ('ALTER TABLE outboxevent ADD "a\u202eb" int', "outboxevent", "characters that nobody can see"),
            ("DELETE FROM outbox.migration WHERE version > 9", "outboxevent", "run `relay migrate` first"),
        ],
    )
    async def test_a_table_that_cannot_be_taken_over(
        self, shop: asyncpg.Connection, database: str, statement: str, table: str, reason: str
    ) -> None:
        await shop.execute(statement)
        assert reason in await refused(database, table)
        assert reason in await refused(database, table, "--apply")
        assert await shop.fetchval("SELECT count(*) FROM pg_trigger WHERE tgname = 'outbox_from_debezium'") == 0

    async def test_a_column_that_is_computed_when_it_is_read(self, shop: asyncpg.Connection, database: str) -> None:
        """A trigger sees null there: the row would be a tombstone."""
        if shop.get_server_version().major < 18:
            pytest.skip("this server has no such columns")
        await shop.execute("ALTER TABLE outboxevent RENAME payload TO body")
        await shop.execute("ALTER TABLE outboxevent ADD payload jsonb GENERATED ALWAYS AS (body) VIRTUAL")
        assert "the column payload of public.outboxevent has the type virtual generated column" in await refused(
            database, "outboxevent"
        )

    async def test_a_database_without_an_outbox(self, database: str) -> None:
        async with connected(database) as connection:
            await connection.execute(DEFAULT)
        assert "run `relay migrate`" in await refused(database, "outboxevent")

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--apply"],
            ["--connector", "/dev/null"],
            ["--from-debezium", "outboxevent", "--check"],
            ["--from-debezium", "outboxevent", "--json"],
            ["--from-debezium", "outboxevent", "--owner", "me"],
            ["--from-debezium", "outboxevent", "--connector", "/no/such/file"],
        ],
    )
    def test_options_that_do_not_go_together(self, database: str, arguments: list[str]) -> None:
        assert run(database, *arguments).exit_code == 2

    async def test_a_relay_that_runs_would_be_faster_than_debezium(
        self, shop: asyncpg.Connection, database: str
    ) -> None:
        await shop.execute(
            "INSERT INTO outbox.replica (id, name, version, lease_expires_at)"
            " VALUES (gen_random_uuid(), 'relay-1', '1', now() + interval '1 minute')"
        )
        assert "the relay runs (relay-1), and would publish" in await refused(database, "outboxevent", "--apply")
        await shop.execute("UPDATE outbox.replica SET lease_expires_at = now()")
        await adopt(database)
        # The second time, Debezium's part is over.
        await shop.execute("UPDATE outbox.replica SET lease_expires_at = now() + interval '1 minute'")
        await adopt(database)

    async def test_a_writer_who_does_not_end_is_named(
        self, shop: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrating, "LOCK_ATTEMPTS", 1)
        async with connected(database) as writer:
            await writer.execute("BEGIN")
            await writer.execute(INSERT, uuid4(), "order", "1", "x", "{}")
            said = await refused(database, "outboxevent", "--apply")
            assert (
                "the trigger on public.outboxevent has to wait for locks that others hold: the session with pid" in said
            )
            await writer.execute("COMMIT")
        await adopt(database)
