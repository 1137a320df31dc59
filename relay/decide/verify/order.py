"""Whether the events of a key came in order: their ids grow, because one writer after the other takes them.

Of each key the highest id is remembered. The keys that had no event for longest are forgotten when there are too many.
An event of a forgotten key whose id is higher than all that was forgotten is in order nevertheless, which is nearly
every event. Of the others nothing is known, and they are counted.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

MAX_KEYS = 500_000
"""Keys that are remembered: some 60 MB."""

Unknown: TypeAlias = Literal[-1]
UNKNOWN: Unknown = -1


class KeyOrder:
    """The order of the keys of a topic, each in its partition."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._generation = max(max_keys // 2, 1)
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._forgotten = 0
        """No key that was forgotten had a higher id."""

    def passed_by(self, partition: int, key: bytes, id_: int) -> int | Unknown:
        """Note the first record of an event; return the id of a later event of its key that came before, or 0.

        UNKNOWN if the key was forgotten.
        """
        of_key = hash((partition, key))
        last = self._young.get(of_key)
        if last is None:
            last = self._old.get(of_key, 0)
            if not last and id_ < self._forgotten:
                # Not noted: the id that was forgotten may be higher than this one, and than the next ones, too.
                return UNKNOWN
            self._young[of_key] = max(last, id_)
            if len(self._young) >= self._generation:
                self._forget()
        elif last < id_:
            self._young[of_key] = id_
        return last if last > id_ else 0

    def _forget(self) -> None:
        self._forgotten = max(self._forgotten, max(self._old.values(), default=0))
        self._young, self._old = {}, self._young
