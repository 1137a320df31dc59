"""Which partition of its topic an event goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

KNOWN_BYTES = 20 << 20
"""What all remembered keys together may take: 180,000 of 36 bytes. The hash in pure Python costs more than all else
that happens to an event (FACTS: a quarter of the CPU on first-seen keys)."""

KNOWN_KEY_BYTES = 80
"""What a remembered key takes beyond its own bytes: its object and its place in a dictionary, measured with tracemalloc
on CPython 3.11."""


class KnownKeys:
    """The bound on what the routers of all topics remember. When it is reached, everything is forgotten."""

    def __init__(self) -> None:
        self._bytes = 0
        self._filled: list[dict[bytes | None, int]] = []

    def remember(self, known: dict[bytes | None, int], key: bytes, partition: int) -> None:
        """Add the partition of a new key to `known`, which nobody else adds to."""
        size = len(key) + KNOWN_KEY_BYTES
        if self._bytes + size > KNOWN_BYTES:
            for each in self._filled:
                each.clear()
            self._filled.clear()
            self._bytes = 0
        if not known:
            self._filled.append(known)
        known[key] = partition
        self._bytes += size


class Router:
    """Partitions of one topic: Java-compatible murmur2 of the key; keyless events go round, a batch at a time."""

    def __init__(self, partitions: int, hash_key: Callable[[bytes], int], known_keys: KnownKeys) -> None:
        if partitions < 1:
            raise ValueError("a topic has at least one partition")
        self.partitions = partitions
        self._hash = hash_key
        self._known_keys = known_keys
        self.known: dict[bytes | None, int] = {}
        """Partitions of the keys remembered; never one for None. Look here first: most events' keys are known."""
        self._turn = 0

    def partition(self, key: bytes | None) -> int:
        """The partition for `key`, the same as the Java client's default partitioner chooses."""
        if key is None:
            return self._turn
        partition = self.known.get(key)
        if partition is None:
            partition = (self._hash(key) & 0x7FFFFFFF) % self.partitions
            self._known_keys.remember(self.known, key, partition)
        return partition

    def next_turn(self) -> None:
        """Send the keyless events of the next batch to the next partition."""
        self._turn = (self._turn + 1) % self.partitions
