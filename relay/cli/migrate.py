"""`relay migrate`: creates the outbox in a database, or updates it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.cli.adopt import from_debezium
from relay.cli.show.lines import say, say_json
from relay.postgres.admin.connection import admin_connection
from relay.postgres.admin.migrate import (
    make_roles,
    max_event_bytes,
    migrate,
    script,
    set_max_event_bytes,
    transaction_as,
)
from relay.postgres.checks import check_primary, schema_state
from relay.settings import load_postgres

if TYPE_CHECKING:
    import asyncpg

    from relay.postgres.sql import Migration


@dataclass
class _Report:
    """The work that the command did, or found."""

    schema: str
    version: int
    applied: list[str]
    pending: list[str]
    max_event_bytes: int | None
    limit_changed: bool = False
    roles: bool = False

    def lines(self) -> list[str]:
        """Return the lines for people."""
        told = [f"applied {name}" for name in self.applied] + [f"pending {name}" for name in self.pending]
        if self.limit_changed:
            told.append(f"events may now have at most {self.max_event_bytes:,} bytes of key, payload, headers and type")
        if self.roles:
            told.append(f"roles {self.schema}_writer, {self.schema}_relay and {self.schema}_admin are ready")
        if self.pending:
            told.append(f"the outbox in the schema {self.schema} is not up to date; run `relay migrate`")
        else:
            told.append(f"the outbox in the schema {self.schema} is up to date (version {self.version})")
        return told

    def facts(self) -> dict[str, object]:
        """Return it for machines."""
        return {
            "schema": self.schema,
            "version": self.version,
            "applied": self.applied,
            "pending": self.pending,
            "max_event_bytes": self.max_event_bytes,
        }


@click.command(name="migrate")
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if a migration is pending.")
@click.option("--sql", "as_sql", is_flag=True, help="Change nothing; print pending migrations as SQL.")
@click.option(
    "--max-event-bytes",
    "limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Refuse events larger than N bytes (key, payload, headers and type together).",
)
@click.option(
    "--roles", "with_roles", is_flag=True, help="Also create the roles for writers, the relay and administrators."
)
@click.option(
    "--owner",
    metavar="ROLE",
    help="Role that owns the outbox; the command acts as it (SET ROLE).  [default: the role that connects]",
)
@click.option(
    "--from-debezium",
    "table",
    metavar="TABLE",
    help="Change nothing; print SQL by which rows of an outbox table that Debezium reads become events.",
)
@click.option(
    "--connector",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The connector's configuration, if its event router has other options than Debezium's defaults.",
)
@click.option("--apply", is_flag=True, help="Run the SQL of --from-debezium.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    context: click.Context,
    check: bool,
    as_sql: bool,
    limit: int | None,
    with_roles: bool,
    owner: str | None,
    table: str | None,
    connector: Path | None,
    apply: bool,
    as_json: bool,
) -> None:
    """Create the outbox in the database of RELAY_POSTGRES_DSN, or update it.

    Safe to run at every deployment, and several times at once: it applies only migrations that are pending. The role
    that connects owns the tables; the relay itself can run with fewer rights (see --roles).
    """
    if (check or as_sql) and (limit is not None or with_roles or owner is not None):
        raise click.UsageError("--check and --sql change nothing: leave out --max-event-bytes, --roles and --owner")
    if as_sql and (check or as_json):
        raise click.UsageError("--sql prints SQL: leave out --check and --json")
    _check_adoption(table, connector, apply, owner, bool(check or as_sql or limit is not None or with_roles or as_json))
    settings = load_postgres()
    if table is not None:
        from_debezium(settings, table, connector, apply=apply, owner=owner)
        return

    async def work() -> _Report | str:
        async with admin_connection(settings) as connection:
            if as_sql:
                return script((await schema_state(connection, settings.schema_name)).pending, settings.schema_name)
            if check:
                return await _checked(connection, settings.schema_name)
            return await _migrated(connection, settings.schema_name, limit, with_roles, owner)

    _show(context, asyncio.run(work()), as_json)


def _show(context: click.Context, report: _Report | str, as_json: bool) -> None:
    if isinstance(report, str):
        if report:
            say(report.removesuffix("\n"))
        return
    if as_json:
        say_json(report.facts())
    else:
        say("\n".join(report.lines()))
    if report.pending:
        context.exit(1)


def _check_adoption(table: str | None, connector: Path | None, apply: bool, owner: str | None, others: bool) -> None:
    """Raise a usage error for options that do not go with --from-debezium, or only with it."""
    if table is None and (apply or connector is not None):
        raise click.UsageError("--connector and --apply belong to --from-debezium TABLE")
    if table is not None and others:
        raise click.UsageError("--from-debezium goes with --connector, --apply and --owner alone")
    if table is not None and owner is not None and not apply:
        raise click.UsageError("--from-debezium only prints SQL: leave out --owner, or add --apply")


async def _checked(connection: asyncpg.Connection, schema: str) -> _Report:
    state = await schema_state(connection, schema)
    limit = None if state.pending else await max_event_bytes(connection, schema)
    return _Report(schema, state.version, [], _names(state.pending), limit)


async def _migrated(
    connection: asyncpg.Connection, schema: str, limit: int | None, with_roles: bool, owner: str | None
) -> _Report:
    await check_primary(connection)
    applied = await migrate(connection, schema, owner)
    changed = limit is not None and await set_max_event_bytes(connection, limit, schema, owner)
    if with_roles:
        await make_roles(connection, schema, owner)
    async with transaction_as(connection, owner):
        version = (await schema_state(connection, schema)).version
        current = await max_event_bytes(connection, schema)
    return _Report(schema, version, _names(applied), [], current, changed, with_roles)


def _names(of: list[Migration] | tuple[Migration, ...]) -> list[str]:
    return [f"{migration.version:04} {migration.name}" for migration in of]
