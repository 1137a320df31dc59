"""Replays of delivered events, asked for and looked at by tests."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from relay.admin.replays import ReplayPreview
from relay.postgres.admin.replays import Replay, ReplayFilter, Replays
from tests.support.waiting import until

if TYPE_CHECKING:
    import asyncpg

    from tests.support.kafka.consumer import Record

HEADER = "outbox-replay"


async def ask(
    connection: asyncpg.Connection,
    topic: str,
    *,
    key: bytes | None = None,
    rate: float | None = None,
    to_topic: str | None = None,
    group: str | None = None,
) -> int:
    """Ask for everything of a topic that was delivered until now, as `relay replay` does; returns the number."""
    requests = Replays(connection, "outbox")
    horizon = await requests.horizon()
    wanted = ReplayFilter(topic, key, horizon.now - timedelta(days=1), horizon.now, rate)
    counted = await requests.count(wanted, horizon, lambda _: None)
    assert counted.exact
    wanted = replace(wanted, to_topic=to_topic, group=group)
    recorded = ReplayPreview(wanted, horizon, counted, 0).filter
    return await requests.request(recorded, found=counted, horizon=horizon, reason="a test", requested_by="me@here")


async def look(connection: asyncpg.Connection, action: int) -> Replay:
    """How a replay is."""
    (replay,) = await Replays(connection, "outbox").listed(1, only=action)
    return replay


async def finished(connection: asyncpg.Connection, action: int, timeout: float = 60.0) -> Replay:
    """Wait until a replay is over."""

    async def over() -> Replay | None:
        replay = await look(connection, action)
        return replay if replay.finished_at else None

    try:
        replay = await until(f"replay {action} is over", over, timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}: {await look(connection, action)}") from None
    assert replay is not None
    return replay


async def receipts_reach(connection: asyncpg.Connection, action: int, number: int, timeout: float = 60.0) -> int:
    """Wait until so many events of a replay have a receipt; returns how many there are."""

    async def reached() -> int:
        count: int = await connection.fetchval("SELECT count(*) FROM outbox.replay_receipt WHERE action = $1", action)
        return count if count >= number else 0

    return await until(f"{number} receipts of replay {action}", reached, timeout)


def of_replay(records: list[Record], action: int) -> list[Record]:
    """The records that a replay published."""
    return [record for record in records if record.headers.get(HEADER) == str(action)]


def live(records: list[Record]) -> list[Record]:
    """The records that no replay published."""
    return [record for record in records if HEADER not in record.headers]


async def check_replay(
    connection: asyncpg.Connection, action: int, records: list[Record], most_repeats: int = 0
) -> None:
    """Check that each event that was asked for is there, per key in order, as its first delivery was, and where its
    receipt says."""
    replay = await look(connection, action)
    again = of_replay(records, action)
    first = {record.id: record for record in live(records)}
    seen: set[int] = set()
    last: dict[bytes | None, int] = {}
    for record in again:
        if record.id in seen:
            most_repeats -= 1
            continue
        seen.add(record.id)
        assert record.id > last.get(record.key, 0), f"{record} after {last[record.key]} of its key"
        last[record.key] = record.id
        before = first[record.id]
        assert (record.partition, record.key, record.value) == (before.partition, before.key, before.value)
        assert record.headers == {**before.headers, HEADER: str(action)}
        assert record.timestamp >= replay.requested_at.timestamp() * 1000 - 1
    assert most_repeats >= 0, f"{-most_repeats} more repeats than there may be"
    # Receipts that were being written when the request was made count or not: nobody can tell.
    assert len(seen) >= replay.events
    at = {(record.partition, record.offset): record.id for record in again}
    receipts = await connection.fetch("SELECT * FROM outbox.replay_receipt WHERE action = $1", action)
    assert {row["id"] for row in receipts} == seen
    wrong = [row for row in receipts if at.get((row["kafka_partition"], row["kafka_offset"])) != row["id"]]
    assert not wrong, f"{len(wrong)} receipts of the replay are wrong, the first: {wrong[0]}"
    assert (replay.state, replay.published, replay.failed) == ("finished", len(seen), 0)


async def insert_action(connection: asyncpg.Connection, filter_: dict[str, Any], progress: dict[str, Any]) -> int:
    """Write a request by hand; returns its number."""
    id_: int = await connection.fetchval(
        "INSERT INTO outbox.action (kind, filter, progress) VALUES ('replay-delivered', $1, $2) RETURNING id",
        json.dumps(filter_),
        json.dumps(progress),
    )
    return id_
