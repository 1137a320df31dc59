"""Numbers of things, and lanes, as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def plural(word: str, number: int) -> str:
    """Return the word, with an s unless there is one."""
    return word if number == 1 else f"{word}s"


def counted(number: int, word: str) -> str:
    """Write how many there are: "1 event", "1,200 events"."""
    return f"{number:,} {plural(word, number)}"


def ranges(lanes: Sequence[int]) -> str:
    """Write ascending lanes with neighbours put together, `0-3 7`: all 16 one by one would leave no room for names."""
    runs: list[list[int]] = []
    for lane in lanes:
        if runs and lane == runs[-1][-1] + 1:
            runs[-1].append(lane)
        else:
            runs.append([lane])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
