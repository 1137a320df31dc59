"""The produce request, which goes to the socket without a copy of the record batches in it, and its answer.

aiokafka encodes a request from the inside out: it copies each batch into its partition, its topic, the list of topics,
the request, the message and the frame. For twelve batches of 64 KiB that took 1.9 us an event, a quarter of what an
event cost the relay altogether. Here the parts of the request are written one after the other, batches as they are.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, TypeAlias

from aiokafka.protocol.api import Request
from aiokafka.protocol.produce import (
    ProduceRequest_v3,
    ProduceRequest_v4,
    ProduceRequest_v5,
    ProduceRequest_v6,
    ProduceRequest_v7,
    ProduceRequest_v8,
    ProduceResponse_v8,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BytesIO

    from aiokafka.protocol.api import RequestStruct

COPIED_BYTES = 8_192
"""Bytes of a record batch below which to copy it is cheaper than to write it by itself."""

Part: TypeAlias = bytes | bytearray

_SIZE = struct.Struct(">i")
_LENGTH = struct.Struct(">h")
_SETTINGS = struct.Struct(">hii")
"""Acks, timeout, number of topics."""
_BATCH = struct.Struct(">ii")
"""Partition, bytes of the record batch."""
_ACKNOWLEDGED = struct.Struct(">ihqqqih")
"""Partition, error code, offset, time, first offset of the log, number of culprits, length of the error message."""


class QuickResponse(ProduceResponse_v8):
    """The answer to version 8. While nothing in it is refused it is read in a fifth of the time: once per request."""

    @classmethod
    def decode(cls, data: BytesIO | bytes) -> QuickResponse:
        """Read an answer as aiokafka does. Raises ValueError when it is cut off."""
        answer = data if isinstance(data, bytes) else data.read()
        try:
            acknowledged = _acknowledged(answer)
        except (struct.error, UnicodeDecodeError):
            acknowledged = None
        return cls(*acknowledged) if acknowledged is not None else super().decode(answer)


class QuickRequest(ProduceRequest_v8):
    """Version 8, whose answer is a QuickResponse."""

    RESPONSE_TYPE = QuickResponse


class Produce(
    Request[
        ProduceRequest_v3 | ProduceRequest_v4 | ProduceRequest_v5 | ProduceRequest_v6 | ProduceRequest_v7 | QuickRequest
    ]
):
    """aiokafka's produce request, in one more version: 0.14 can write 8 and read its answer, but does not use it.

    All of these versions have the same fields. They differ in their answers.
    """

    API_KEY = 0

    def __init__(
        self,
        *,
        transactional_id: str | None,
        required_acks: int,
        timeout: int,
        topics: Sequence[tuple[str, Sequence[tuple[int, Part]]]],
    ) -> None:
        """`topics` has for each topic its partitions with their record batches."""
        self._transactional_id = transactional_id
        self.required_acks = required_acks
        self._timeout = timeout
        self._topics = topics

    def build(self, request_struct_class: type[RequestStruct]) -> RequestStruct:  # type: ignore[override]
        return request_struct_class(self._transactional_id, self.required_acks, self._timeout, self._topics)

    def frame(self, header: bytes) -> list[Part]:
        """Return the parts of the whole frame, from its size on: joined, they are what aiokafka writes.

        What is small is joined: inside TLS each part is a record of its own.
        """
        parts: list[Part] = [
            header,
            _string(self._transactional_id),
            _SETTINGS.pack(self.required_acks, self._timeout, len(self._topics)),
        ]
        for topic, batches in self._topics:
            parts += (_string(topic), _SIZE.pack(len(batches)))
            for partition, batch in batches:
                parts += (_BATCH.pack(partition, len(batch)), batch)
        return _small_ones_joined([_SIZE.pack(sum(map(len, parts))), *parts])


def _small_ones_joined(parts: list[Part]) -> list[Part]:
    joined: list[Part] = []
    small: list[Part] = []
    for part in parts:
        if len(part) < COPIED_BYTES:
            small.append(part)
        else:
            joined += (b"".join(small), part)
            small.clear()
    if small:
        joined.append(b"".join(small))
    return joined


def _string(text: str | None) -> bytes:
    if text is None:
        return _LENGTH.pack(-1)
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _acknowledged(answer: bytes) -> tuple[list[Any], int] | None:
    """Return topics and throttle time of an answer that refuses nothing, as the schema of aiokafka has them."""
    topics: list[Any] = []
    (count,) = _SIZE.unpack_from(answer)
    at = _SIZE.size
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(answer, at)
        at += _LENGTH.size
        name = answer[at : at + length].decode()
        at += length
        (batches,) = _SIZE.unpack_from(answer, at)
        at += _SIZE.size
        end = at + batches * _ACKNOWLEDGED.size
        partitions: list[Any] = []
        for partition, code, offset, time, start, culprits, message in _ACKNOWLEDGED.iter_unpack(answer[at:end]):
            if code or culprits or message != -1:
                return None
            partitions.append((partition, code, offset, time, start, [], None))
        topics.append((name, partitions))
        at = end
    (throttled,) = _SIZE.unpack_from(answer, at)
    return topics, throttled
