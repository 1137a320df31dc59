"""`relay failed list`: which events failed, and what waits behind them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from relay.admin.connection import open_outbox
from relay.admin.counts import counted
from relay.admin.failures import STATES, FailureList, list_failures
from relay.admin.not_replayable import MARKABLE
from relay.admin.selections import Selection, in_words
from relay.admin.times import duration
from relay.cli.failed.filters import filter_options
from relay.cli.options import Bounded, json_option, limit_option
from relay.cli.show.cells import for_json, groups_table, key_cell, text
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.cli.show.tables import table
from relay.keys import key_text
from relay.settings import load_postgres

if TYPE_CHECKING:
    from relay.cli.show.tables import PlainTable

_GROUPS = 10


@click.command(name="list", short_help="List failures, and what waits behind them.")
@filter_options(STATES, "Only in this state; can be repeated. Without it, all but the discarded.")
@limit_option(50)
@click.option(
    "--after", cls=Bounded, type=click.IntRange(0, 2**63 - 1), default=0, metavar="ID", help="Only ids above this one."
)
@click.option("--count", "only_count", is_flag=True, help="Only count, per topic, error and state.")
@json_option
def list_command(limit: int, after: int, only_count: bool, as_json: bool, **options: Any) -> None:
    """List failures in the order of their events.

    The column `age` is the time since the latest attempt; `holds` is the number of later events held back behind it.
    """
    found = asyncio.run(_find(Selection(**options), after, 0 if only_count else limit))
    if as_json:
        say_json(_as_json(found, only_count), default=for_json)
    else:
        _show(found, after, only_count)


async def _find(selection: Selection, after: int, limit: int) -> FailureList:
    async with open_outbox(load_postgres()) as outbox:
        return await list_failures(outbox.failures, selection, after=after, limit=limit)


def _as_json(found: FailureList, only_count: bool) -> dict[str, object]:
    counts = [
        {"topic": group.topic, "error": group.error, "state": group.state, "events": group.events}
        for group in found.groups
    ]
    summary: dict[str, object] = {"total": found.total, "holds_back": found.held_back, "counts": counts}
    if only_count:
        return summary
    each = found.each_holds_back
    rows = [
        {
            **failure._asdict(),
            "key": None if failure.key is None else key_text(failure.key),
            "holds_back": None if each is None else each[failure.id],
        }
        for failure in found.page
    ]
    return {"failures": rows, **summary}


def _show(found: FailureList, after: int, only_count: bool) -> None:
    on = console()
    if not found.total:
        everything = found.asked == {"all": True}
        told = "no failures" if everything else f"no failure matches ({in_words(found.asked)})"
        on.print(text(told + _discarded(found)))
        return
    if found.page:
        on.print(_rows(found))
        on.print()
    if only_count or len(found.groups) > 1:
        on.print(groups_table(found.groups, None if only_count else _GROUPS))
        if not only_count and len(found.groups) > _GROUPS:
            on.print(text(f"and {len(found.groups) - _GROUPS:,} more kinds: relay failed list --count"))
        on.print()
    on.print(text(summary(found), style="bold"))
    if only_count:
        return
    if not found.page:
        on.print(text(f"none of them has an id above {after}"))
        return
    if after or len(found.page) < found.total:
        shown = f"{len(found.page):,} of {found.total:,} are shown"
        on.print(text(f"{shown}; add --after {found.page[-1].id} to see more"))
    if example := next((failure.id for failure in found.page if failure.state in MARKABLE), None):
        on.print(text(f"next: relay failed show {example}, then relay failed replay or relay failed discard"))


def _rows(found: FailureList) -> PlainTable:
    made = table(">id", "*topic", "*key", "state", "*error", ">attempts", ">age", ">holds")
    each = found.each_holds_back
    for failure in found.page:
        made.add_row(
            str(failure.id),
            text(failure.topic),
            key_cell(failure.key),
            text(failure.state, style="red" if failure.state == "failed" else ""),
            text(failure.error),
            f"{failure.attempts:,}",
            duration(failure.failed_seconds),
            "?" if each is None else f"{each[failure.id]:,}",
        )
    return made


def summary(found: FailureList) -> str:
    """Say how many failures match, by state, and what they hold back."""
    states = {state: sum(group.events for group in found.groups if group.state == state) for state in STATES}
    told = ", ".join(f"{number:,} {state}" for state, number in states.items() if number)
    behind = f"held back behind {'them' if found.total > 1 else 'it'}"
    if found.held_back is None:
        told += f"; counting the events {behind} took too long"
    elif found.held_back:
        told += f"; {counted(found.held_back, 'event')} {behind}"
    return told + _discarded(found)


def _discarded(found: FailureList) -> str:
    return f" ({found.discarded:,} discarded: --state discarded)" if found.discarded else ""
