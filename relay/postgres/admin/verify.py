"""Reads events and receipts by ranges of ids, for a comparison with what Kafka has."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from relay.decide.verify.examine import Wanted
from relay.decide.verify.places import ReceiptRow
from relay.errors import BusyError
from relay.keys import LANES, lane_of_key
from relay.postgres.admin.reads import read_in_time
from relay.postgres.admin.replays import Horizon

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

ALWAYS = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""All times that a receipt can have."""

_REPLAYS = 10_000
"""Replays of failed events, the latest ones, among which the cause of a late event is looked for."""


class FailedReplay(NamedTuple):
    """A replay of failed events that a person asked for."""

    filter: dict[str, Any]
    requested_at: datetime


class Late(NamedTuple):
    """An event that may have come late because a person had it replayed."""

    id: int
    topic: str
    key: bytes | None
    created_at: datetime
    delivered_at: datetime


class Sampled(NamedTuple):
    """A receipt, and the topic of its events."""

    receipt: ReceiptRow
    topic: str


class VerifyReads:
    """What the table has, through one connection; no method leaves a transaction open."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def horizon(self) -> Horizon:
        """Read the server's time, and which ids there are."""
        return Horizon(**(await self._read("replay_horizon"))[0])

    async def kept(self) -> list[tuple[int, int]]:
        """Read the ranges of ids whose events are kept, ascending: pairs (the lowest, the one after the highest)."""
        return [tuple(row) for row in await self._read("verify_kept")]

    async def events(self, topic: str, ranges: Sequence[tuple[int, int]]) -> dict[int, Sequence[Any]]:
        """Read the events of ranges (above, up to): (id, event_id, key, payload, whether erased), by id."""
        above, up_to = ([each[side] for each in ranges] for side in (0, 1))
        return {row[0]: cast("Sequence[Any]", row) for row in await self._read("verify_ranges", topic, above, up_to)}

    async def wanted(self, topic: str, key: bytes | None, above: int, up_to: int) -> list[Wanted]:
        """Read the events of a topic and key with above < id <= up_to."""
        lanes = list(range(LANES)) if key is None else [lane_of_key(key)]
        return [Wanted(*row) for row in await self._read("verify_wanted", topic, key, above, up_to, lanes)]

    async def receipts(
        self, above: int, up_to: int, since: datetime = ALWAYS[0], until: datetime = ALWAYS[1]
    ) -> list[ReceiptRow]:
        """Read the receipts that name ids with above < id <= up_to."""
        return [ReceiptRow(*row) for row in await self._read("verify_receipts", above, up_to, since, until)]

    async def receipts_of(self, ids: Sequence[int]) -> list[ReceiptRow]:
        """Read a receipt of each of some ids, which may be far apart."""
        return [ReceiptRow(*row) for row in await self._read("verify_receipts_of", ids)]

    async def unsettled(self, ids: Sequence[int]) -> list[int]:
        """Return those that the relay has passed: below the position, and neither delivered, failed nor held."""
        return [row["id"] for row in await self._read("verify_unsettled", ids)]

    async def position(self) -> int:
        """Read the highest position of a lane, above which no event is known to be settled."""
        return int((await self._read("verify_position"))[0]["position"])

    async def later(self, ids: Sequence[int], topic: str) -> set[int]:
        """Return those of whose key a later event was delivered."""
        return {row["id"] for row in await self._read("verify_later", ids, topic)}

    async def late(self, ids: Sequence[int]) -> list[Late]:
        """Read when events were written and delivered."""
        return [Late(*row) for row in await self._read("verify_times", ids)]

    async def failed_replays(self) -> list[FailedReplay]:
        """Read the replays of failed events that people asked for."""
        rows = await self._read("verify_replays", _REPLAYS)
        return [FailedReplay(json.loads(row["filter"]), row["requested_at"]) for row in rows]

    async def sample(self, from_id: int, topic: str | None, until: datetime) -> Sampled | None:
        """Read the first receipt that names an id from `from_id` on; None if there is none nearby."""
        rows = await self._read("verify_sample", from_id, topic, until)
        return Sampled(ReceiptRow(*tuple(rows[0])[:5]), rows[0]["topic"]) if rows else None

    async def _read(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        rows = await read_in_time(self._connection, self._schema, name, *arguments, limits="verify_session")
        if rows is None:
            raise BusyError("PostgreSQL took too long to read events or receipts; see `relay status` and try again")
        return rows
