"""Which events of a lane are held back: those behind a failure of their key, and those of a paused topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from relay.event import PendingEvent

TopicKey: TypeAlias = tuple[str, bytes]


class BlockedKey(NamedTuple):
    """A key of a lane with a failure that is not resolved: its later events wait."""

    lane: int
    topic: str
    key: bytes


class PausedTopic(NamedTuple):
    """A topic whose events a person wants held back for a time."""

    topic: str
    seconds: float
    """How long that still lasts."""
    until: float
    """When it ends (unix time, by PostgreSQL's clock)."""
    reason: str
    requested_by: str


class Closed:
    """The closed keys and topics of one lane.

    Something is closed the moment it is known that it must be, and opened only at the end of a *pass* over the held
    rows: by what was blocked when the pass began, plus what was closed since. All held events of a key that is
    opened were handed in by then, so fresh ones follow them in the partition's queue.
    """

    def __init__(self, topics: Iterable[str] = (), keys: Iterable[TopicKey] = ()) -> None:
        self._topics = set(topics)
        self._keys = set(keys)
        self._topics_since: set[str] = set()
        self._keys_since: set[TopicKey] = set()
        self._held_since: dict[tuple[str, bytes | None], int] | None = None
        """The lowest id of each key that was held back since a pass last looked."""

    def __bool__(self) -> bool:
        return bool(self._topics or self._keys)

    def close_key(self, topic: str, key: bytes) -> None:
        """Hold back the events of `key` from now on."""
        self._keys.add((topic, key))
        self._keys_since.add((topic, key))

    def close_topic(self, topic: str) -> None:
        """Hold back the events of `topic` from now on."""
        self._topics.add(topic)
        self._topics_since.add(topic)

    def holds_back(self, topic: str, key: bytes | None) -> bool:
        """Return whether an event must wait. An event without a key waits for its topic only."""
        return topic in self._topics or (key is not None and (topic, key) in self._keys)

    def divide(self, events: list[PendingEvent]) -> tuple[list[PendingEvent], list[PendingEvent]]:
        """Return the events that may go on, and the events to hold back."""
        if not self:
            return events, []
        go: list[PendingEvent] = []
        wait: list[PendingEvent] = []
        for event in events:
            (wait if self.holds_back(event.topic, event.key) else go).append(event)
        return go, wait

    def note_held(self, events: Iterable[PendingEvent]) -> None:
        """Note events that are held back: a pass that has gone by them, or cannot see them yet, must look again."""
        since = self._held_since
        if since is not None:
            for event in events:
                place = event.topic, event.key
                since[place] = min(event.id, since.get(place, event.id))

    def held_before(self, event: PendingEvent) -> bool:
        """Whether an earlier event of its key was held back since `look_again_from` was last called.

        What was read meanwhile may lack that one: this one would go on before it.
        """
        since = self._held_since
        return since is not None and since.get((event.topic, event.key), event.id) < event.id

    @property
    def nothing_held_since(self) -> bool:
        """Return whether no event was held back since `look_again_from` was last called."""
        return not self._held_since

    def look_again_from(self, above: int) -> int:
        """Return the id above which a pass that has come to `above` must read on, once all held rows are committed."""
        since, self._held_since = self._held_since, {}
        return min(above, min(since.values()) - 1) if since else above

    def can_open(self, topics: Collection[str], keys: Collection[TopicKey]) -> bool:
        """Return whether a pass would open something, if only `topics` and `keys` have to stay closed."""
        return not (self._topics.issubset(topics) and self._keys.issubset(keys))

    def begin_pass(self) -> None:
        """A pass over the held rows begins; what is closed from now on stays closed at its end.

        It must call `leave_pass` in the end: what is held back is noted for as long.
        """
        self._topics_since.clear()
        self._keys_since.clear()
        self._held_since = {}

    def leave_pass(self) -> None:
        """End the pass, whether it came to its end or not."""
        self._held_since = None

    @property
    def topics_since(self) -> frozenset[str]:
        """The topics that were closed during the pass."""
        return frozenset(self._topics_since)

    def closed_since(self, topic: str, key: bytes | None) -> bool:
        """Return whether this key or topic was closed during the pass."""
        return topic in self._topics_since or (key is not None and (topic, key) in self._keys_since)

    def end_pass(self, topics: Iterable[str], keys: Iterable[TopicKey]) -> None:
        """Every held event that was not behind `topics` and `keys`, as of the pass's beginning, is handed in."""
        self._topics = {*topics, *self._topics_since}
        self._keys = {*keys, *self._keys_since}
