"""`relay failed list`: which events did not go through, and what waits behind them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from relay.cli.failed import pages
from relay.cli.failed.filters import Wanted, filter_options, recorded, words
from relay.cli.failed.reasons import MARKABLE
from relay.cli.failed.words import key_text
from relay.cli.show.lines import say_json
from relay.cli.words import duration

if TYPE_CHECKING:
    from relay.cli.show.tables import PlainTable
    from relay.postgres.admin.failure_rows import Failure, Group

_STATES = ("failed", "retrying", "replaying", "discarded")
_OPEN = _STATES[:3]
_GROUPS = 10


class _Found(NamedTuple):
    """What there is to show."""

    asked: dict[str, object]
    failures: list[Failure]
    """The page."""
    groups: list[Group]
    """All that match."""
    held_back: int | None
    each_holds_back: dict[int, int] | None
    discarded: int
    """Discarded ones, when they were not asked for."""

    @property
    def total(self) -> int:
        """How many match."""
        return sum(group.events for group in self.groups)


@click.command(name="list", short_help="List failures, and what waits behind them.")
@filter_options(_STATES, "In this state, may be given again; without it all but the discarded.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Show at most so many.")
@click.option("--after", type=click.IntRange(0, 2**63 - 1), default=0, metavar="ID", help="Go on after this id.")
@click.option("--count", "only_count", is_flag=True, help="Only count, per topic, error and state.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_failures(limit: int, after: int, only_count: bool, as_json: bool, **options: Any) -> None:
    """List failures in the order of their events.

    `age` is the time since the latest attempt, `holds` the number of later events that are held back behind it.
    """
    found = asyncio.run(_find(Wanted(**options), after, 0 if only_count else limit))
    if as_json:
        say_json(_as_json(found, only_count), default=pages.for_json)
    else:
        _show(found, after, only_count)


async def _find(wanted: Wanted, after: int, limit: int) -> _Found:
    async with pages.opened() as failures:
        asked = wanted.filter(await failures.now())
        matching = replace(asked, states=asked.states or _OPEN)
        page = await failures.listed(matching, after, limit) if limit else []
        others = [] if asked.states else await failures.counted(replace(asked, states=("discarded",)))
        return _Found(
            recorded(asked),
            page,
            await failures.counted(matching),
            await failures.held_back(matching),
            await failures.held_back_each([failure.id for failure in page]) if page else {},
            sum(group.events for group in others),
        )


def _as_json(found: _Found, only_count: bool) -> dict[str, object]:
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
        for failure in found.failures
    ]
    return {"failures": rows, **summary}


def _show(found: _Found, after: int, only_count: bool) -> None:
    console = pages.console()
    if not found.total:
        everything = found.asked == {"all": True}
        told = "no failures" if everything else f"no failure matches ({words(found.asked)})"
        console.print(pages.text(told + _discarded(found)))
        return
    if found.failures:
        console.print(_rows(found))
        console.print()
    if only_count or len(found.groups) > 1:
        console.print(pages.groups_table(found.groups, None if only_count else _GROUPS))
        if not only_count and len(found.groups) > _GROUPS:
            console.print(pages.text(f"and {len(found.groups) - _GROUPS:,} more of these: relay failed list --count"))
        console.print()
    console.print(pages.text(_summary(found), style="bold"))
    if only_count:
        return
    if not found.failures:
        console.print(pages.text(f"none of them has an id above {after}"))
        return
    if after or len(found.failures) < found.total:
        shown = f"{len(found.failures):,} of {found.total:,} are shown"
        console.print(pages.text(f"{shown}; add --after {found.failures[-1].id} to go on"))
    if example := next((failure.id for failure in found.failures if failure.state in MARKABLE), None):
        console.print(pages.text(f"look: relay failed show {example}; then: relay failed replay, or discard"))


def _rows(found: _Found) -> PlainTable:
    made = pages.table(">id", "*topic", "*key", "state", "*error", ">attempts", ">age", ">holds")
    each = found.each_holds_back
    for failure in found.failures:
        made.add_row(
            str(failure.id),
            pages.text(failure.topic),
            pages.key_cell(failure.key),
            pages.text(failure.state, style="red" if failure.state == "failed" else ""),
            pages.text(failure.error),
            f"{failure.attempts:,}",
            duration(failure.failed_seconds),
            "?" if each is None else f"{each[failure.id]:,}",
        )
    return made


def _summary(found: _Found) -> str:
    states = {state: sum(group.events for group in found.groups if group.state == state) for state in _STATES}
    told = ", ".join(f"{number:,} {state}" for state, number in states.items() if number)
    if found.held_back is None:
        told += "; how many events they hold back took too long to count"
    elif found.held_back:
        told += f"; {pages.events(found.held_back)} held back behind them"
    return told + _discarded(found)


def _discarded(found: _Found) -> str:
    return f" ({found.discarded:,} discarded: --state discarded)" if found.discarded else ""
