"""Bounds what aiokafka reads as one answer.

It believes the first four bytes that come, whoever sends them: those of a TLS alert or of an HTTP server make an answer
of hundreds of megabytes, for which it waits, and which it would keep in memory as it comes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from aiokafka.conn import AIOKafkaConnection

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 1 << 26
"""64 MiB of one answer. What the relay asks for is answered in kilobytes, the metadata of a large cluster in a few
megabytes. A TLS record, read as a length, is at least 335 million."""


class NotKafkaError(ConnectionError):
    """What answers does not speak Kafka's protocol; `first` are its first four bytes."""

    def __init__(self, first: bytes) -> None:
        super().__init__(f"the server does not speak Kafka's protocol: its answer begins with {first!r}")
        self.first = first

    @property
    def speaks_tls(self) -> bool:
        """Whether it is the head of a TLS record (alert or handshake)."""
        return self.first[0] in (0x15, 0x16) and self.first[1] == 0x03


async def _read(self_ref: Callable[[], Any]) -> None:
    """As aiokafka's own, with a bound."""
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
    """Have all connections of aiokafka refuse what is too long to be an answer."""
    # There is no setting for it.
    AIOKafkaConnection._read = staticmethod(_read)  # type: ignore[method-assign]  # noqa: SLF001
