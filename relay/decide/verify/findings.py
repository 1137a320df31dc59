"""What a look at a topic found: counted by kind, with the first examples of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, get_args

Kind: TypeAlias = Literal["lost", "misplaced", "changed", "unsettled", "out_of_order", "repeated", "unknown", "foreign"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What is not as it should be; the worst first."""

Note: TypeAlias = Literal[
    "in_place", "retained_away", "compacted_away", "replayed", "dead_letters", "pruned", "pending", "replayed_late",
    "order_unknown",
]  # fmt: skip
NOTES: tuple[Note, ...] = get_args(Note)
"""What is as it should be, or cannot be told."""

MAX_EXAMPLES = 20
"""Examples that are kept of each kind."""


class Example(NamedTuple):
    """One of what was found."""

    kind: Kind
    partition: int | None
    offset: int | None
    id: int | None
    what: str


@dataclass(slots=True)
class Findings:
    """All that was found."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    late: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Events that came after later ones of their key: (id, id of a later one, partition, offset)."""

    def note(self, kind: Note, number: int = 1) -> None:
        """Count what is as it should be."""
        self.counts[kind] += number

    def find(self, kind: Kind, what: str, *, place: tuple[int, int] | None = None, id_: int | None = None) -> None:
        """Count what is not, and keep it if few of its kind are known."""
        self.counts[kind] += 1
        if self.counts[kind] <= MAX_EXAMPLES:
            partition, offset = place or (None, None)
            self.examples.append(Example(kind, partition, offset, id_, what))

    def number(self, allowed: frozenset[str]) -> int:
        """Return how many things were found that are not allowed."""
        return sum(self.counts[kind] for kind in KINDS if kind not in allowed)
