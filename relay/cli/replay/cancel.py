"""`relay replay cancel`: end a replay."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from relay.admin.connection import open_outbox
from relay.admin.replays import cancel_replay, outcome
from relay.cli.options import NUMBER
from relay.cli.requester import requester
from relay.cli.show.cells import text
from relay.cli.show.console import console
from relay.settings import load_postgres

if TYPE_CHECKING:
    from relay.postgres.admin.replays import Replay


@click.command(name="cancel")
@click.argument("id_", metavar="ID", type=NUMBER)
def cancel(id_: int) -> None:
    """Stop a replay. Events that are in Kafka stay there; the relay stops within a second."""

    async def end_it() -> Replay:
        async with open_outbox(load_postgres()) as outbox:
            return await cancel_replay(outbox.replays, id_, requester())

    console().print(text(f"replay {id_} stops: {outcome(asyncio.run(end_it()))}"))
