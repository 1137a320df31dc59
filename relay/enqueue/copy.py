"""PostgreSQL's binary COPY format, for the columns of an event.

Source: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; jsonb is a version byte and the text.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from uuid import UUID

PORTION_BYTES = 256 * 1024
"""How much is handed to the driver at once; it copies each portion into its send buffer."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_FIELDS = Struct("!h").pack(6)
_LENGTH = Struct("!i")
_JSONB_VERSION = b"\x01"


def binary_copy(
    rows: Iterable[tuple[UUID, str, bytes | None, bytes | None, str, str | None]],
) -> Iterator[bytes]:
    """The rows (event_id, topic, key, payload, headers as JSON text, type) as the bytes of one COPY."""
    length = _LENGTH.pack
    portion = bytearray(_HEADER)
    for event_id, topic, key, payload, headers, kind in rows:
        portion += _FIELDS
        fields = (
            event_id.bytes,
            topic.encode(),
            key,
            payload,
            _JSONB_VERSION + headers.encode(),
            None if kind is None else kind.encode(),
        )
        for value in fields:
            if value is None:
                portion += _NULL
            else:
                portion += length(len(value))
                portion += value
        if len(portion) >= PORTION_BYTES:
            yield bytes(portion)
            portion = bytearray()
    portion += _TRAILER
    yield bytes(portion)
