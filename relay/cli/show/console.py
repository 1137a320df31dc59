"""The console of all commands: it takes no markup and passes no control sequence on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment

from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType
    from rich.text import Text

_UNBOUNDED = 10_000


class PlainConsole(Console):
    """A console that shows what it is given and obeys none of it: no markup, no emoji codes, no control sequences.

    Colours and the movements of a progress bar are rich's own. `Text` is looked at only when it is written, after the
    widths of columns are known: make cells of outside text with `relay.cli.failed.pages.text`, or leave them strings.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Neutralise, then do as rich does."""
        return super().render_str(plain(text, also="\n", most=None), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Neutralise what comes out, whatever it was."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(plain(segment.text, also="\n", most=None), segment.style)


def console(stderr: bool = False) -> PlainConsole:
    """Return a console; lines that go into a pipe or a file are as long as they are, whatever COLUMNS says."""
    made = PlainConsole(stderr=stderr)
    return made if made.is_terminal else PlainConsole(stderr=stderr, width=_UNBOUNDED)
