"""The plans of the statements that run all the time, with the relay's session settings, whatever the statistics say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from relay.postgres.sql import query
from tests.support.postgres.outbox import migrated
from tests.support.postgres.receipts import DELIVERIES, DELIVERY_OF_EACH
from tests.support.relay.stages import HandRelay, relay_connections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import asyncpg

SEGMENTS = 8
IDS = 1000
"""Per segment."""

UNWANTED = {"Seq Scan", "Bitmap Heap Scan", "Sort", "Incremental Sort", "Hash Join", "Merge Join", "Gather"}


EVENTS = (
    "INSERT INTO outbox.event (topic, key, payload)"
    " SELECT 'orders', convert_to('key-' || i, 'UTF8'), 'x' FROM generate_series(1, $1::int) AS i"
)
RECEIPTS = DELIVERY_OF_EACH.format(offset="e.id", events="outbox.event")


@pytest.fixture(params=["true", "of an empty outbox", "missing"])
async def segments(
    database: str, with_outbox: None, request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection]:
    """An outbox of several segments and rows in the DEFAULT partition, all delivered, with such statistics."""
    async with migrated(database) as connection:
        await connection.execute("UPDATE outbox.lane SET position = 5000001")
        assert await connection.fetchval("SELECT outbox.drop_segment(1)")
        await connection.execute("UPDATE outbox.lane SET position = 0")
        for number in range(SEGMENTS):
            await connection.execute("SELECT outbox.add_segment($1, $2)", number * IDS + 1, (number + 1) * IDS + 1)
        if request.param == "of an empty outbox":
            await connection.execute("ANALYZE")
        await connection.execute(EVENTS, SEGMENTS * IDS + 300)
        await connection.execute(RECEIPTS)
        assert await connection.fetchval("SELECT count(*) FROM outbox.event_default") == 300
        if request.param == "true":
            await connection.execute("ANALYZE")
        yield connection


async def plan_of(connection: asyncpg.Connection, name: str, *arguments: str) -> list[dict[str, Any]]:
    """The nodes of a named query's plan as it was executed, prepared as asyncpg does."""
    await connection.execute(f"PREPARE checked AS {query(name)}")
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE checked ({', '.join(arguments)})")
    await connection.execute("DEALLOCATE checked")
    return list(_nodes(json.loads(text)[0]["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def check(nodes: list[dict[str, Any]], unwanted_nodes: set[str] = UNWANTED) -> None:
    """Index scans in the order of the index only, but for the sequence's one row."""
    unwanted = [
        (node["Node Type"], node.get("Relation Name"))
        for node in nodes
        if node["Node Type"] in unwanted_nodes and node.get("Relation Name") != "event_id"
    ]
    assert unwanted == []


def read(nodes: list[dict[str, Any]], parent: str) -> set[str]:
    """The partitions of `parent` that were really looked into."""
    names = {node["Relation Name"] for node in nodes if "Relation Name" in node and node["Actual Loops"]}
    return {name for name in names if name.startswith(f"{parent}_") and name != "event_id"}


def every_lane(start: int, taken_to: int) -> list[str]:
    """The arguments of a scan of 16 lanes with one bound."""

    def array(value: object) -> str:
        return "'{" + ",".join([str(value)] * 16) + "}'"

    lanes = "'{" + ",".join(map(str, range(16))) + "}'"
    limits = [array(0), array(100), array(1 << 20), array(1)]
    return [lanes, array(taken_to), *limits, f"'{{{start}}}'", "'{}'", "'{}'", "'{}'", str(start)]


async def test_a_scan_reads_by_index_and_leaves_segments_aside_that_it_needs_not(
    database: str, segments: asyncpg.Connection
) -> None:
    last = SEGMENTS * IDS
    async with relay_connections(database) as connections:
        connection = connections["scan"]
        nodes = await plan_of(connection, "scan", *every_lane(last - 100, last))
        check(nodes)
        assert read(nodes, "event") == {f"event_{last - IDS + 1}", "event_default"}
        removed = [node["Subplans Removed"] for node in nodes if node.get("Subplans Removed")]
        assert removed == [SEGMENTS - 1] * 2, "segments are set up for a scan that cannot read them"


async def test_a_look_is_an_index_scan_of_the_segments_that_it_needs(
    database: str, segments: asyncpg.Connection
) -> None:
    last = SEGMENTS * IDS
    lanes = f"'{{{','.join(map(str, range(16)))}}}'"
    async with relay_connections(database) as connections:
        nodes = await plan_of(connections["scan"], "look", lanes, str(last - 100), "500", "8192")
        check(nodes)
        assert read(nodes, "event") == {f"event_{last - IDS + 1}", "event_default"}
        conditions = [node["Index Cond"] for node in nodes if "Index Cond" in node]
        assert all("id > $2" in each for each in conditions)
        assert any("lane = ANY" in each for each in conditions)
        removed = [node["Subplans Removed"] for node in nodes if node.get("Subplans Removed")]
        assert removed == [SEGMENTS - 1], "segments are set up for a look that cannot read them"


async def test_a_scan_over_all_segments_reads_by_index_too_and_nothing_but_events(
    database: str, segments: asyncpg.Connection
) -> None:
    async with relay_connections(database) as connections:
        nodes = await plan_of(connections["scan"], "scan", *every_lane(0, SEGMENTS * IDS + 300))
        check(nodes)
        assert len(read(nodes, "event")) == SEGMENTS + 1
        tables = {node["Relation Name"].split("_")[0] for node in nodes if "Relation Name" in node}
        assert tables == {"event"}, "what is settled is known, and not looked up"


async def test_events_are_read_by_their_ids_by_index_and_only_in_their_segments(
    database: str, segments: asyncpg.Connection
) -> None:
    async with relay_connections(database) as connections:
        some = "SELECT lane, id FROM outbox.event WHERE id % 400 = 1 AND id BETWEEN 2100 AND 3800"
        wanted = await segments.fetch(some)
        arrays = [f"'{{{','.join(map(str, column))}}}'" for column in zip(*wanted, strict=True)]
        sizes = "'{" + ",".join(["1000"] * len(wanted)) + "}'"
        nodes = await plan_of(connections["scan"], "events_by_id", *arrays, sizes, "2201", "3801")
        check(nodes, UNWANTED - {"Sort"})
        assert read(nodes, "event") == {"event_2001", "event_3001"}
        assert nodes[0]["Actual Rows"] == len(wanted)


async def test_a_step_of_a_sweep_reads_each_table_once_by_index_and_only_its_segments(
    database: str, segments: asyncpg.Connection
) -> None:
    """A look for each event's receipt took three times as long: new events waited 4.8 s for 600,000 delivered ones."""
    await segments.execute(
        "INSERT INTO outbox.held (lane, id, topic) SELECT lane, id, topic FROM outbox.event WHERE id % 3 = 0"
    )
    async with relay_connections(database) as connections:
        nodes = await plan_of(connections["sweep"], "sweep_ids", "3", "500", "1500")
        check(nodes)
        assert read(nodes, "event") <= {"event_1", "event_1001", "event_default"}
        scans = [node for node in nodes if "Relation Name" in node]
        assert {"event", "receipt", "failure", "held"} <= {node["Index Name"].split("_")[0] for node in scans}
        assert max(node["Actual Loops"] for node in scans) == 1
        assert all("$2" in node["Index Cond"] and "$3" in node["Index Cond"] for node in scans)


async def test_a_step_that_knows_what_is_settled_reads_by_index_and_only_its_segments(
    database: str, segments: asyncpg.Connection
) -> None:
    ids = f"'{{{','.join(map(str, range(500, 1500, 7)))}}}'"
    async with relay_connections(database) as connections:
        nodes = await plan_of(connections["sweep"], "gap_ids", "3", ids, "500", "1500")
        check(nodes)
        assert read(nodes, "event") <= {"event_1", "event_1001", "event_default"}
        scans = [node for node in nodes if "Relation Name" in node]
        assert all("id = gap.id" in node["Index Cond"] for node in scans)
        nodes = await plan_of(connections["sweep"], "range_ids", "3", "500", "1500")
        check(nodes)
        assert read(nodes, "event") <= {"event_1", "event_1001", "event_default"}


async def test_a_look_for_duplicates_reads_each_table_once_by_index_and_only_its_segments(
    database: str, segments: asyncpg.Connection
) -> None:
    """It was a look for each event in each lane, and for each of them all receipts nearby: 1 s for 4,480 events."""
    last = f"'{UUID(int=(1 << 128) - 1)}'"
    lanes = f"'{{{','.join(map(str, range(16)))}}}'"
    limits = ["'{}'", "'{}'", "512", "8192", "300"]
    async with relay_connections(database) as connections:
        nodes = await plan_of(
            connections["control"],
            "delivered_twice",
            *(f"'{UUID(int=0)}'", "'{1:1:}'", "'{1000000}'", lanes, "500", "1500", "500", "1500", "500", last),
            *limits,
        )
        check(nodes, UNWANTED - {"Sort", "Incremental Sort"})
        # A receipt lies in the segment of its highest id, and its lowest one may be 131,071 below.
        assert read(nodes, "event") <= {"event_1", "event_1001", "event_default"}
        scans = [node for node in nodes if "Relation Name" in node]
        receipts = [node for node in scans if node["Index Name"].startswith("receipt")]
        assert sum(node["Actual Rows"] for node in receipts) <= 1000 + SEGMENTS * IDS + 300
        assert max(node["Actual Loops"] for node in receipts) == 1
        events = [node for node in scans if node["Index Name"].startswith("event")]
        assert max(node["Actual Loops"] for node in events) <= 16
        # The DEFAULT partition has an index by id, too.
        conditions = {node["Index Cond"] for node in events if node["Index Name"] != "event_default_identity"}
        assert {each for each in conditions if "lane = " not in each or "id >= " not in each} == set()
        assert nodes[0]["Actual Rows"] >= 16 + 300


async def test_a_take_over_finds_the_highest_receipts_by_index(database: str, segments: asyncpg.Connection) -> None:
    async with relay_connections(database) as connections:
        nodes = await plan_of(connections["control"], "highest_settled", "'{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}'")
        check(nodes)
        rows = sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes if "Relation Name" in node)
        assert rows < 16 * 2 * (SEGMENTS + 2)


async def test_a_scan_across_segments_returns_everything_in_order(database: str, segments: asyncpg.Connection) -> None:
    await segments.execute("DELETE FROM outbox.receipt WHERE max_id % 50 = 0")
    await segments.execute(EVENTS, 50)
    written = await segments.fetch(
        "SELECT lane, id FROM outbox.event WHERE NOT EXISTS"
        f" (SELECT FROM {DELIVERIES} AS d WHERE d.id = event.id) ORDER BY lane, id"
    )
    async with relay_connections(database) as connections:
        relay = HandRelay(connections)
        await relay.start()
        taken = await relay.take_all()
        assert sorted((event.lane, event.id) for event in taken) == [tuple(row) for row in written]
        for lane in range(16):
            ids = [event.id for event in taken if event.lane == lane]
            assert ids == sorted(ids)


@pytest.mark.parametrize("analyzed", [True, False])
async def test_holding_back_looks_failures_up_by_id_though_there_were_none_when_it_was_planned(
    database: str, analyzed: bool
) -> None:
    """The plan stays until the next ANALYZE, and by the index of keys it reads all failures of a lane each time."""
    async with migrated(database) as connection, relay_connections(database) as connections:
        if analyzed:
            await connection.execute("ANALYZE")
        owner = "'00000000-0000-0000-0000-000000000000'"
        nodes = await plan_of(
            connections["settle"], "hold", owner, "'{3}'", "'{1}'", "'{orders}'", "'{k}'", "'{3}'", "'{0}'"
        )
        looked_up = [node for node in nodes if node.get("Relation Name") == "failure"]
        assert [node["Index Name"] for node in looked_up] == ["failure_pkey"]
        assert "id >= r.id" in looked_up[0]["Index Cond"]


@pytest.mark.parametrize("analyzed", [True, False])
async def test_what_blocks_held_events_is_looked_up_by_key_though_there_was_nothing_when_it_was_planned(
    database: str, analyzed: bool
) -> None:
    """2 s for 1,000 held events beside 100,000 failures, until the next ANALYZE."""
    async with migrated(database) as connection, relay_connections(database) as connections:
        if analyzed:
            await connection.execute("ANALYZE")
        nodes = await plan_of(connections["control"], "held_events", "3", "0", "1000", "1000000", "'{}'")
        looked_up = [node for node in nodes if node.get("Relation Name") == "failure"]
        assert [node["Index Name"] for node in looked_up] == ["failure_key"]
        assert "(sha256(key) = sha256(h.key))" in looked_up[0]["Index Cond"]
