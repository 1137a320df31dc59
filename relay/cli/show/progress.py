"""A progress bar on a terminal, while a command follows what a relay does. Ctrl-C ends only the waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from relay.cli import interruptible
from relay.cli.show.console import console
from relay.cli.show.lines import say

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Result = TypeVar("Result")


def followed(
    follow: Callable[[Callable[[int, int, str], None]], Coroutine[object, object, Result]],
    *,
    total: int | None,
    left: str,
) -> Result:
    """Run `follow`, which reports events done, all events, and why nothing moves, if nothing does.

    Says `left` when a person ends the waiting by Ctrl-C.
    """
    on = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=on, disable=not on.is_terminal) as progress:
            task = progress.add_task("replaying", total=total)

            def report(done: int, of: int, trouble: str) -> None:
                told = f"replaying ({trouble})" if trouble else "replaying"
                progress.update(task, completed=done, total=of, description=told)

            return interruptible.run(follow(report))
    except KeyboardInterrupt:
        say(f"relay: {left}", err=True)
        raise
