"""Finding the SQL text and writing it for another schema."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relay.errors import SettingsError
from relay.postgres import sql

QUERIES = sorted(Path(__file__).parents[2].joinpath("sql", "queries").glob("*.sql"))
NAMES = [name for file in QUERIES for name in re.findall(r"^-- name: (\S+)$", file.read_text(), re.MULTILINE)]


def everything(schema: str) -> str:
    """All SQL text, written for a schema."""
    texts = [migration.sql for migration in sql.migrations(schema)] + [sql.query(name, schema) for name in NAMES]
    return "\n".join([*texts, sql.roles(schema)])


def test_migrations_are_numbered_without_gaps_and_named() -> None:
    versions = [migration.version for migration in sql.migrations()]
    assert versions == list(range(1, len(versions) + 1))
    assert all(migration.name for migration in sql.migrations())


def test_every_migration_says_which_older_programs_may_go_on() -> None:
    for migration in sql.migrations():
        assert 1 <= migration.compatible_from <= migration.version
        # The first was published before the rule.
        assert migration.version == 1 or "\n-- Runs with programs from version " in migration.sql, migration.name


def test_a_migration_that_does_not_say_needs_a_program_that_knows_it() -> None:
    assert sql.Migration(7, "drop", "DROP TABLE outbox.held;", "0" * 64).compatible_from == 7
    assert sql.Migration(7, "add", "\n-- Runs with programs from version 5.\n", "0" * 64).compatible_from == 5


@pytest.mark.parametrize("name", NAMES)
def test_every_query_begins_with_its_purpose(name: str) -> None:
    purpose, _, statement = sql.query(name).partition("\n")
    assert purpose.startswith("-- ")
    assert statement.strip()


def test_no_two_queries_have_the_same_name() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_an_unknown_query_is_a_mistake_of_the_program() -> None:
    with pytest.raises(KeyError):
        sql.query("no_such_query")


def test_another_schema_is_named_everywhere_and_nothing_else_changes() -> None:
    code = "\n".join(line.split("--")[0] for line in everything("billing").splitlines())
    # What is left of the word is no schema: `outbox` in front of a letter, say.
    assert not re.search(r"\boutbox\b(?!-)", code), re.findall(r".*\boutbox\b(?!-).*", code)
    assert "billing.event" in code
    assert "billing_writer" in code
    assert everything("billing").replace("billing", "outbox") == everything("outbox")


def test_checksums_do_not_depend_on_the_schema() -> None:
    assert [m.checksum for m in sql.migrations("billing")] == [m.checksum for m in sql.migrations()]


@pytest.mark.parametrize("name", ["", "Outbox", "1st", "a b", 'a"b', "a;b", "a.b", "pg_outbox", "x" * 64, "ä"])
def test_a_name_that_would_need_quoting_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="RELAY_POSTGRES_SCHEMA"):
        sql.query("scan", name)


def test_only_statements_that_are_rare_notify() -> None:
    """A NOTIFY takes a lock that all senders share, until its transaction is on disk."""
    notifying = {name for name in NAMES if "pg_notify" in sql.query(name)}
    assert notifying == {"replay_wake_up", "lanes_wake_up"}, "and with no statement that matters"
