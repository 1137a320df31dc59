"""Shows the progress of the demo: live on a terminal, line by line elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, Self

from rich.live import Live
from rich.text import Text

from relay.demo import page

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType

    from relay.demo.progress import Phase, Progress

REFRESHES_PER_SECOND = 4
LINE_INTERVAL = 2.0


class Display(Protocol):
    """A context manager that shows the demo's steps and progress."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def step(self, text: str) -> None:
        """Show that a step begins, which ends the step before."""

    def show(self, progress: Progress) -> None:
        """Show the progress while events flow; may be called as often as one likes."""


def display_on(console: Console) -> Display:
    """Return the display that fits the console."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(console)
    return LineDisplay(console)


class LiveDisplay:
    """A page that is redrawn in place and disappears at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._starting = page.Starting()
        # Made in the caller's thread from counts that move; the thread of Live only prints it.
        self._running: RenderableType | None = None
        self._live = Live(
            console=console,
            get_renderable=self._page,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._console.print(*(Text(line) for line in page.IDEA), "", sep="\n")
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, text: str) -> None:
        self._starting.step(text, time.monotonic())

    def show(self, progress: Progress) -> None:
        self._running = page.running(progress, self._console.height, self._console.width)

    def _page(self) -> RenderableType:
        return self._running or self._starting.page(time.monotonic())


class LineDisplay:
    """Plain lines, one every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown_at = -LINE_INTERVAL
        self._phase: Phase | None = None

    def __enter__(self) -> Self:
        for line in page.IDEA:
            self._print(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, text: str) -> None:
        self._print(text)

    def show(self, progress: Progress) -> None:
        if progress.phase is not self._phase:
            self._phase = progress.phase
            self._print(page.PHASES[progress.phase])
        if progress.elapsed - self._shown_at >= LINE_INTERVAL:
            self._shown_at = progress.elapsed
            self._print(page.line(progress))

    def _print(self, text: str) -> None:
        # Not wrapped: a line of a log is a line, however long.
        self._console.print(Text(text), soft_wrap=True)
