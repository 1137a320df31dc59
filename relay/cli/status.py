"""`relay status`: what is pending, who owns which lanes, what was delivered."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click
from rich.console import Group
from rich.text import Text

from relay.cli.owners import lanes_page, parking, replicas_table, silence
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.cli.show.tables import PlainTable, grid, table
from relay.cli.words import duration, plural, ranges
from relay.postgres.admin.connection import admin_connection
from relay.postgres.admin.status import Count, PutOff, Status, read_status
from relay.postgres.flow.segments import LAST_ID
from relay.settings import load_postgres
from relay.stages.housekeeping.check import CHECK
from relay.text import plain

TOPICS_SHOWN = 5
"""Topics that a concern names."""


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
        say_json({**asdict(status), "concerns": concerns(status)})
    else:
        console().print(_page(status))


def concerns(status: Status) -> list[str]:
    """What somebody who was woken up should look at first; empty when all is well."""
    found = []
    alive = [replica for replica in status.replicas if replica.alive]
    orphans = [lane.lane for lane in status.lanes if lane.replica is None and not lane.parked]
    if status.in_recovery:
        found.append("this server is a standby: what it shows may be old, and no relay can work on it")
    if not alive:
        found.append("no replica is alive: nothing is being published; start `relay run`, or read its log")
    elif orphans:
        found.append(
            f"lanes without a live owner: {ranges(orphans)}; their events wait until a replica claims them, which "
            "takes seconds unless its log says why not"
        )
    found += silence(status.replicas) + parking(status.lanes)
    if status.backlog.precision == "at most":
        found.append("counting what is pending took too long: positions are far behind; is a long transaction open?")
    if failed := status.failures.get("failed", 0):
        found.append(f"{failed:,} {'event failed and waits' if failed == 1 else 'events failed and wait'} for a person")
    if status.waiting:
        found.append(
            f"events wait for topics that do not take them, as of the last look: {_topics(status.waiting)}; "
            "`/readyz` and the log of the relay say why"
        )
    if status.stranded:
        found.append("there are rows in the DEFAULT partitions: no segment was ready for them; the relay moves them")
    if (left := LAST_ID - status.newest_id) < LAST_ID // 10:
        found.append(
            f"{left:,} ids are left, then writers fail: let them use a new outbox (another RELAY_POSTGRES_SCHEMA)"
        )
    return found + _overdue(status.put_off)


def _topics(waiting: dict[str, int]) -> str:
    shown = [f"{topic} ({events:,})" for topic, events in list(waiting.items())[:TOPICS_SHOWN]]
    return ", ".join(shown) + (", and others" if len(waiting) > TOPICS_SHOWN else "")


def _overdue(put_off: list[PutOff]) -> list[str]:
    """One line for each chore and error, however many replicas have it."""
    replicas: dict[tuple[str, str], list[PutOff]] = {}
    for each in put_off:
        replicas.setdefault((each.chore, each.error), []).append(each)
    found = [
        f"{error} (found {duration(max(each.seconds for each in same))} ago)"
        for (chore, error), same in replicas.items()
        if chore == CHECK
    ]
    return found + [
        f"not done for {duration(max(each.seconds for each in same))}: {chore} "
        f"({plural('replica', len(same))} {', '.join(each.replica for each in same)}); {error}"
        for (chore, error), same in replicas.items()
        if chore != CHECK
    ]


def _page(status: Status) -> Group:
    parts: list[Text | PlainTable | Group | str] = [
        Text(
            f"database {status.database}, schema {status.schema} (version {status.version}), "
            f"PostgreSQL {status.server.split()[0]}",
            style="bold",
        ),
        *(Text(plain(f"! {concern}"), style="bold red") for concern in concerns(status)),
        _summary(status),
    ]
    if status.replicas:
        parts += ["", replicas_table(status.replicas)]
    parts += ["", lanes_page(status.lanes), "", _segments(status)]
    return Group(*parts)


def _summary(status: Status) -> PlainTable:
    facts = grid()
    pending = _count(status.backlog)
    if status.oldest_seconds is not None:
        pending += f", the oldest {duration(status.oldest_seconds)} old"
    delivered = _count(status.delivered)
    if status.last_delivered_seconds is not None:
        delivered += f", the last one {duration(status.last_delivered_seconds)} ago"
    owned = sum(lane.replica is not None for lane in status.lanes)
    alive = sum(replica.alive for replica in status.replicas)
    failures = ", ".join(f"{events:,} {state}" for state, events in sorted(status.failures.items()))
    facts.add_row("pending", pending)
    facts.add_row("delivered", f"{delivered} (receipts that are kept)")
    facts.add_row("failures", failures or "none")
    facts.add_row("held", _count(status.held))
    for replay in status.replays:
        done = f"{replay.published + replay.failed:,} of {replay.events:,} delivered events published again"
        facts.add_row("replay", f"{replay.id}, topic {replay.topic}: {done}")
    facts.add_row("lanes", f"{owned} of {len(status.lanes)} owned, by {alive} live {plural('replica', alive)}")
    return facts


def _segments(status: Status) -> PlainTable:
    made = table("segment", ">from id", ">to id", ">MiB", "")
    for segment in status.segments:
        in_use = segment.lower_id <= status.newest_id < segment.upper_id
        made.add_row(
            segment.name,
            f"{segment.lower_id:,}",
            f"{segment.upper_id - 1:,}",
            "-" if segment.bytes is None else f"{segment.bytes / 2**20:,.1f}",
            f"in use, newest id {status.newest_id:,}" if in_use else "",
        )
    return made


def _count(count: Count) -> str:
    if count.events is None:
        return "unknown (counting took too long)"
    hedge = "" if count.precision == "exact" else f"{count.precision} "
    return f"{hedge}{count.events:,} {plural('event', count.events)}"
