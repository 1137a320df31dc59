"""Work on one part while the next one is on its way."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

Part = TypeVar("Part")


async def ahead(parts: AsyncGenerator[Part]) -> AsyncGenerator[Part]:
    """Yield parts, none of which is None, while the next one is made."""
    async with aclosing(parts):
        coming = asyncio.ensure_future(anext(parts, None))
        try:
            while (part := await coming) is not None:
                coming = asyncio.ensure_future(anext(parts, None))
                yield part
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
