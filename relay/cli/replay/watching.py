"""Waits for the end of a replay, with a progress bar on a terminal."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from relay.cli import interruptible
from relay.cli.failed import pages
from relay.cli.failed.filters import words
from relay.cli.replay.opened import one, opened
from relay.cli.show.lines import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.cli.show.console import PlainConsole
    from relay.postgres.admin.replays import ReplayRow

_PAUSE = 0.5
_STALLED = 10.0
"""Seconds without progress before we say what to look at."""


def follow(id_: int) -> ReplayRow:
    """Wait until a replay is over, and show how far it is."""
    console = pages.console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=None)

        def report(replay: ReplayRow, trouble: str) -> None:
            done = replay.published + replay.failed
            # Counting may have been cut short.
            total = max(replay.events, done)
            progress.update(task, total=total, completed=done, description=f"replaying{trouble}")

        try:
            return interruptible.run(_wait(id_, report))
        except KeyboardInterrupt:
            progress.stop()
            say(
                f"relay: replay {id_} goes on without you; see `relay replay watch {id_}`, and `relay replay cancel "
                f"{id_}` to stop it",
                err=True,
            )
            raise


def end(replay: ReplayRow, console: PlainConsole) -> None:
    """Tell how a replay ended, and end the command with 1 if it was not as asked."""
    console.print(pages.text(outcome(replay)))
    if replay.state != "finished" or replay.failed:
        click.get_current_context().exit(1)


def asked(replay: ReplayRow) -> str:
    """What was asked for, in the order of the command's options: JSON in PostgreSQL has an order of its own."""
    names = ("topic", "key", "since", "until", "rate")
    return words({name: replay.filter[name] for name in names if replay.filter.get(name) is not None})


def outcome(replay: ReplayRow) -> str:
    """How far a replay is, or how it ended."""
    least = "at least " if replay.counts.get("at_least") else ""
    # Receipts that were being written when it was asked for may have come on top.
    events = max(replay.events, replay.published + replay.failed)
    told = f"{replay.published:,} of {least}{events:,} published"
    if replay.failed:
        told += f", {replay.failed:,} refused by Kafka (relay replay show {replay.id})"
    match replay.state:
        case "cancelled":
            told += f"; cancelled by {replay.counts.get('cancelled_by')}"
        case "invalid":
            told = f"not carried out: {replay.counts['error']}"
        case "finished" if (missing := replay.events - replay.published - replay.failed) > 0:
            told += f"; {missing:,} were pruned meanwhile"
    return told


async def _wait(id_: int, report: Callable[[ReplayRow, str], None]) -> ReplayRow:
    done = -1
    moved = time.monotonic()
    async with opened() as requests:
        while True:
            replay = await one(requests, id_)
            if replay.published + replay.failed != done:
                done, moved = replay.published + replay.failed, time.monotonic()
            if replay.finished_at is not None:
                report(replay, "")
                return replay
            trouble = ""
            if not await requests.live_replicas():
                trouble = " (no replica is alive: it goes on when a relay runs)"
            elif time.monotonic() - moved >= _STALLED:
                trouble = " (nothing for a while; see `relay status`)"
            report(replay, trouble)
            await asyncio.sleep(_PAUSE)
