"""Topics as people see them: what waits, how fast it goes, what is paused and why; and what people ask of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.decide.held_back import PausedTopic
from relay.postgres.admin.reads import read, read_in_time
from relay.postgres.errors import translated
from relay.postgres.hints import hint
from relay.postgres.sql import DEFAULT_SCHEMA, query

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

COUNT_IDS = 100_000
"""Ids in which pending events are counted with one statement."""

COUNT_LIMIT = 1_000_000
COUNT_SECONDS = 5.0
"""Pending events are counted up to so many, and for at most so long; more are said to be at least that many."""

LOOKED_AT = 100_000
"""Held events, and failed ones, that are counted."""

RATE_SECONDS = 60.0
NEWEST_IDS = 20_000
NEWEST_RECEIPTS = 2_000
"""Rates are those of the last minute, or of as many ids and receipts, if these go less far back."""


@dataclass(slots=True)
class TopicState:
    """One topic for which there was something to tell."""

    topic: str
    pending: int = 0
    oldest_seconds: float | None = None
    """Age of the first pending event."""
    held: int = 0
    waiting: int = 0
    """Held events that no failure of their key explains: they wait for the topic."""
    failed: int = 0
    written_per_second: float = 0.0
    delivered_per_second: float = 0.0
    paused: PausedTopic | None = None
    """What a person asked for."""
    trouble: str | None = None
    """Why the topic takes no events, as the replicas say."""
    limit: str | None = None
    """The rate that a replica may publish, if it would publish more."""


@dataclass(slots=True)
class Topics:
    """All of them, and what could not be read in time."""

    topics: list[TopicState]
    complete: bool
    """Whether all pending events were counted."""
    unread: list[str]
    """Parts that could not be read in time, such as "held"."""


async def read_topics(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> Topics:
    """Read what there is for each topic, in statements that a huge outbox cannot make expensive."""
    return await _Reads(connection, schema).all()


async def read_paused(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> list[PausedTopic]:
    """Read which topics people paused. Raises BusyError if that took too long."""
    return [PausedTopic(*row) for row in await read(connection, schema, "paused_topics")]


async def ask_topics(
    connection: asyncpg.Connection,
    schema: str,
    topics: Sequence[str],
    *,
    seconds: float,
    reason: str,
    requested_by: str,
) -> None:
    """Record that the topics' events are to be held back for `seconds`; 0 ends what was asked for before."""
    with translated():
        await connection.execute(query("ask_topics", schema), topics, seconds, reason, requested_by)
    await hint(connection, "lanes_wake_up", schema)


class _Reads:
    """Collects the parts by topic."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._found: dict[str, TopicState] = {}
        self._unread: list[str] = []

    async def all(self) -> Topics:
        complete = await self._pending()
        for topic, events, waiting in await self._rows("held", "topics_held", LOOKED_AT):
            state = self._of(topic)
            state.held, state.waiting = events, waiting
        for topic, events in await self._rows("failed", "topics_failed", LOOKED_AT):
            self._of(topic).failed = events
        for topic, events, seconds in await self._rows("written/s", "topics_written", NEWEST_IDS, RATE_SECONDS):
            self._of(topic).written_per_second = events / max(seconds, 1.0)
        for topic, events, seconds in await self._rows(
            "delivered/s", "topics_delivered", NEWEST_RECEIPTS, RATE_SECONDS
        ):
            self._of(topic).delivered_per_second = events / max(seconds, 1.0)
        for topic, trouble, limit in await self._rows("trouble", "told_topics"):
            state = self._of(topic)
            state.trouble, state.limit = trouble, limit
        for pause in await self._rows("paused", "paused_topics"):
            self._of(pause["topic"]).paused = PausedTopic(*pause)
        return Topics(list(self._found.values()), complete, self._unread)

    def _of(self, topic: str) -> TopicState:
        return self._found.setdefault(topic, TopicState(topic))

    async def _rows(self, part: str, name: str, *arguments: object) -> list[asyncpg.Record]:
        rows = await read_in_time(self._connection, self._schema, name, *arguments)
        if rows is None:
            self._unread.append(part)
        return rows or []

    async def _pending(self) -> bool:
        """Count pending events from the lowest position up, by some ids at a time; return whether all were counted."""
        deadline = time.monotonic() + COUNT_SECONDS
        reach = await self._rows("pending", "status_reach")
        above, up_to = reach[0] if reach else (0, None)
        counted = 0
        while up_to is not None and above < up_to:
            end = min(above + COUNT_IDS, up_to)
            rows = await self._rows("pending", "topics_pending", above, end)
            if not rows:
                return False
            for topic, events, seconds, next_ in rows:
                if topic is None:
                    above, up_to = (end, end) if next_ is None else (max(end, next_), up_to)
                    continue
                state = self._of(topic)
                state.pending += events
                counted += events
                if state.oldest_seconds is None:
                    state.oldest_seconds = seconds
            if above < up_to and (counted >= COUNT_LIMIT or time.monotonic() > deadline):
                return False
        return up_to is not None
