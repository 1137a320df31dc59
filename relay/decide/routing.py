"""Which partition of its topic an event goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

KNOWN_BYTES = 20 << 20
"""Maximum bytes of all remembered keys together: 180,000 keys of 36 bytes. Hashing a key takes three times as long as
looking it up."""

KNOWN_KEY_BYTES = 80
"""Bytes that a remembered key takes beyond its own: its object and its place in a dictionary, measured with tracemalloc
on CPython 3.11."""


class KnownKeys:
    """The bound on the keys that the routers of all topics remember. When it is reached, all keys are forgotten."""

    def __init__(self) -> None:
        self._bytes = 0
        self._filled: list[dict[bytes, int]] = []

    def has_room(self, keys: Collection[bytes]) -> bool:
        """Return whether these keys may be remembered, too."""
        return self._bytes + _size(keys) <= KNOWN_BYTES

    def remember(self, known: dict[bytes, int], partitions: Mapping[bytes, int]) -> None:
        """Add the partitions of new keys to `known`, which nobody else adds to."""
        if not known:
            self._filled.append(known)
        known.update(partitions)
        self._bytes += _size(partitions)

    def forget(self) -> None:
        """Forget all keys of all topics."""
        for each in self._filled:
            each.clear()
        self._filled.clear()
        self._bytes = 0


class Router:
    """Partitions of one topic: Java-compatible murmur2 of the key; keyless events go round, a batch at a time."""

    def __init__(
        self, partitions: int, hash_keys: Callable[[Sequence[bytes]], Sequence[int]], known_keys: KnownKeys
    ) -> None:
        if partitions < 1:
            raise ValueError("a topic has at least one partition")
        self.partitions = partitions
        self._hash_keys = hash_keys
        self._known_keys = known_keys
        self._known: dict[bytes, int] = {}
        self._turn = 0

    def partitions_of(self, keys: set[bytes | None]) -> Mapping[bytes, int]:
        """Return a mapping from each key in `keys` to its partition; it is valid until the next call.

        The partition is the one that the Java client's default partitioner chooses.
        """
        new = self._unknown(keys)
        if new and not self._known_keys.has_room(new):
            self._known_keys.forget()
            new = self._unknown(keys)
        if new:
            hashes = self._hash_keys(new)
            found = {key: (value & 0x7FFFFFFF) % self.partitions for key, value in zip(new, hashes, strict=True)}
            self._known_keys.remember(self._known, found)
        return self._known

    def next_turn(self) -> int:
        """Return the partition for the keyless events of the next batch."""
        turn = self._turn
        self._turn = (turn + 1) % self.partitions
        return turn

    def _unknown(self, keys: set[bytes | None]) -> list[bytes]:
        return [key for key in keys.difference(self._known) if key is not None]


def _size(keys: Collection[bytes]) -> int:
    return sum(map(len, keys)) + KNOWN_KEY_BYTES * len(keys)
