"""Something that happens between a question to a port and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Between:
    """Stands before a port and lets something happen between an answer and its arrival, or before a question."""

    def __init__(self, port: object, method: str) -> None:
        self._port = port
        self._method = method
        self.before: Callable[[], object] | None = None
        self.after: Callable[[], object] | None = None

    def __getattr__(self, name: str) -> object:
        found = getattr(self._port, name)
        if name != self._method:
            return found

        async def call(*arguments: object) -> object:
            if (before := self.before) is not None:
                self.before = None
                await before()  # type: ignore[misc]
            result = await found(*arguments)
            if (after := self.after) is not None:
                self.after = None
                await after()  # type: ignore[misc]
            return result

        return call
