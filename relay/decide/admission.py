"""Which topics events may go to. Writers name their events' topics, and the relay has the right to write to many."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Admission:
    """Topics that are allowed and denied, by shell-style patterns such as `orders.*`. A denial wins."""

    allow: Sequence[str] = ("*",)
    deny: Sequence[str] = ("__*",)

    def refusal(self, topic: str) -> str | None:
        """Return why no event may go to this topic; None if events may."""
        for pattern in self.deny:
            if fnmatchcase(topic, pattern):
                return f"RELAY_TOPIC_DENY lists {pattern}; remove it and replay, or discard"
        if not any(fnmatchcase(topic, pattern) for pattern in self.allow):
            return "RELAY_TOPIC_ALLOW does not list it; add it and replay, or discard"
        return None
