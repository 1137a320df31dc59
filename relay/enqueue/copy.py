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

_MAX_KNOWN_TEXTS = 1000
"""Maximum number of topics and types whose bytes are kept during a COPY: as a rule there are few, each many times."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_LENGTH = Struct("!i")
_BEGIN = Struct("!hi").pack(6, 16)
_BEGIN_SCHEDULED = Struct("!hi").pack(9, 16)
"""The number of fields, and the length of the first one, a UUID."""
_JSONB_VERSION = b"\x01"
_NO_HEADERS = _LENGTH.pack(3) + _JSONB_VERSION + b"{}"


def binary_copy(
    rows: Iterable[tuple[UUID, str, bytes | None, bytes | None, str, str | None]],
    encoding: str = "utf-8",
    more: Iterable[tuple[bytes | None, ...]] | None = None,
) -> Iterator[bytes]:
    """The rows (event_id, topic, key, payload, headers as JSON text, type) as the bytes of one COPY.

    `encoding` is Python's name of the connection's client_encoding: the server converts text from it, here as well.
    `more` has for each row the three columns that a scheduled event has beside these, in binary.
    A hot path, by the number of events: about 0.7 us each.
    """
    length = _LENGTH.pack
    known: dict[str | None, bytes] = {None: _NULL}

    def field(text: str) -> bytes:
        encoded = text.encode(encoding)
        made = length(len(encoded)) + encoded
        if len(known) < _MAX_KNOWN_TEXTS:
            known[text] = made
        return made

    others = None if more is None else iter(more)
    begin = _BEGIN if others is None else _BEGIN_SCHEDULED
    portion = bytearray(_HEADER)
    for event_id, topic, key, payload, headers, kind in rows:
        portion += begin
        portion += event_id.bytes
        portion += known.get(topic) or field(topic)
        portion += _NULL if key is None else length(len(key)) + key
        if payload is None:
            portion += _NULL
        else:
            portion += length(len(payload))
            portion += payload
        if headers == "{}":
            portion += _NO_HEADERS
        else:
            text = _JSONB_VERSION + headers.encode(encoding)
            portion += length(len(text))
            portion += text
        portion += known.get(kind) or field(kind)  # type: ignore[arg-type] # None is known
        if others is not None:
            for value in next(others):
                portion += _NULL if value is None else length(len(value)) + value
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
