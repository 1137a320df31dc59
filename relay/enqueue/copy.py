"""PostgreSQL's binary COPY format, for the columns of an event.

Source: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; jsonb is a version byte and the text.
"""

from __future__ import annotations

from io import RawIOBase
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any
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
    rows: Iterable[tuple[UUID, str, bytes | None, bytes | None, str, str | None]], encoding: str = "utf-8"
) -> Iterator[bytes]:
    """The rows (event_id, topic, key, payload, headers as JSON text, type) as the bytes of one COPY.

    `encoding` is Python's name of the connection's client_encoding: the server converts text from it, here as well.
    """
    length = _LENGTH.pack
    portion = bytearray(_HEADER)
    for event_id, topic, key, payload, headers, kind in rows:
        portion += _FIELDS
        fields = (
            event_id.bytes,
            topic.encode(),
            key,
            payload,
            _JSONB_VERSION + headers.encode(encoding),
            None if kind is None else kind.encode(encoding),
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


class CopyFile(RawIOBase):
    """The portions of a COPY as a file to read, for clients that ask for one."""

    def __init__(self, portions: Iterator[bytes]) -> None:
        self._portions = portions
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as the portion goes; 0 at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._portions, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
