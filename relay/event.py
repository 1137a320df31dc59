"""An event as the relay handles it between scan and settle."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from uuid import UUID

OVERHEAD_BYTES = 512
"""What one taken event costs in memory beyond its own bytes (row object, ids, list slots); measured with
tracemalloc on CPython 3.11 for 36-byte keys and rounded up."""


class PendingEvent(NamedTuple):
    """One row of `outbox.event`, as a scan returns it.

    The PostgreSQL adapter returns its own row type with the same fields in the same order, so the hot path
    unpacks or indexes it; everywhere else the attribute names work on both.
    """

    lane: int
    id: int
    event_id: UUID
    topic: str
    key: bytes | None
    payload: bytes | None
    headers: str | None
    """The JSON text of an object of strings; None when there are none."""
    type: str | None
    created_ms: int
    """Milliseconds since 1970-01-01 UTC."""
    size: int
    """Bytes of key, payload and headers."""
