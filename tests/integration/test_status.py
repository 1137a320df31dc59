"""`relay status` on a real server: true numbers, and quick ones."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from relay.admin.counts import ranges
from relay.admin.times import duration
from relay.cli import main
from relay.errors import SchemaError
from relay.postgres.admin import reads
from relay.postgres.admin import status as reading
from relay.postgres.admin.lanes import record_intent
from relay.postgres.admin.migrate import make_roles
from relay.postgres.admin.status import Count, read_status
from relay.postgres.sql import migrations
from relay.postgres.sql import query as sql_query
from relay.text import plain
from tests.support.hostile import unseen
from tests.support.postgres.outbox import add_event, add_failure, concerns, connected, migrated
from tests.support.postgres.receipts import add_receipts
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg


@pytest.fixture
async def connection(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with an outbox."""
    async with migrated(database) as connection:
        yield connection


async def add_replica(
    connection: asyncpg.Connection, name: str, lanes: list[int], lease: str = "15 s", running: str = "1 h"
) -> None:
    """Enter a replica that owns these lanes."""
    replica = uuid4()
    await connection.execute(
        "INSERT INTO outbox.replica (id, name, version, started_at, lease_expires_at)"
        " VALUES ($1, $2, '0.1.0', now() - $3::text::interval, now() + $4::text::interval)",
        replica,
        name,
        running,
        lease,
    )
    await connection.execute(
        "UPDATE outbox.lane SET owner = $1, claimed_at = now() - interval '4 min', epoch = 3 WHERE lane = ANY ($2)",
        replica,
        lanes,
    )


def run(dsn: str, *arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, ["status", *arguments], env={"RELAY_POSTGRES_DSN": dsn, "COLUMNS": "160"})


async def test_a_fresh_outbox_is_empty_and_nobody_serves_it(connection: asyncpg.Connection) -> None:
    status = await read_status(connection)
    assert (status.backlog, status.oldest_seconds) == (Count(0, "exact"), None)
    assert (status.delivered, status.last_delivered_seconds) == (Count(0, "exact"), None)
    assert (status.failures, status.held.events, status.replicas, status.stranded) == ({}, 0, [], False)
    assert [lane.lane for lane in status.lanes] == list(range(16))
    assert [segment.name for segment in status.segments] == ["event_1"]
    assert concerns(status) == [
        "no replica is alive; nothing is being published; start `relay run`, or read its log",
    ]


async def test_ids_that_come_to_their_end_are_a_concern(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT setval('outbox.event_id', 9223372036854775807 - 200)")
    assert any(concern.startswith("200 ids are left") for concern in concerns(await read_status(connection)))


async def test_events_are_counted_by_what_became_of_them(connection: asyncpg.Connection) -> None:
    for n in range(10):
        await add_event(connection, key=str(n))
    await add_receipts(connection)
    failed, held, *pending = [await add_event(connection, key=str(n)) for n in range(5)]
    await add_failure(connection, failed)
    await connection.execute("INSERT INTO outbox.held VALUES ($1, $2, 'orders')", *held)
    status = await read_status(connection)
    assert (status.backlog.events, status.delivered.events, status.held.events) == (3, 10, 1)
    assert status.failures == {"failed": 1}
    assert status.newest_id == 15
    assert sum(lane.pending or 0 for lane in status.lanes) == 3
    assert {lane.lane for lane in status.lanes if lane.oldest_seconds is not None} == {row["lane"] for row in pending}
    assert "1 event failed and waits for a person; see `relay failed list`" in concerns(status)


async def test_topics_for_which_events_wait_without_a_failure_are_named(connection: asyncpg.Connection) -> None:
    """A topic that is not there, perhaps one for dead letters: nothing has failed, and nothing moves."""
    failed, behind, *waiting = [await add_event(connection, key=key) for key in "aabcdefg"]
    await add_failure(connection, failed)
    await connection.execute("UPDATE outbox.failure SET key = 'a'")
    await connection.execute("INSERT INTO outbox.held VALUES ($1, $2, 'orders', 'a')", *behind)
    for number, (lane, id_) in enumerate(waiting):
        await connection.execute("INSERT INTO outbox.held VALUES ($1, $2, $3)", lane, id_, f"missing-{number}")
    await connection.execute("UPDATE outbox.held SET topic = 'missing-0' WHERE topic = 'missing-1'")
    status = await read_status(connection)
    assert status.waiting == {"missing-0": 2, **{f"missing-{number}": 1 for number in range(2, 6)}}
    (told,) = [concern for concern in concerns(status) if concern.startswith("events wait for topics")]
    assert "missing-0 (2), missing-2 (1)" in told


async def test_the_age_is_that_of_the_oldest_pending_event(connection: asyncpg.Connection) -> None:
    for key, age in (("a", 50), ("b", 3000), ("c", 90)):
        event = await add_event(connection, key=key)
        await connection.execute(
            "UPDATE outbox.event SET created_at = now() - make_interval(secs => $3) WHERE lane = $1 AND id = $2",
            *event,
            float(age),
        )
    status = await read_status(connection)
    assert status.oldest_seconds == pytest.approx(3000, abs=30)


async def test_what_lies_below_the_positions_is_not_looked_at(connection: asyncpg.Connection) -> None:
    event = await add_event(connection)
    await connection.execute("UPDATE outbox.lane SET position = $1", event["id"])
    assert (await read_status(connection)).backlog.events == 0


async def test_replicas_have_their_lanes_and_what_is_left_of_their_leases(connection: asyncpg.Connection) -> None:
    await add_replica(connection, "relay-1", [0, 1, 2], running="2 h")
    await add_replica(connection, "relay-2", [3, 4], lease="-30 s")
    status = await read_status(connection)
    first, second = status.replicas
    assert (first.name, first.alive, first.lanes) == ("relay-1", True, [0, 1, 2])
    assert first.lease_seconds == pytest.approx(15, abs=10)
    assert first.running_seconds == pytest.approx(7200, abs=30)
    assert (second.name, second.alive, second.lanes) == ("relay-2", False, [3, 4])
    assert [lane.replica for lane in status.lanes[:5]] == ["relay-1"] * 3 + [None] * 2
    assert status.lanes[0].epoch == 3
    assert status.lanes[0].owned_seconds == pytest.approx(240, abs=30)
    assert concerns(status)[0].startswith("lanes without a live owner: 3-15; ")


async def test_all_is_well_when_every_lane_has_a_live_owner(connection: asyncpg.Connection) -> None:
    await add_replica(connection, "relay-1", list(range(16)))
    assert concerns(await read_status(connection)) == []


async def test_rows_in_a_default_partition_are_reported(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT setval('outbox.event_id', 9000000)")
    await add_event(connection)
    status = await read_status(connection)
    assert status.stranded
    assert any("DEFAULT" in concern for concern in concerns(status))


async def test_counts_end_at_a_limit_and_say_so(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "COUNT_LIMIT", 32)
    monkeypatch.setattr(reading, "COUNT_IDS", 10)
    for _ in range(45):
        await add_event(connection)
    status = await read_status(connection)
    assert status.backlog == Count(40, "at least")
    await add_receipts(connection)
    await connection.execute("ANALYZE outbox.receipt")
    status = await read_status(connection)
    assert status.delivered == Count(45, "about")


async def test_counting_that_takes_too_long_is_given_up(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = {"status_reach", "status_delivered", "status_held"}

    def query(name: str, schema: str) -> str:
        text = sql_query(name, schema)
        return (
            text.replace("\nSELECT", "\nSELECT pg_sleep(60), ", 1) if name in impatient else text.replace("5s", "500ms")
        )

    monkeypatch.setattr(reads, "query", query)
    await add_event(connection)
    status = await read_status(connection)
    assert status.backlog == Count(1, "at most")
    assert (status.delivered, status.held) == (Count(None, "unknown"), Count(None, "unknown"))
    assert any("took too long" in concern for concern in concerns(status))


def rows_read(plan: dict[str, Any]) -> float:
    """The rows that all nodes of a plan looked at."""
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Join Filter", 0)
    return float(own * plan["Actual Loops"]) + sum(rows_read(child) for child in plan.get("Plans", []))


@pytest.mark.parametrize("name", ["status_reach", "status_pending"])
async def test_only_what_lies_above_the_positions_is_read_whatever_the_statistics_say(
    connection: asyncpg.Connection, name: str
) -> None:
    await connection.execute("ANALYZE outbox.receipt, outbox.event, outbox.failure, outbox.held")
    await connection.execute("INSERT INTO outbox.event (topic, key) SELECT 'a', 'k' FROM generate_series(1, 3000)")
    await add_receipts(connection)
    await connection.execute("INSERT INTO outbox.held SELECT lane, id, topic FROM outbox.event")
    await connection.execute("UPDATE outbox.lane SET position = 2990")
    async with connection.transaction():
        await connection.execute(sql_query("status_session", "outbox"))
        statement = sql_query(name, "outbox").replace("$1", "2990").replace("$2", "3000")
        plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"))
    assert rows_read(plan[0]["Plan"]) < 500


async def test_the_status_of_no_outbox_says_what_to_run(database: str) -> None:
    async with connected(database) as connection:
        with pytest.raises(SchemaError, match="run `relay migrate`"):
            await read_status(connection)


async def test_an_admin_without_further_rights_can_read_it(connection: asyncpg.Connection) -> None:
    await make_roles(connection)
    await connection.execute("SET ROLE outbox_admin")
    assert (await read_status(connection)).version == migrations()[-1].version


async def fill(database: str) -> None:
    """Make an outbox with one delivered, one pending event and a replica that owns all lanes but the last."""
    async with migrated(database) as connection:
        await add_event(connection)
        await add_receipts(connection)
        await add_event(connection)
        await add_replica(connection, "relay-1", list(range(15)))


def test_the_page_for_people_begins_with_what_is_wrong(database: str) -> None:
    asyncio.run(fill(database))
    shown = run(database)
    assert shown.exit_code == 0
    lines = [" ".join(line.split()) for line in shown.output.splitlines()]
    assert lines[1].startswith("! lanes without a live owner: 15; ")
    assert any(line.startswith("pending 1 event, the oldest") for line in lines)
    assert any(line.startswith("delivered 1 event, the last one") for line in lines)
    assert "lanes 15 of 16 owned, by 1 live replica" in lines
    assert any(line.startswith("relay-1 0.1.0 1 h 0 min") for line in lines)
    assert any(line.startswith("event_1 1 5,000,000") and "in use, newest id 2" in line for line in lines)


def test_a_pod_s_name_is_shown_whole_on_80_columns(database: str) -> None:
    name = "outbox-relay-7d9c8b6f5b-x2x9z"

    async def give_all_lanes() -> None:
        async with migrated(database) as connection:
            await add_replica(connection, name, list(range(16)), lease="-243 s")

    asyncio.run(give_all_lanes())
    shown = run(database)
    # The seconds go on while a busy machine gets to it.
    lines = [" ".join(each.split()) for each in shown.output.splitlines()]
    assert any(re.fullmatch(rf"{name} 0\.1\.0 1 h \d min expired 4 min \d+ s ago 0-15", line) for line in lines), lines


def test_a_lane_that_somebody_released_leaves_the_owners_of_the_others_on_one_line_of_80_columns(database: str) -> None:
    name = "outbox-relay-7d9c8b6f5b-x2x9z"

    async def release_one() -> None:
        async with migrated(database) as connection:
            await add_replica(connection, name, [0, 1, 2, 3, 4, *range(6, 16)])
            await record_intent(
                connection, "outbox", [5], replica=None, seconds=3600.0, reason="repairing", requested_by="somebody"
            )

    asyncio.run(release_one())
    lines = [" ".join(each.split()) for each in run(database).output.splitlines()]
    assert sum(bool(re.match(rf"\d+ {name} ", line)) for line in lines) == 15, lines
    assert any(line.startswith("lane 5: released for ") for line in lines), lines


def test_the_json_has_everything_and_no_secret(database: str) -> None:
    asyncio.run(fill(database))
    shown = run(database, "--json")
    assert shown.exit_code == 0
    status: dict[str, Any] = json.loads(shown.output)
    assert status["backlog"] == {"events": 1, "precision": "exact"}
    assert status["delivered"] == {"events": 1, "precision": "exact"}
    assert status["replicas"][0]["lanes"] == list(range(15))
    assert len(status["concerns"]) == 1
    assert "password" not in shown.output


def test_without_an_outbox_or_a_server_the_command_fails_in_one_line(database: str) -> None:
    missing = run(database)
    assert missing.exit_code == 1
    assert missing.output.startswith("relay: there is no outbox")
    unreachable = run("postgresql://postgres@127.0.0.1:1/postgres")
    assert unreachable.exit_code == 3
    assert len(unreachable.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-0.2, "0.0 s"),
        (0.44, "0.4 s"),
        (9.99, "10.0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3_660, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_have_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("lanes", "text"),
    [([], ""), ([4], "4"), ([0, 1], "0-1"), ([0, 2, 4, 5, 6, 15], "0 2 4-6 15"), (list(range(16)), "0-15")],
)
def test_neighbouring_lanes_are_put_together(lanes: list[int], text: str) -> None:
    assert ranges(lanes) == text


@pytest.mark.parametrize("name", ["relay[/prod]", "\x1b[2Jrelay\u202e", "[bold]relay", "one\ntwo"])
async def test_a_replica_may_have_any_name(database: str, connection: asyncpg.Connection, name: str) -> None:
    await add_replica(connection, name, list(range(16)))
    for command in ("status", "lanes"):
        shown = await asyncio.to_thread(
            CliRunner().invoke, main, [command], env={"RELAY_POSTGRES_DSN": database, "COLUMNS": "160"}
        )
        assert shown.exit_code == 0, shown
        assert plain(name) in shown.output
        assert not unseen(shown.output.replace("\n", ""))


async def test_while_a_table_is_locked_the_rest_is_shown_and_the_session_that_locks_it_is_named(
    database: str, connection: asyncpg.Connection
) -> None:
    await add_event(connection)
    await add_replica(connection, "relay-1", list(range(16)))
    async with connected(database) as other:
        await other.execute("SET application_name = 'nightly-job'")
        pid = await other.fetchval("SELECT pg_backend_pid()")
        async with other.transaction():
            await other.execute("LOCK TABLE outbox.event IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            shown = await asyncio.to_thread(run, database)
            took = time.monotonic() - began
            status: dict[str, Any] = json.loads((await asyncio.to_thread(run, database, "--json")).output)
    assert shown.exit_code == 0
    # Four statements read the table, and each waits for a second; the rest is for a busy machine.
    assert took < 15
    lines = [" ".join(line.split()) for line in shown.output.splitlines()]
    assert lines[1].startswith(
        "! not shown, because others lock the tables: pending, rows in the DEFAULT partitions, segments; "
        f"the session with pid {pid} (role postgres, application 'nightly-job', "
    )
    assert re.search(r" s old\) locks event, event_1, event_default, its last statement began \d+\.\d s ago", lines[1])
    assert lines[1].endswith(f"; if it is no longer needed, end it: SELECT pg_terminate_backend({pid})")
    assert "pending unknown (not read in time)" in lines
    assert "lanes 16 of 16 owned, by 1 live replica" in lines
    assert any(line.startswith("delivered 0 events") for line in lines)
    assert sum(line.startswith("! ") for line in lines) == 1
    assert (status["unread"], status["blockers"][0]["pid"]) == (
        ["pending", "rows in the DEFAULT partitions", "segments"],
        pid,
    )
    assert status["findings"][0]["severity"] == "error"


async def test_a_change_that_waits_for_a_reader_is_named_too(database: str, connection: asyncpg.Connection) -> None:
    await add_event(connection)
    async with connected(database) as reader, connected(database) as other:
        async with reader.transaction():
            await reader.execute("SELECT FROM outbox.held")
            altering = asyncio.create_task(other.execute("ALTER TABLE outbox.held ADD COLUMN more text"))
            waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock')"
            await until("it waits", lambda: connection.fetchval(waits))
            status = await read_status(connection)
            holder = await reader.fetchval("SELECT pg_backend_pid()")
        await altering
    assert (status.unread, status.held.events) == (["pending", "held", "what segments keep"], None)
    assert re.search(
        rf"\) waits to lock held, held up by the session {holder}, its last statement began ", concerns(status)[0]
    )
    assert (await read_status(connection)).unread == []


async def test_while_lanes_and_replicas_are_locked_nothing_is_concluded_from_that(
    database: str, connection: asyncpg.Connection
) -> None:
    await add_event(connection)
    async with connected(database) as other, other.transaction():
        await other.execute("LOCK TABLE outbox.lane, outbox.replica IN ACCESS EXCLUSIVE MODE")
        shown = await asyncio.to_thread(run, database)
    assert shown.exit_code == 0
    assert "lanes       unknown" in shown.output
    assert "no replica is alive" not in shown.output
    assert "not shown, because others lock the tables: replicas and lanes, pending" in shown.output
