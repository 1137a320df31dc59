"""Waits for the end of a replay, with a progress bar on a terminal."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from relay.cli import interruptible
from relay.cli.failed import pages
from relay.cli.show.lines import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.postgres.admin.failure_rows import Action

_LONGEST_PAUSE = 1.0
_PATIENCE = 20.0
"""Seconds without a live replica before we stop waiting: longer than a lease, so that a restart is waited for."""
_STALLED = 10.0
"""Seconds without progress before we say what to look at."""


class Waited(NamedTuple):
    """How a replay stands at the end of waiting for it."""

    action: Action

    def words(self) -> str:
        """For people."""
        action = self.action
        if action.to_go:
            return (
                f"{action.done:,} delivered, {action.to_go:,} to go, and no replica is alive any more: "
                "it goes on when a relay runs; see `relay failed actions`"
            )
        if action.failed:
            return f"{action.done:,} delivered, {action.failed:,} failed again; see `relay failed list`"
        return "delivered" if action.events == 1 else f"all {action.events:,} delivered"


def wait_for(action: int, events: int) -> Waited:
    """Wait until no event of the action is under way, or no replica is there to do it. Ctrl-C ends only the waiting."""
    console = pages.console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("replaying", total=events)

            def report(so_far: Action, stalled: float) -> None:
                told = "replaying"
                if stalled >= _STALLED:
                    told += f" (nothing for {stalled:.0f} s; is Kafka there? see `relay status`)"
                progress.update(task, completed=events - so_far.to_go, description=told)

            return Waited(interruptible.run(_wait(action, report)))
    except KeyboardInterrupt:
        say(f"relay: action {action} goes on without you; see `relay failed actions`", err=True)
        raise


async def _wait(action: int, report: Callable[[Action, float], None]) -> Action:
    pause = 0.05
    to_go = -1
    moved = seen_alive = time.monotonic()
    async with pages.opened() as failures:
        while True:
            (now,) = await failures.actions(1, only=action)
            if now.to_go != to_go:
                to_go, moved = now.to_go, time.monotonic()
            report(now, time.monotonic() - moved)
            if not now.to_go:
                await failures.finish_replays()
                return now
            if await failures.live_replicas():
                seen_alive = time.monotonic()
            elif time.monotonic() - seen_alive > _PATIENCE:
                return now
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
