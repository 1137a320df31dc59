"""Which partition of its topic an event goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CACHED_KEYS = 1 << 17
"""Keys remembered per topic: about 20 MB at 36-byte keys. The hash in pure Python costs more than all else that
happens to an event (FACTS: a quarter of the CPU on first-seen keys)."""


class Router:
    """Partitions of one topic: Java-compatible murmur2 of the key; keyless events go round, a batch at a time."""

    def __init__(self, partitions: int, hash_key: Callable[[bytes], int]) -> None:
        if partitions < 1:
            raise ValueError("a topic has at least one partition")
        self.partitions = partitions
        self._hash = hash_key
        self.known: dict[bytes | None, int] = {}
        """Partitions of the keys remembered; never one for None. Look here first: most events' keys are known."""
        self._turn = 0

    def partition(self, key: bytes | None) -> int:
        """The partition for `key`, the same as the Java client's default partitioner chooses."""
        if key is None:
            return self._turn
        partition = self.known.get(key)
        if partition is None:
            if len(self.known) >= CACHED_KEYS:
                self.known.clear()
            partition = self.known[key] = (self._hash(key) & 0x7FFFFFFF) % self.partitions
        return partition

    def next_turn(self) -> None:
        """Send the keyless events of the next batch to the next partition."""
        self._turn = (self._turn + 1) % self.partitions
