"""`relay status`: what is pending, who owns which lanes, what was delivered, and what is wrong."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click
from rich.console import Group
from rich.text import Text

from relay.admin.connection import connected
from relay.admin.counts import plural
from relay.admin.findings import Finding, findings
from relay.admin.segments import kept_in_words, mebibytes, needed_in_words
from relay.admin.times import duration
from relay.admin.topics import pause_in_words
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.cli.show.ownership import counted_lanes_table, notes_below, replicas_table
from relay.cli.show.tables import PlainTable, grid, table
from relay.postgres.admin.status import Count, Status, read_status
from relay.settings import load_postgres
from relay.text import MAX_NAMED, plain


@click.command(name="status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show pending events and their age, replicas and lanes, delivered events, and problems.

    Problems come first, in lines that begin with "!".

    The command reads only PostgreSQL, so it works while no relay runs and while Kafka is away. Counts stop at a million
    or after a few seconds; "at least", "at most" and "about" say so.
    """
    settings = load_postgres()

    async def look() -> Status:
        async with connected(settings) as connection:
            return await read_status(connection, settings.schema_name)

    status = asyncio.run(look())
    found = findings(status)
    if as_json:
        paused = [each._asdict() for each in status.paused]
        say_json(
            {
                **asdict(status),
                "paused": paused,
                "concerns": list(map(str, found)),
                "findings": [each._asdict() for each in found],
            }
        )
    else:
        console().print(_page(status, found))


def _page(status: Status, found: list[Finding]) -> Group:
    parts: list[Text | PlainTable | str] = [
        Text(
            f"database {status.database}, schema {status.schema} (version {status.version}), "
            f"PostgreSQL {status.server.split()[0]}",
            style="bold",
        ),
        *(Text(plain(f"! {finding}"), style="bold red") for finding in found),
        _summary(status),
    ]
    if status.replicas:
        parts += ["", replicas_table(status.replicas)]
    if status.lanes:
        parts += ["", counted_lanes_table(status.lanes), *notes_below(status.lanes)]
    if status.segments:
        parts += ["", _segments(status)]
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
    failures = ", ".join(f"{events:,} {state}" for state, events in sorted(status.failures.items())) or "none"
    lanes = f"{owned} of {len(status.lanes)} owned, by {alive} live {plural('replica', alive)}"
    facts.add_row("pending", pending)
    facts.add_row("delivered", f"{delivered} (receipts that are kept)")
    facts.add_row("failures", "unknown" if "failures" in status.unread else failures)
    facts.add_row("held", _count(status.held))
    facts.add_row("scheduled", _scheduled(status))
    for pause in status.paused[:MAX_NAMED]:
        facts.add_row("paused", f"{pause.topic}, {pause_in_words(pause)}")
    if (more := len(status.paused) - MAX_NAMED) > 0:
        facts.add_row("paused", f"{more:,} more {plural('topic', more)}, see `relay topics`")
    if status.limited:
        limits = [f"{topic} ({limit} of each replica)" for topic, limit in list(status.limited.items())[:MAX_NAMED]]
        facts.add_row("limited", ", ".join(limits))
    for replay in status.replays:
        done = f"{replay.published + replay.failed:,} of {replay.events:,} delivered events published again"
        facts.add_row("replay", f"{replay.id}, topic {replay.topic}: {done}")
    facts.add_row("lanes", lanes if status.lanes else "unknown")
    return facts


def _scheduled(status: Status) -> str:
    told = _count(status.scheduled)
    if status.due_seconds is None:
        return told
    late = status.due_seconds < 0
    return f"{told}, the first {'due for' if late else 'due in'} {duration(abs(status.due_seconds))}"


def _segments(status: Status) -> PlainTable:
    made = table("segment", ">from id", ">to id", ">MiB", "")
    for segment in status.segments:
        in_use = segment.lower_id <= status.newest_id < segment.upper_id
        needed = kept_in_words(segment) if segment.kept else needed_in_words(segment)
        made.add_row(
            segment.name,
            f"{segment.lower_id:,}",
            f"{segment.upper_id - 1:,}",
            mebibytes(segment.bytes),
            "; ".join(filter(None, (f"in use, newest id {status.newest_id:,}" if in_use else "", needed))),
        )
    return made


def _count(count: Count) -> str:
    if count.events is None:
        return "unknown (not read in time)"
    hedge = "" if count.precision == "exact" else f"{count.precision} "
    return f"{hedge}{count.events:,} {plural('event', count.events)}"
