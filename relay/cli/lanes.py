"""`relay lanes`: who owns which lanes, and moving them for maintenance."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict

import click

from relay.admin.connection import open_outbox
from relay.admin.counts import plural, ranges
from relay.admin.lanes import LanesAsked, move_lanes, release_lanes
from relay.admin.times import duration
from relay.cli.options import exit_codes, json_option, reason_option, span
from relay.cli.requester import requester
from relay.cli.show.console import console
from relay.cli.show.lines import say, say_json
from relay.cli.show.ownership import lanes_table, notes_below, replicas_table
from relay.keys import LANES
from relay.postgres.admin.lanes import read_ownership
from relay.settings import load_postgres
from relay.text import plain

EPILOG = exit_codes("done, or requested", "refused, and nothing was changed")


def _parse(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[int]:
    """Read lanes, each a number or several as in `0-7`; return them ascending, without repetition."""
    found: set[int] = set()
    for value in values:
        match = re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", value)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < LANES:
            raise click.BadParameter(
                f"{value!r} is not a lane; write a number from 0 to {LANES - 1}, or several as 0-7", context, parameter
            )
        found.update(range(first, last + 1))
    return sorted(found)


_lanes_argument = click.argument("lanes", nargs=-1, required=True, callback=_parse, metavar="LANE...")
_wait_option = click.option(
    "--wait",
    callback=span("0s", "1h"),
    default="10s",
    show_default=True,
    metavar="SPAN",
    help="Wait for at most SPAN until it is done. The request stands after that, too.",
)


@click.group(name="lanes", invoke_without_command=True, epilog=EPILOG)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show replicas and the lanes they own; release or move lanes for maintenance.

    \b
      relay lanes
      relay lanes move 0-3 --to relay-2 --for 10m
      relay lanes release 5 --for 2m --reason "repairing rows of lane 5"

    Every event belongs to one of 16 lanes, and replicas share the lanes among themselves: these commands are for
    exceptions. A request is recorded in PostgreSQL. The owner of the lane then takes nothing more from it, settles what
    it took, and hands the lane over: nothing is lost, repeated or reordered.
    """
    if context.invoked_subcommand is None:
        asyncio.run(_show(as_json))
    elif as_json:
        raise click.UsageError(f"write --json after {context.invoked_subcommand}")


@command.command(epilog=EPILOG)
@_lanes_argument
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
@reason_option
@_wait_option
@json_option
def move(lanes: list[int], target: str, seconds: float, reason: str, wait: float, as_json: bool) -> None:
    """Move lanes to a replica.

    They stay there for the time given, or until that replica stops, dies, or loses its lease or its connections to
    PostgreSQL; then they are shared like all others. The other lanes are shared so that each replica has about the same
    number.
    """

    async def act() -> tuple[LanesAsked, str]:
        async with open_outbox(load_postgres()) as outbox:
            asked, replica = await move_lanes(
                outbox,
                lanes,
                target,
                seconds=seconds,
                reason=plain(reason.strip()),
                who=requester(),
                wait=wait,
            )
            return asked, replica.name

    asked, name = asyncio.run(act())
    _tell(asked, f"moved to {plain(name)} for {duration(seconds)}", as_json=as_json)


@command.command(epilog=EPILOG)
@_lanes_argument
@click.option(
    "--for",
    "seconds",
    callback=span("0s", "30d"),
    default="0s",
    metavar="SPAN",
    help="For SPAN (90s, 30m, 2h, 3d) no replica owns them, and their events wait. Without it, a replica that has room "
    "claims them immediately.",
)
@reason_option
@_wait_option
@json_option
def release(lanes: list[int], seconds: float, reason: str, wait: float, as_json: bool) -> None:
    """Have lanes released by their owners. This ends an earlier move or release of the same lanes.

    Without --for, a replica that has room claims them again immediately, perhaps the same one: it then starts from the
    tables, as after a take-over.
    """

    async def act() -> LanesAsked:
        async with open_outbox(load_postgres()) as outbox:
            return await release_lanes(
                outbox, lanes, seconds=seconds, reason=plain(reason.strip()), who=requester(), wait=wait
            )

    told = "released" if not seconds else f"released; no replica claims them for {duration(seconds)}"
    _tell(asyncio.run(act()), told, as_json=as_json)


async def _show(as_json: bool) -> None:
    async with open_outbox(load_postgres()) as outbox:
        replicas, lanes = await read_ownership(outbox.connection, outbox.schema)
    if as_json:
        say_json({"replicas": [asdict(each) for each in replicas], "lanes": [asdict(each) for each in lanes]})
        return
    on = console()
    on.print(replicas_table(replicas, with_ids=True) if replicas else "no replica is registered")
    on.print()
    on.print(lanes_table(lanes))
    for line in notes_below(lanes):
        on.print(line)


def _tell(asked: LanesAsked, done: str, *, as_json: bool) -> None:
    if as_json:
        say_json({"lanes": asked.lanes, "to_go": asked.to_go}, indent=None)
        return
    if ready := asked.ready:
        say(f"{plural('lane', len(ready))} {ranges(ready)}: {done}")
    if asked.to_go:
        say(
            f"{plural('lane', len(asked.to_go))} {ranges(asked.to_go)}: requested; the owner hands each over once it "
            "has settled what it took, see `relay lanes`"
        )
