"""The survey on a real outbox: its statements count what is there, whoever the replica is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.postgres.flow.housekeeping import HousekeepingConnection
from relay.stages.housekeeping.ports import SurveyedFailures
from relay.stages.housekeeping.survey import Survey
from relay.telemetry import Telemetry
from tests.support.postgres.failures import add_failed, add_held
from tests.support.postgres.outbox import add_event, migrated
from tests.support.postgres.receipts import add_receipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg


@pytest.fixture
async def outbox(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    async with migrated(database) as connection:
        yield connection


async def test_failures_and_held_events_are_counted_by_topic_up_to_a_limit(outbox: asyncpg.Connection) -> None:
    port = HousekeepingConnection(outbox, "outbox")
    await add_failed(outbox, b"a")
    await add_failed(outbox, b"b")
    await add_failed(outbox, None)
    await add_failed(outbox, b"c", "bills", state="retrying")
    await add_failed(outbox, b"d", "bills", state="discarded")
    for _ in range(3):
        await add_held(outbox, b"a")
    assert sorted(await port.survey_failures(100)) == [
        SurveyedFailures("bills", "retrying", 1, 1),
        SurveyedFailures("orders", "failed", 3, 2),
    ]
    assert await port.survey_held(100) == {"orders": 3}
    assert sum(each.events for each in await port.survey_failures(2)) == 2
    assert await port.survey_held(2) == {"orders": 2}


async def test_an_empty_outbox_has_no_open_ids_and_no_owners(outbox: asyncpg.Connection) -> None:
    ids = await HousekeepingConnection(outbox, "outbox").survey_ids()
    assert ids.open_ids == 0
    assert ids.ids_ahead == 5_000_000
    assert ids.unowned_lanes == 16


async def test_ids_are_open_until_every_position_has_passed_them(outbox: asyncpg.Connection) -> None:
    port = HousekeepingConnection(outbox, "outbox")
    for _ in range(5):
        last = await add_event(outbox)
    before = await port.survey_ids()
    assert before.open_ids == last["id"]
    await outbox.execute("UPDATE outbox.lane SET position = $1 WHERE lane <> 3", last["id"])
    assert (await port.survey_ids()).open_ids == last["id"]
    await outbox.execute("UPDATE outbox.lane SET position = $1", last["id"])
    after = await port.survey_ids()
    assert after.open_ids == 0
    assert after.ids_ahead == before.ids_ahead


async def test_a_lane_is_unowned_once_its_owners_lease_is_over(outbox: asyncpg.Connection) -> None:
    port = HousekeepingConnection(outbox, "outbox")
    await outbox.execute(
        "WITH r AS (INSERT INTO outbox.replica (id, name, version, lease_expires_at)"
        " VALUES (gen_random_uuid(), 'one', '1', clock_timestamp() + interval '1 hour') RETURNING id)"
        " UPDATE outbox.lane SET owner = (SELECT id FROM r), claimed_at = clock_timestamp() WHERE lane < 10"
    )
    assert (await port.survey_ids()).unowned_lanes == 6
    await outbox.execute("UPDATE outbox.replica SET lease_expires_at = clock_timestamp() - interval '1 second'")
    assert (await port.survey_ids()).unowned_lanes == 16


async def test_pending_events_are_counted_by_topic_without_those_that_are_settled_held_or_failed(
    outbox: asyncpg.Connection,
) -> None:
    port = HousekeepingConnection(outbox, "outbox")
    assert await port.survey_reach() == (0, 0)
    first = await add_event(outbox, topic="orders")
    delivered = await add_event(outbox, topic="bills")
    await add_receipt(outbox, delivered["id"])
    await add_failed(outbox, b"a")
    await add_held(outbox, b"a")
    last = await add_event(outbox, topic="bills")
    await outbox.execute("UPDATE outbox.event SET created_at = now() - interval '1 h' WHERE id = $1", last["id"])
    assert await port.survey_reach() == (first["id"] - 1, last["id"])
    found = {each.topic: each for each in await port.survey_pending(0, last["id"])}
    assert {topic: each.events for topic, each in found.items()} == {"orders": 1, "bills": 1}
    assert found["bills"].oldest >= 3_600 > found["orders"].oldest >= 0
    assert [each.topic for each in await port.survey_pending(first["id"], last["id"])] == ["bills"]
    # Positions that have passed all: nothing can be pending.
    await outbox.execute("UPDATE outbox.lane SET position = $1", last["id"])
    assert await port.survey_reach() == (last["id"], last["id"])
    assert await port.survey_pending(0, last["id"]) == []


async def test_the_backlog_of_many_events_is_estimated_by_topic(outbox: asyncpg.Connection) -> None:
    await outbox.execute(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT CASE WHEN n % 4 = 0 THEN 'bills' ELSE 'orders' END, convert_to('k' || n % 97, 'UTF8'), 'x'"
        " FROM generate_series(1, 40000) AS n"
    )
    telemetry = Telemetry()
    await Survey(telemetry).look(HousekeepingConnection(outbox, "outbox"))
    assert telemetry.value("outbox_pending_events", topic="orders") == pytest.approx(30_000, rel=0.02)
    assert telemetry.value("outbox_pending_events", topic="bills") == pytest.approx(10_000, rel=0.02)
    assert telemetry.value("outbox_pending_oldest_seconds", topic="bills") is not None
