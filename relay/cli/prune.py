"""`relay prune`: what housekeeping would do about old segments and old requests, and doing it now."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from asyncpg import exceptions as pg
from rich.text import Text

from relay.admin.connection import open_outbox
from relay.admin.counts import counted, plural
from relay.admin.pruning import MOST_COUNTED, Over, Plan, Planned, Pruned, plan, prune
from relay.admin.segments import mebibytes
from relay.cli.options import exit_codes, json_option
from relay.cli.show.console import console
from relay.cli.show.lines import say, say_json
from relay.cli.show.tables import PlainTable, table
from relay.errors import RefusedError
from relay.postgres.admin.connection import admin_connection
from relay.postgres.checks import check_schema
from relay.postgres.errors import PrivilegeError
from relay.postgres.sql import query
from relay.settings import load_postgres, load_segment
from relay.text import one_line, plain

if TYPE_CHECKING:
    from relay.settings import PostgresSettings, SegmentSettings

EPILOG = exit_codes("done, or shown", "something could not be done; the lines say what and why")

_DONE = {"drop": "would be dropped", "shrink": "would be dropped, but for {}", "keep": "kept: {}"}


@click.command(name="prune", epilog=EPILOG)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@json_option
def command(dry_run: bool, as_json: bool) -> None:
    """Drop old segments and forget old requests now, as the relay's housekeeping does.

    Running relays do so by themselves, once a minute. The command is for looking (--dry-run), and for when none runs.
    The settings are those of the relay: RELAY_SEGMENT_RETENTION and the others of that group.

    What is needed of an old segment, failed and held events, stays in a small one in its place. To look takes the
    rights of the role outbox_admin, to prune those of outbox_relay.
    """
    postgres, segment = load_postgres(), load_segment()
    if dry_run:
        _show(asyncio.run(_plan(postgres, segment)), as_json=as_json)
        return
    done = asyncio.run(_prune(postgres, segment, (lambda _: None) if as_json else _tell))
    if as_json:
        say_json([{**each.segment._asdict(), "events_kept": each.kept, "error": each.error} for each in done])
    elif not done:
        say("no segment is due: relay prune --dry-run says why")
    if failed := [each for each in done if each.error]:
        raise RefusedError(f"{counted(len(failed), 'segment')} could not be retired; all else was done")


async def _plan(postgres: PostgresSettings, segment: SegmentSettings) -> Plan:
    async with open_outbox(postgres) as outbox:
        return await plan(outbox.connection, outbox.schema, segment)


async def _prune(postgres: PostgresSettings, segment: SegmentSettings, report: object) -> list[Pruned]:
    schema = postgres.schema_name
    async with admin_connection(postgres) as connection:
        await check_schema(connection, schema)
        try:
            return await prune(connection, schema, segment, report)  # type: ignore[arg-type]
        except PrivilegeError as error:
            role = None
            with suppress(pg.PostgresError, pg.InterfaceError, OSError):
                role = await connection.fetchval(query("current_role"))
            raise PrivilegeError(
                f"PostgreSQL: {one_line(error.__cause__ or error)}; to prune takes the rights of the role "
                f"{schema}_relay: run this with the settings of a relay, or as an administrator run GRANT "
                f"{schema}_relay TO {role or 'the role that connects'}"
            ) from error


def _tell(pruned: Pruned) -> None:
    name = pruned.segment.name
    if pruned.error:
        say(f"{name}: {plain(pruned.error)}", err=True)
    elif pruned.kept is None:
        say(f"{name} is kept: copying what is needed of it would free little, or it came to be needed just now")
    elif pruned.kept:
        say(f"{name} was dropped, but for {counted(pruned.kept, 'event')} in a small one in its place")
    else:
        say(f"{name} was dropped")


def _show(found: Plan, *, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "segments": [
                    {
                        "name": each.segment.name,
                        "lower_id": each.segment.lower_id,
                        "upper_id": each.segment.upper_id,
                        "bytes": each.segment.bytes,
                        "kept": each.segment.kept,
                        "needed": each.segment.needed,
                        "outcome": each.outcome,
                        "why": each.why,
                    }
                    for each in found.segments
                ],
                "over": found.over._asdict(),
            }
        )
        return
    on = console()
    on.print(_segments(found.segments))
    for line in _over(found.over):
        on.print(Text(line))


def _segments(planned: list[Planned]) -> PlainTable:
    made = table("segment", ">from id", ">to id", ">MiB", "*what would be done")
    for segment, outcome, why in planned:
        made.add_row(
            segment.name,
            f"{segment.lower_id:,}",
            f"{segment.upper_id - 1:,}",
            mebibytes(segment.bytes),
            Text(_DONE[outcome].format(why)),
        )
    return made


def _over(over: Over) -> list[str]:
    named = (
        (over.replay_receipts, "receipt", "of replays that are long over"),
        (over.actions, "request", "that was finished long ago"),
        (over.replicas, "replica", "that is long gone"),
    )
    lines = []
    for number, word, which in named:
        if number:
            at_least = "at least " if number >= MOST_COUNTED else ""
            which = which if number == 1 else which.replace("that was", "that were").replace("that is", "that are")
            lines.append(f"{at_least}{number:,} {plural(word, number)} {which} would be forgotten")
    return lines
