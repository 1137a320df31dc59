"""`relay lanes`: who owns which lanes, and moving them for maintenance."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

import click

from relay.cli.owners import lanes_page, replicas_table
from relay.cli.show.console import console
from relay.cli.show.lines import say, say_json
from relay.cli.spans import span
from relay.cli.who import who
from relay.cli.words import duration, plural, ranges
from relay.decide.shares import LANES
from relay.errors import RelayError
from relay.postgres.admin.connection import admin_connection
from relay.postgres.admin.lanes import OwnedLane, Replica, ask, read_ownership
from relay.postgres.checks import check_schema
from relay.settings import load_postgres
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import asyncpg

LOOK_INTERVAL = 0.1

EPILOG = """\b
Exit codes:
  0  done, or asked for
  1  refused, and nothing was changed
  2  the command or the settings are wrong
  3  PostgreSQL cannot be reached
"""


class UnknownReplicaError(RelayError):
    """No live replica is meant, or it is not clear which."""


def _parse(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[int]:
    """Lanes as numbers, or several as in `0-7`; ascending, each once."""
    found: set[int] = set()
    for value in values:
        match = re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", value)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < LANES:
            raise click.BadParameter(
                f"{value!r} is no lane; write a number from 0 to {LANES - 1}, or several as 0-7", context, parameter
            )
        found.update(range(first, last + 1))
    return sorted(found)


class _Asked(NamedTuple):
    """What became of it by the end of waiting."""

    lanes: list[int]
    to_go: list[int]
    """Those that their owner has not handed over yet."""


_LANES = click.argument("lanes", nargs=-1, required=True, callback=_parse, metavar="LANE...")
_REASON = click.option("--reason", default="", metavar="TEXT", help="Why; shown with who asked.")
_WAIT = click.option(
    "--wait",
    callback=span("0s", "1h"),
    default="10s",
    show_default=True,
    metavar="SPAN",
    help="Wait at most so long until it is done. What was asked for is done later too.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="lanes", invoke_without_command=True, epilog=EPILOG)
@_JSON
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show replicas and who owns which lanes; release or move lanes for maintenance.

    \b
      relay lanes
      relay lanes move 0-3 --to relay-2 --for 10m
      relay lanes release 5 --for 2m --reason "repairing rows of lane 5"

    Lanes share themselves out; this is for the exception. What you ask for is recorded in PostgreSQL. The owner of a
    lane takes nothing more from it, settles what it took, and hands it over: nothing is lost, repeated or reordered.
    """
    if context.invoked_subcommand is None:
        asyncio.run(_show(as_json))
    elif as_json:
        raise click.UsageError(f"write --json after {context.invoked_subcommand}")


@command.command(epilog=EPILOG)
@_LANES
@click.option("--to", "target", required=True, metavar="REPLICA", help="Name or id of a live replica.")
@click.option(
    "--for",
    "seconds",
    callback=span("1s", "30d"),
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="How long they stay there (90s, 30m, 2h, 3d), as long as that replica lives.",
)
@_REASON
@_WAIT
@_JSON
def move(lanes: list[int], target: str, seconds: float, reason: str, wait: float, as_json: bool) -> None:
    """Move lanes to a replica.

    They stay there for the time given, or until that replica stops, dies, or loses its lease or its connections to
    PostgreSQL; then they are shared out as all others. The other lanes are shared among all replicas so that each has
    about as many.
    """

    async def act() -> tuple[_Asked, str]:
        async with _opened() as (connection, schema):
            replica = _find(target, (await read_ownership(connection, schema))[0])
            await ask(connection, lanes, replica.id, seconds, plain(reason.strip()), who(), schema)

            def arrived(lane: OwnedLane) -> bool:
                return lane.owner == replica.id

            return await _wait(connection, schema, lanes, arrived, wait), replica.name

    asked, name = asyncio.run(act())
    _tell(asked, f"moved to {plain(name)} for {duration(seconds)}", as_json)


@command.command(epilog=EPILOG)
@_LANES
@click.option(
    "--for",
    "seconds",
    callback=span("0s", "30d"),
    default="0s",
    metavar="SPAN",
    help="Nobody owns them for so long (90s, 30m, 2h, 3d), and their events wait. Without it: whoever has room claims "
    "them at once.",
)
@_REASON
@_WAIT
@_JSON
def release(lanes: list[int], seconds: float, reason: str, wait: float, as_json: bool) -> None:
    """Have lanes given back by their owners; ends what was asked of them before.

    Without --for they are claimed anew at once, by any replica with room for them, perhaps by the same one: it then
    starts from the tables, as after a take-over.
    """

    async def act() -> _Asked:
        async with _opened() as (connection, schema):
            epochs = await ask(connection, lanes, None, seconds, plain(reason.strip()), who(), schema)

            def released(lane: OwnedLane) -> bool:
                # A claim that began earlier may have been committed since: whoever owns a parked lane gives it back.
                return lane.replica is None or (lane.epoch != epochs[lane.lane] and not lane.parked)

            return await _wait(connection, schema, lanes, released, wait)

    told = "released" if not seconds else f"released; nobody claims them for {duration(seconds)}"
    _tell(asyncio.run(act()), told, as_json)


async def _show(as_json: bool) -> None:
    async with _opened() as (connection, schema):
        replicas, lanes = await read_ownership(connection, schema)
    if as_json:
        found = {"replicas": [asdict(each) for each in replicas], "lanes": [asdict(each) for each in lanes]}
        say_json(found)
        return
    page = console()
    page.print(replicas_table(replicas, with_ids=True) if replicas else "no replica is on the list")
    page.print()
    page.print(lanes_page(lanes))


def _find(target: str, replicas: Sequence[Replica]) -> Replica:
    """The live replica of this name, this id, or an id that begins so."""
    alive = [each for each in replicas if each.alive and not each.draining]
    found = [each for each in alive if each.name == target]
    if not found and len(target) >= 4:
        found = [each for each in alive if str(each.id).startswith(target.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(str(each.id)[:8] for each in found)
        raise UnknownReplicaError(f"{len(found)} live replicas are called {plain(target)}; say which by its id: {ids}")
    if any(target in (each.name, str(each.id)) for each in replicas):
        raise UnknownReplicaError(
            f"replica {plain(target)} is stopping or dead; move the lanes to a live one, see `relay lanes`"
        )
    names = ", ".join(sorted(each.name for each in alive)) or "none"
    raise UnknownReplicaError(
        f"no live replica is called {plain(target)}, and none has such an id; there are: {plain(names)}"
    )


async def _wait(
    connection: asyncpg.Connection,
    schema: str,
    lanes: Sequence[int],
    done: Callable[[OwnedLane], bool],
    seconds: float,
) -> _Asked:
    end = time.monotonic() + seconds
    while True:
        _, now = await read_ownership(connection, schema)
        to_go = [lane.lane for lane in now if lane.lane in lanes and not done(lane)]
        if not to_go or time.monotonic() >= end:
            return _Asked(list(lanes), to_go)
        await asyncio.sleep(LOOK_INTERVAL)


def _tell(asked: _Asked, done: str, as_json: bool) -> None:
    if as_json:
        say_json({"lanes": asked.lanes, "to_go": asked.to_go}, indent=None)
        return
    if ready := [lane for lane in asked.lanes if lane not in asked.to_go]:
        say(f"{plural('lane', len(ready))} {ranges(ready)}: {done}")
    if asked.to_go:
        say(
            f"{plural('lane', len(asked.to_go))} {ranges(asked.to_go)}: asked for; each is handed over once its owner "
            "has settled what it took, see `relay lanes`"
        )


@asynccontextmanager
async def _opened() -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    settings = load_postgres()
    async with admin_connection(settings.dsn.get_secret_value(), settings.connect_timeout) as connection:
        await check_schema(connection, settings.schema_name)
        yield connection, settings.schema_name
