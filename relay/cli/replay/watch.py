"""`relay replay watch`: wait for the end of a replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from relay.admin.connection import open_outbox
from relay.admin.replays import follow, outcome
from relay.cli.options import NUMBER
from relay.cli.show.cells import text
from relay.cli.show.console import console
from relay.cli.show.progress import followed
from relay.settings import load_postgres

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.cli.show.console import PlainConsole
    from relay.postgres.admin.replays import Replay


@click.command(name="watch")
@click.argument("id_", metavar="ID", type=NUMBER)
def watch(id_: int) -> None:
    """Wait for the end of a replay, with a progress bar on a terminal."""
    end(follow_replay(id_), console())


def follow_replay(id_: int) -> Replay:
    """Wait until a replay is over, and show its progress."""

    async def following(report: Callable[[int, int, str], None]) -> Replay:
        def looked(replay: Replay, trouble: str) -> None:
            done = replay.published + replay.failed
            # Counting may have been cut short.
            report(done, max(replay.events, done), trouble)

        async with open_outbox(load_postgres()) as outbox:
            return await follow(outbox.replays, id_, looked)

    left = (
        f"replay {id_} continues without this command; see `relay replay watch {id_}`, or stop it with `relay replay "
        f"cancel {id_}`"
    )
    return followed(following, total=None, left=left)


def end(replay: Replay, on: PlainConsole) -> None:
    """Tell how a replay ended, and end the command with 1 if it was not as asked."""
    on.print(text(outcome(replay)))
    if replay.state != "finished" or replay.failed:
        click.get_current_context().exit(1)
