"""`relay failed actions`: who asked for what, when, why, and its progress."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from relay.admin.actions import progress, report
from relay.admin.connection import open_outbox
from relay.admin.selections import in_words
from relay.admin.times import ago
from relay.cli.options import NUMBER, Bounded, json_option, limit_option
from relay.cli.show.cells import for_json, text
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.cli.show.tables import table
from relay.settings import load_postgres

if TYPE_CHECKING:
    from relay.postgres.admin.rows import Action


@click.command(name="actions", short_help="List replays and discards: who, what, why.")
@limit_option(20)
@click.option("--before", cls=Bounded, type=NUMBER, metavar="ID", help="Show only actions before this one.")
@json_option
def actions(limit: int, before: int | None, as_json: bool) -> None:
    """List replays and discards, the latest first: who asked, when, for what, why, and the progress."""
    found, replicas = asyncio.run(_find(limit, before))
    if as_json:
        say_json({"actions": [report(action) for action in found]}, default=for_json)
    else:
        _show(found, limit, replicas)


async def _find(limit: int, before: int | None) -> tuple[list[Action], int]:
    async with open_outbox(load_postgres()) as outbox:
        failures = outbox.failures
        await failures.finish_replays()
        return await failures.actions(limit, before), await failures.live_replicas()


def _show(found: list[Action], limit: int, replicas: int) -> None:
    on = console()
    if not found:
        on.print("nobody has replayed or discarded anything")
        return
    made = table(">id", "when", "*who", "*what", "*why", ">events", "*progress")
    for action in found:
        made.add_row(
            str(action.id),
            ago(action.requested_seconds),
            text(action.requested_by),
            text(f"{action.kind} {in_words(action.filter, max_ids=5)}"),
            text(action.reason or "-"),
            f"{action.events:,}",
            text(progress(action)),
        )
    on.print(made)
    if not replicas and any(action.to_go for action in found):
        on.print(text("no replica is alive: the rest is published once a relay runs"))
    if len(found) == limit and found[-1].id > 1:
        on.print(text(f"add --before {found[-1].id} to see earlier ones"))
