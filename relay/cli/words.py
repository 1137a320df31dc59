"""How times and lanes look in what people read."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """A length of time for people, to two units."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ranges(lanes: list[int]) -> str:
    """Ascending lanes with neighbours put together, `0-3 7`: all 16 one by one would leave no room for names."""
    runs: list[list[int]] = []
    for lane in lanes:
        if runs and lane == runs[-1][-1] + 1:
            runs[-1].append(lane)
        else:
            runs.append([lane])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def plural(word: str, number: int) -> str:
    """The word, with an s unless there is one."""
    return word if number == 1 else f"{word}s"
