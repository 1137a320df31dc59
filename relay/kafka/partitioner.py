"""The hash by which Kafka's Java client, and every client compatible with it, chooses partitions."""

from __future__ import annotations

import struct

_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """MurmurHash2 of `data` with the seed of org.apache.kafka.common.utils.Utils.murmur2, as an unsigned 32-bit number.

    The same result as aiokafka.partitioner.murmur2 in about half its time: words are unpacked at once instead of
    byte by byte. On first-seen keys aiokafka's took 17 % of the relay's CPU (`python -m tests.bench drain`, profiled).
    """
    length = len(data)
    whole = length & ~3
    h = (_SEED ^ length) & _MASK
    for word in struct.unpack_from(f"<{length >> 2}I", data):
        k = (word * _MULTIPLIER) & _MASK
        k = ((k ^ (k >> 24)) * _MULTIPLIER) & _MASK
        h = ((h * _MULTIPLIER) & _MASK) ^ k
    rest = length - whole
    if rest:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER) & _MASK
    h = ((h ^ (h >> 13)) * _MULTIPLIER) & _MASK
    return h ^ (h >> 15)
