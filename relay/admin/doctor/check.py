"""One thing that was looked at."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

State: TypeAlias = Literal["ok", "warning", "problem"]


class Check(NamedTuple):
    """What was found about one thing."""

    area: str
    """`settings`, `postgres`, `outbox` or `kafka`."""
    state: State
    """A problem keeps events from flowing, or will; a warning is a risk, or is hard to see otherwise."""
    what: str
    means: str = ""
    do: str = ""


def parts(error: object) -> tuple[str, str, str]:
    """Return an error or warning of ours, which says what to do behind its last semicolon, as what, means and do."""
    what, _, do = str(error).rpartition("; ")
    return (what, "", do) if what else (do, "", "")
