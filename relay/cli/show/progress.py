"""A progress bar on a terminal, while a command follows what a relay does or works itself."""

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
    left: str | Callable[[], str],
    doing: str = "replaying",
) -> Result:
    """Run `follow`, which reports how much is done and how much there is, and why nothing moves, if nothing does.

    Says `left` when a person ends it by Ctrl-C. `doing` names what is done.
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
            task = progress.add_task(doing, total=total)

            def report(done: int, of: int, trouble: str) -> None:
                told = f"{doing} ({trouble})" if trouble else doing
                progress.update(task, completed=done, total=of, description=told)

            return interruptible.run(follow(report))
    except KeyboardInterrupt:
        say(f"relay: {left if isinstance(left, str) else left()}", err=True)
        raise
