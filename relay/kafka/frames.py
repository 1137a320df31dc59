"""Bounds the size of what aiokafka reads as one answer.

aiokafka takes the first four bytes for a length, whoever sends them. Those of a TLS alert or of an HTTP server announce
an answer of hundreds of megabytes, for which aiokafka would wait, and which it would keep in memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from aiokafka.conn import AIOKafkaConnection

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 1 << 26
"""Maximum bytes of one answer: 64 MiB. Answers to the relay have kilobytes, the metadata of a large cluster a few
megabytes. The head of a TLS record, read as a length, is at least 335 million."""


class NotKafkaError(ConnectionError):
    """The server does not speak Kafka's protocol; `first` are the first four bytes of its answer."""

    def __init__(self, first: bytes) -> None:
        super().__init__(f"the server does not speak Kafka's protocol: its answer begins with {first!r}")
        self.first = first

    @property
    def speaks_tls(self) -> bool:
        """Whether the first bytes are the head of a TLS record (alert or handshake)."""
        return self.first[0] in (0x15, 0x16) and self.first[1] == 0x03


async def _read(self_ref: Callable[[], Any]) -> None:
    """Read answers as aiokafka's own method does, with a bound on their size."""
    connection = self_ref()
    if connection is None:
        return
    reader = connection._reader  # noqa: SLF001
    del connection
    while True:
        first = await reader.readexactly(4)
        (size,) = struct.unpack(">i", first)
        if not 0 <= size <= MOST_BYTES:
            raise NotKafkaError(first)
        answer = await reader.readexactly(size)
        connection = self_ref()
        if connection is None:
            return
        connection._handle_frame(answer)  # noqa: SLF001
        del connection


def bound_answers() -> None:
    """Make all connections of aiokafka refuse answers that are too long to be answers."""
    # There is no setting for it.
    AIOKafkaConnection._read = staticmethod(_read)  # type: ignore[method-assign]  # noqa: SLF001
