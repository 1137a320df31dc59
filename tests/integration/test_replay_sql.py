"""What replays of delivered events read and write, on a real server."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pytest

from relay.decide.lane_scan import LanePosition, LaneScan
from relay.decide.republishing import Progress
from relay.decide.snapshot import Snapshot
from relay.postgres.admin import replays as replay_requests
from relay.postgres.admin.migrate import make_roles
from relay.postgres.admin.replays import ReplayFilter, Replays
from relay.postgres.admin.status import read_status
from relay.postgres.connect import open_connection
from relay.postgres.flow.housekeeping import HousekeepingConnection
from relay.postgres.flow.republish import RepublishConnection
from relay.postgres.sql import query
from relay.stages.republish.origin import LaneRepublish, Republished
from relay.stages.republish.ports import Landed
from tests.support.postgres.outbox import add_event, migrated
from tests.support.postgres.receipts import add_receipts
from tests.support.postgres.replays import ask, insert_action, look
from tests.support.postgres.segments import prune

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg

    from relay.event import PendingEvent


class Outbox(NamedTuple):
    """An outbox, whoever looks at it, and the connection of the replay stage."""

    connection: asyncpg.Connection
    port: RepublishConnection


@pytest.fixture
async def outbox(database: str) -> AsyncIterator[Outbox]:
    """An outbox whose replay connection has the relay's role and session settings."""
    async with migrated(database) as connection:
        await make_roles(connection)
        relays = await open_connection(database, 10, "test")
        await relays.execute("SET ROLE outbox_relay")
        yield Outbox(connection, RepublishConnection(relays, "outbox"))
        relays.terminate()


async def read(outbox: Outbox, lane: int, above: int = 0, events: int = 100, size: int = 10_000) -> list[PendingEvent]:
    """What the only replay under way has to publish of a lane."""
    (request,) = await outbox.port.open_replays()
    return await outbox.port.events_to_replay(request, lane, above, request.last_id, events, size)


async def settle(
    outbox: Outbox, events: Sequence[PendingEvent], error: str | None = None, action: int | None = None
) -> None:
    """Write receipts as the stage does."""
    (request,) = await outbox.port.open_replays()
    landed = []
    for event in events:
        state = LaneScan.take_over(event.lane, 1, 0, 0, Snapshot.parse("1:1:"))
        replay = LaneRepublish(request, state, Progress(0, 0), Republished())
        landed.append(Landed(replay, event, *((None, None, error) if error else (0, event.id, None))))
    await outbox.port.settle_replayed(request.action if action is None else action, landed)


async def own(outbox: Outbox) -> Any:
    """A replica that owns all lanes at epoch 1."""
    replica = uuid4()
    await outbox.connection.execute("UPDATE outbox.lane SET owner = $1, claimed_at = now(), epoch = 1", replica)
    return replica


async def deliver(outbox: Outbox, keys: str, topic: str = "orders") -> list[asyncpg.Record]:
    """Add an event for each letter, and receipts for all."""
    added = [await add_event(outbox.connection, key, topic) for key in keys]
    await add_receipts(outbox.connection)
    return added


async def test_an_event_is_read_with_the_header_of_its_replay_and_its_own(outbox: Outbox) -> None:
    ((lane, id_),) = await deliver(outbox, "k")
    await outbox.connection.execute("""UPDATE outbox.event SET headers = '{"trace": "7"}', type = 'paid'""")
    action = await ask(outbox.connection, "orders")
    (event,) = await read(outbox, lane)
    assert (event.id, event.topic, event.key, event.payload, event.type) == (id_, "orders", b"k", b"x", "paid")
    assert json.loads(event.headers or "") == {"trace": "7", "outbox-replay": str(action)}


async def test_an_event_of_a_replay_for_others_says_where_it_is_from_and_whom_it_is_for(outbox: Outbox) -> None:
    ((lane, _),) = await deliver(outbox, "k")
    action = await ask(outbox.connection, "orders", to_topic="repair", group='bil"ling')
    (event,) = await read(outbox, lane)
    assert event.topic == "orders", "the stage gives it the other one"
    assert json.loads(event.headers or "") == {
        "outbox-replay": str(action),
        "outbox-replay-topic": "orders",
        "outbox-replay-group": 'bil"ling',
    }


async def test_only_delivered_events_of_that_topic_time_and_key_are_read(outbox: Outbox) -> None:
    (wanted, *_) = await deliver(outbox, "kk")
    (late,) = await deliver(outbox, "k")
    await outbox.connection.execute(
        "UPDATE outbox.receipt SET delivered_at = delivered_at - interval '2 days' WHERE max_id = $1", wanted["id"] + 1
    )
    await deliver(outbox, "k", "others")
    await ask(outbox.connection, "orders", key=b"k")
    await deliver(outbox, "k")
    await add_event(outbox.connection, "k")
    assert [event.id for event in await read(outbox, wanted["lane"])] == [wanted["id"], late["id"]]


async def test_a_read_stops_at_its_number_of_events_and_bytes(outbox: Outbox) -> None:
    (first, *_) = await deliver(outbox, "k" * 10)
    await ask(outbox.connection, "orders")
    assert len(await read(outbox, first["lane"], events=4)) == 4
    whole = await read(outbox, first["lane"])
    assert len(await read(outbox, first["lane"], size=sum(event.size for event in whole[:3]))) == 3
    assert len(await read(outbox, first["lane"], size=1)) == 1
    assert [event.id for event in await read(outbox, first["lane"], above=whole[6].id)] == [e.id for e in whole[7:]]


async def test_what_has_no_receipt_below_the_highest_one_is_still_read(outbox: Outbox) -> None:
    """Partitions answer in any order: going on from the highest receipt would leave events out."""
    (first, *_) = await deliver(outbox, "k" * 6)
    action = await ask(outbox.connection, "orders")
    events = await read(outbox, first["lane"])
    await settle(outbox, [events[0], events[5]])
    await settle(outbox, [events[2]], error="too large")
    assert [event.id for event in await read(outbox, first["lane"])] == [events[n].id for n in (1, 3, 4)]
    replay = await look(outbox.connection, action)
    assert (replay.events, replay.published, replay.failed) == (6, 2, 1)
    assert await Replays(outbox.connection, "outbox").errors(action, 5) == [("too large", 1, events[2].id)]


async def test_writing_receipts_twice_counts_once(outbox: Outbox) -> None:
    (first, *_) = await deliver(outbox, "kk")
    action = await ask(outbox.connection, "orders")
    events = await read(outbox, first["lane"])
    for _ in range(2):
        await settle(outbox, events)
    assert (await look(outbox.connection, action)).published == 2


async def test_a_count_that_somebody_wrote_by_hand_counts_as_none(outbox: Outbox) -> None:
    (first, *_) = await deliver(outbox, "kk")
    action = await ask(outbox.connection, "orders")
    events = await read(outbox, first["lane"])
    for broken in ('"many"', "1e400", "-0.5", "[]"):
        await outbox.connection.execute(
            "UPDATE outbox.action SET counts = $1", f'{{"events": 2, "published": {broken}}}'
        )
        await settle(outbox, events)
        assert (await look(outbox.connection, action)).published == 2
        await outbox.connection.execute("DELETE FROM outbox.replay_receipt")


async def test_no_receipt_is_written_for_another_event_under_the_same_id(outbox: Outbox) -> None:
    ((lane, _),) = await deliver(outbox, "k")
    action = await ask(outbox.connection, "orders")
    events = await read(outbox, lane)
    await outbox.connection.execute("UPDATE outbox.event SET event_id = gen_random_uuid()")
    await settle(outbox, events)
    assert (await look(outbox.connection, action)).published == 0


async def test_receipts_of_an_action_that_is_not_there_any_more_do_no_harm(outbox: Outbox) -> None:
    ((lane, _),) = await deliver(outbox, "k")
    await ask(outbox.connection, "orders")
    await settle(outbox, await read(outbox, lane), action=999)
    assert not await outbox.connection.fetch("SELECT FROM outbox.replay_receipt")


async def test_a_replay_is_finished_when_the_last_lane_is_at_its_end(outbox: Outbox) -> None:
    added = await deliver(outbox, "abcdefgh")
    action = await ask(outbox.connection, "orders")
    replica = await own(outbox)
    (request,) = await outbox.port.open_replays()
    lanes = sorted(request.open_lanes())
    assert set(lanes) == {event["lane"] for event in added}
    for lane in lanes:
        assert (await look(outbox.connection, action)).finished_at is None
        await outbox.port.advance_replay(action, replica, [LanePosition(lane, 1, request.last_id)])
    assert (await look(outbox.connection, action)).state == "finished"
    assert await outbox.port.open_replays() == []


async def test_a_position_of_who_does_not_own_the_lane_counts_nothing(outbox: Outbox) -> None:
    ((lane, id_),) = await deliver(outbox, "k")
    action = await ask(outbox.connection, "orders")
    replica = await own(outbox)
    await outbox.port.advance_replay(action, uuid4(), [LanePosition(lane, 1, id_)])
    await outbox.port.advance_replay(action, replica, [LanePosition(lane, 2, id_)])
    (request,) = await outbox.port.open_replays()
    assert request.positions[lane] == id_ - 1


async def test_replicas_that_advance_at_once_overwrite_nothing(outbox: Outbox, database: str) -> None:
    added = await deliver(outbox, "abcdefgh")
    action = await ask(outbox.connection, "orders")
    replica = await own(outbox)
    (request,) = await outbox.port.open_replays()
    lanes = sorted({event["lane"] for event in added})
    async with outbox.connection.transaction():
        # Another replica's statement is under way when ours begins.
        await outbox.connection.fetch(query("advance_replay"), action, replica, lanes[:1], [1], [request.last_id])
        ours = asyncio.create_task(
            outbox.port.advance_replay(action, replica, [LanePosition(lane, 1, request.last_id) for lane in lanes[1:]])
        )
        await asyncio.sleep(0.2)
        assert not ours.done()
    await ours
    assert (await look(outbox.connection, action)).state == "finished"


@pytest.mark.parametrize(
    ("filter_", "progress"),
    [({}, {}), ({"topic": "a", "since": "soon", "until": "late"}, {"last_id": 1, "lanes": {}})],
)
async def test_a_request_that_cannot_be_read_is_ended_with_an_error(
    outbox: Outbox, filter_: dict[str, Any], progress: dict[str, Any]
) -> None:
    action = await insert_action(outbox.connection, filter_, progress)
    assert await outbox.port.open_replays() == []
    replay = await look(outbox.connection, action)
    assert replay.state == "invalid"
    assert "not a replay of delivered events" in replay.counts["error"]


async def test_the_plan_reads_receipts_once_and_events_by_their_index(outbox: Outbox) -> None:
    """Also when statistics say that there is nothing."""
    await outbox.connection.execute("ANALYZE outbox.event, outbox.receipt, outbox.replay_receipt")
    await outbox.connection.execute(
        "INSERT INTO outbox.event (topic, key) SELECT 'a', 'k' FROM generate_series(1, 3000)"
    )
    await add_receipts(outbox.connection)
    action = await ask(outbox.connection, "a")
    (request,) = await outbox.port.open_replays()
    rows = await outbox.port._connection.fetch("SELECT lane FROM outbox.event LIMIT 1")
    arguments = (action, rows[0][0], 0, 3_000, request.since, request.until, "a", None, 128, 1 << 20, "{}")
    text = query("events_to_replay")
    for number, value in reversed(list(enumerate(arguments, start=1))):
        written = "NULL" if value is None else f"'{value}'"
        text = text.replace(f"${number}::", f"{written}::")
    plan = "\n".join(row[0] for row in await outbox.port._connection.fetch("EXPLAIN (ANALYZE, COSTS OFF) " + text))
    # The limit ends the reading: no node below it collects the lane's events first.
    assert re.search(r"Index Scan using event_1_pkey .* rows=128[. ]", plan), plan
    assert "hashed SubPlan" in plan, plan
    assert "Seq Scan" not in plan, plan


class TestSegments:
    """What a replay under way has yet to read is not pruned."""

    @pytest.fixture
    async def settled(self, outbox: Outbox) -> Outbox:
        """One delivered event in a segment that could be dropped."""
        await deliver(outbox, "k")
        await outbox.connection.execute("SELECT outbox.add_segment(5000001, 10000001)")
        await outbox.connection.execute("UPDATE outbox.lane SET position = 5000001")
        return outbox

    async def test_a_segment_that_is_still_to_be_read_stays_until_the_replay_is_over(self, settled: Outbox) -> None:
        action = await ask(settled.connection, "orders")
        assert await prune(settled.connection, 0) == []
        assert not await settled.connection.fetchval("SELECT outbox.drop_segment(1)")
        await Replays(settled.connection, "outbox").cancel(action, "me")
        assert await prune(settled.connection, 0) == ["event_1"]

    async def test_one_that_is_behind_every_position_or_above_the_last_id_is_dropped(self, settled: Outbox) -> None:
        done = {"last_id": 6_000_000, "lanes": dict.fromkeys(map(str, range(16)), 5_000_000)}
        await insert_action(settled.connection, {}, done)
        await insert_action(settled.connection, {}, {"last_id": "x", "lanes": [0]})
        assert await prune(settled.connection, 0) == ["event_1"]

    async def test_an_event_that_outlived_its_segment_and_was_delivered_lately_can_be_replayed(
        self, outbox: Outbox
    ) -> None:
        """What is old is pruned; the horizon is that of whole segments."""
        kept, *_ = await deliver(outbox, "abc")
        await outbox.connection.execute(
            "SELECT outbox.add_segment(5000001, 10000001), setval('outbox.event_id', 5000000);"
            "UPDATE outbox.receipt SET delivered_at = now() - interval '2 h' WHERE max_id > 1;"
            "UPDATE outbox.event SET created_at = now() - interval '3 h';"
            "UPDATE outbox.lane SET position = 5000001"
        )
        assert await prune(outbox.connection, 3600) == []
        await deliver(outbox, "k")
        replays = Replays(outbox.connection, "outbox")
        horizon = await replays.horizon()
        assert (horizon.lowest_id, list(horizon.kept_lower), list(horizon.kept_upper)) == (5_000_001, [1], [5_000_001])
        wanted = ReplayFilter("orders", None, horizon.now - timedelta(days=1), horizon.now, 0)
        counted = await replays.count(wanted, horizon, lambda _: None)
        assert (counted.events, counted.exact) == (2, True)
        assert counted.positions is not None
        assert counted.positions[kept["lane"]] == 0
        await ask(outbox.connection, "orders")
        assert [event.id for event in await read(outbox, kept["lane"])] == [1]

    async def test_receipts_of_replays_are_dropped_when_they_are_old_enough(
        self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("relay.postgres.flow.housekeeping.FORGET_AT_ONCE", 2)
        (first, *_) = await deliver(outbox, "kkk")
        action = await ask(outbox.connection, "orders")
        await settle(outbox, await read(outbox, first["lane"]))
        housekeeping = HousekeepingConnection(outbox.port._connection, "outbox")
        assert not await housekeeping.forget_replayed(0)
        await Replays(outbox.connection, "outbox").cancel(action, "me")
        assert not await housekeeping.forget_replayed(3600)
        assert [await housekeeping.forget_replayed(0) for _ in range(2)] == [True, False]
        assert not await outbox.connection.fetch("SELECT FROM outbox.replay_receipt")
        assert (await look(outbox.connection, action)).published == 3


async def test_status_shows_replays_under_way(outbox: Outbox) -> None:
    (first, *_) = await deliver(outbox, "kkk")
    action = await ask(outbox.connection, "orders")
    await settle(outbox, (await read(outbox, first["lane"]))[:2])
    (replay,) = (await read_status(outbox.connection)).replays
    assert (replay.id, replay.topic, replay.events, replay.published) == (action, "orders", 3, 2)
    await Replays(outbox.connection, "outbox").cancel(action, "me")
    assert (await read_status(outbox.connection)).replays == []


async def test_counting_goes_from_the_newest_ids_down_and_is_cut_short_in_time(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_requests, "COUNT_IDS", 3)
    added = await deliver(outbox, "abcdefgh")
    requests = Replays(outbox.connection, "outbox")
    horizon = await requests.horizon()
    wanted = replay_requests.ReplayFilter("orders", None, horizon.now - timedelta(days=1), horizon.now, None)
    heard: list[int] = []
    counted = await requests.count(wanted, horizon, heard.append)
    assert (counted.events, counted.exact, heard) == (8, True, [3, 6, 8])
    first = {event["lane"]: event["id"] for event in reversed(added)}
    assert counted.positions == {lane: first.get(lane, 9) - 1 for lane in range(16)}
    cut = await requests.count(wanted, horizon, heard.append, seconds=0)
    assert (cut.events, cut.exact) == (3, False)
    assert cut.positions == dict.fromkeys(range(16), 0)
    one = await requests.count(replace(wanted, key=b"a"), horizon, heard.append, seconds=0)
    assert sum(position < 8 for position in (one.positions or {}).values()) == 1
