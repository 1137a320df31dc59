"""`relay replay show`: one replay, and the events that Kafka refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from relay.admin.connection import open_outbox
from relay.admin.replays import asked_for, find_replay, outcome, report_of
from relay.admin.times import ago, moment
from relay.cli.options import NUMBER, json_option
from relay.cli.show.cells import text
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.cli.show.tables import table
from relay.settings import load_postgres

if TYPE_CHECKING:
    from relay.postgres.admin.replays import Replay

_ERRORS = 20


@click.command(name="show")
@click.argument("id_", metavar="ID", type=NUMBER)
@json_option
def show(id_: int, as_json: bool) -> None:
    """Show one replay, and why Kafka refused events of it."""

    async def find() -> tuple[Replay, list[tuple[str, int, int]]]:
        async with open_outbox(load_postgres()) as outbox:
            return await find_replay(outbox.replays, id_), await outbox.replays.errors(id_, _ERRORS)

    replay, errors = asyncio.run(find())
    if as_json:
        listed = [{"error": error, "events": events, "example": example} for error, events, example in errors]
        say_json({**report_of(replay), "errors": listed})
        return
    on = console()
    for name, value in (
        ("replay", f"{replay.id}, {replay.state}"),
        ("what", asked_for(replay)),
        ("who", replay.requested_by),
        ("when", f"{moment(replay.requested_at)} ({ago(replay.requested_seconds)})"),
        ("why", replay.reason or "-"),
        ("progress", outcome(replay)),
        ("ended", moment(replay.finished_at)),
    ):
        on.print(text(f"{name:<9} {value}"))
    if errors:
        made = table(">events", ">example id", "*Kafka refused them because")
        for error, events, example in errors:
            made.add_row(f"{events:,}", str(example), text(error))
        on.print("", made)
