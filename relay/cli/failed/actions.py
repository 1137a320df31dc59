"""`relay failed actions`: who asked for what, when, why, and what became of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from relay.cli.failed import pages
from relay.cli.failed.filters import words
from relay.cli.show.lines import say_json

if TYPE_CHECKING:
    from relay.postgres.admin.failure_rows import Action


@click.command(name="actions", short_help="List who replayed or discarded what, and why.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Show at most so many.")
@click.option("--before", type=click.IntRange(1, 2**63 - 1), metavar="ID", help="Go on before this action.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def actions(limit: int, before: int | None, as_json: bool) -> None:
    """List replays and discards, the latest first: who, when, what, why, how many, and how far."""
    found, replicas = asyncio.run(_find(limit, before))
    if as_json:
        say_json({"actions": [report(action) for action in found]}, default=pages.for_json)
    else:
        _show(found, limit, replicas)


def report(action: Action) -> dict[str, object]:
    """An action for machines."""
    return {**action._asdict(), "events": action.events, "done": action.done, "finished": action.finished}


def progress(action: Action) -> str:
    """How far an action is."""
    if action.kind == "discard":
        return "done"
    if action.kind != "replay":
        state = "finished" if action.finished else "under way"
        return ", ".join([state, *(f"{name} {value}" for name, value in action.counts.items())])
    parts = [f"{action.done:,} delivered"]
    if action.failed:
        parts.append(f"{action.failed:,} failed again")
    if action.to_go:
        parts.append(f"{action.to_go:,} to go")
    return ", ".join(parts)


async def _find(limit: int, before: int | None) -> tuple[list[Action], int]:
    async with pages.opened() as failures:
        await failures.finish_replays()
        return await failures.actions(limit, before), await failures.live_replicas()


def _show(found: list[Action], limit: int, replicas: int) -> None:
    console = pages.console()
    if not found:
        console.print("nobody has replayed or discarded anything")
        return
    made = pages.table(">id", "when", "*who", "*what", "*why", ">events", "*so far")
    for action in found:
        made.add_row(
            str(action.id),
            pages.ago(action.requested_seconds),
            pages.text(action.requested_by),
            pages.text(f"{action.kind} {words(action.filter, most_ids=5)}"),
            pages.text(action.reason or "-"),
            f"{action.events:,}",
            pages.text(progress(action)),
        )
    console.print(made)
    if not replicas and any(action.to_go for action in found):
        console.print(pages.text("no replica is alive: what is to go happens when a relay runs"))
    if len(found) == limit and found[-1].id > 1:
        console.print(pages.text(f"add --before {found[-1].id} to see earlier ones"))
