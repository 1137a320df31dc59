"""`relay status`: what is pending, who owns which lanes, what was delivered."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from relay.postgres.admin import admin_connection
from relay.postgres.status import Count, Status, read_status
from relay.settings import load_postgres


@click.command(name="status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what is pending and how old it is, replicas and lanes, and what was delivered.

    Reads only PostgreSQL, so it works while no relay runs and while Kafka is away. Counts stop at a million or
    after a few seconds; "at least", "at most" and "about" say so.
    """
    settings = load_postgres()

    async def read() -> Status:
        async with admin_connection(settings.dsn.get_secret_value(), settings.connect_timeout) as connection:
            return await read_status(connection, settings.schema_name)

    status = asyncio.run(read())
    if as_json:
        click.echo(json.dumps({**asdict(status), "concerns": concerns(status)}, indent=2, default=str))
    else:
        Console(highlight=False).print(_page(status))


def concerns(status: Status) -> list[str]:
    """What somebody who was woken up should look at first; empty when all is well."""
    found = []
    alive = [replica for replica in status.replicas if replica.alive]
    orphans = [lane.lane for lane in status.lanes if lane.replica is None]
    if status.in_recovery:
        found.append("this server is a standby: what it shows may be old, and no relay can work on it")
    if not alive:
        found.append("no replica is alive: nothing is being published; start `relay run`, or read its log")
    elif orphans:
        found.append(
            f"lanes without a live owner: {ranges(orphans)}; their events wait until a replica claims them, which "
            "takes seconds unless its log says why not"
        )
    if status.backlog.precision == "at most":
        found.append("counting what is pending took too long: positions are far behind; is a long transaction open?")
    if failed := status.failures.get("failed", 0):
        found.append(f"{failed:,} {'event failed and waits' if failed == 1 else 'events failed and wait'} for a person")
    if status.stranded:
        found.append("there are rows in the DEFAULT partitions: no segment was ready for them; the relay moves them")
    return found


def duration(seconds: float | None) -> str:
    """A length of time for people, to two units."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ranges(lanes: list[int]) -> str:
    """Ascending lanes with neighbours put together, `0-3 7`: all 16 one by one would leave no room for names."""
    runs: list[list[int]] = []
    for lane in lanes:
        if runs and lane == runs[-1][-1] + 1:
            runs[-1].append(lane)
        else:
            runs.append([lane])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _page(status: Status) -> Group:
    parts: list[Text | Table | str] = [
        Text(
            f"database {status.database}, schema {status.schema} (version {status.version}), "
            f"PostgreSQL {status.server.split()[0]}",
            style="bold",
        ),
        *(Text(f"! {concern}", style="bold red") for concern in concerns(status)),
        _summary(status),
    ]
    if status.replicas:
        parts += ["", _replicas(status)]
    parts += ["", _lanes(status), "", _segments(status)]
    return Group(*parts)


def _summary(status: Status) -> Table:
    table = Table.grid(padding=(0, 3))
    pending = _count(status.backlog)
    if status.oldest_seconds is not None:
        pending += f", the oldest {duration(status.oldest_seconds)} old"
    delivered = _count(status.delivered)
    if status.last_delivered_seconds is not None:
        delivered += f", the last one {duration(status.last_delivered_seconds)} ago"
    owned = sum(lane.replica is not None for lane in status.lanes)
    alive = sum(replica.alive for replica in status.replicas)
    failures = ", ".join(f"{events:,} {state}" for state, events in sorted(status.failures.items()))
    table.add_row("pending", pending)
    table.add_row("delivered", f"{delivered} (receipts that are kept)")
    table.add_row("failures", failures or "none")
    table.add_row("held", _count(status.held))
    table.add_row("lanes", f"{owned} of {len(status.lanes)} owned, by {alive} live {_plural('replica', alive)}")
    return table


def _replicas(status: Status) -> Table:
    table = _table("*replica", "version", ">running", ">lease", "lanes")
    for replica in status.replicas:
        lease = duration(replica.lease_seconds) if replica.alive else f"out for {duration(-replica.lease_seconds)}"
        table.add_row(
            replica.name,
            replica.version,
            duration(replica.running_seconds),
            lease,
            ranges(replica.lanes) or "none",
            style=None if replica.alive else "red",
        )
    return table


def _lanes(status: Status) -> Table:
    table = _table(">lane", "*owner", ">owned for", ">position", ">pending", ">oldest")
    for lane in status.lanes:
        table.add_row(
            str(lane.lane),
            lane.replica or ("free" if lane.owner is None else "free (lease ran out)"),
            duration(lane.owned_seconds if lane.replica else None),
            f"{lane.position:,}",
            "?" if lane.pending is None else f"{lane.pending:,}",
            duration(lane.oldest_seconds),
            style=None if lane.replica else "red",
        )
    return table


def _segments(status: Status) -> Table:
    table = _table("segment", ">from id", ">to id", ">MiB", "")
    for segment in status.segments:
        in_use = segment.lower_id <= status.newest_id < segment.upper_id
        table.add_row(
            segment.name,
            f"{segment.lower_id:,}",
            f"{segment.upper_id - 1:,}",
            "-" if segment.bytes is None else f"{segment.bytes / 2**20:,.1f}",
            f"in use, newest id {status.newest_id:,}" if in_use else "",
        )
    return table


def _table(*columns: str) -> Table:
    """A plain table; > marks a column of numbers, * one that goes on in the next line where there is no room for it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.lstrip(">*"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=not column.startswith("*"),
            overflow="fold",
        )
    return table


def _count(count: Count) -> str:
    if count.events is None:
        return "unknown (counting took too long)"
    hedge = "" if count.precision == "exact" else f"{count.precision} "
    return f"{hedge}{count.events:,} {_plural('event', count.events)}"


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"
