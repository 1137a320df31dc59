"""`relay replay list`: replays of delivered events, and their progress."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from relay.admin.connection import open_outbox
from relay.admin.replays import asked_for, outcome, report_of
from relay.admin.times import ago
from relay.cli.options import json_option, limit_option
from relay.cli.show.cells import text
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.cli.show.tables import table
from relay.settings import load_postgres

if TYPE_CHECKING:
    from relay.postgres.admin.replays import Replay


@click.command(name="list")
@click.option("--open", "only_open", is_flag=True, help="Only those that are not over.")
@limit_option(20)
@json_option
def list_command(only_open: bool, limit: int, as_json: bool) -> None:
    """List replays, the latest first: who asked, when, for what, why, and the progress."""

    async def find() -> tuple[list[Replay], int]:
        async with open_outbox(load_postgres()) as outbox:
            replays = outbox.replays
            return await replays.listed(limit, only_open=only_open), await replays.live_replicas()

    found, replicas = asyncio.run(find())
    if as_json:
        say_json({"replays": [report_of(replay) for replay in found]})
        return
    on = console()
    if not found:
        on.print("no replay is in progress" if only_open else "nobody has replayed delivered events")
        return
    made = table(">id", "when", "*who", "*what", "*why", "state", "*progress")
    for replay in found:
        made.add_row(
            str(replay.id),
            ago(replay.requested_seconds),
            text(replay.requested_by),
            text(asked_for(replay)),
            text(replay.reason or "-"),
            replay.state,
            text(outcome(replay)),
        )
    on.print(made)
    if not replicas and any(replay.finished_at is None for replay in found):
        on.print(text("! no replica is alive: replays continue when a relay runs", style="bold red"))
