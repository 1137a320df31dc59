"""Failures through SQL, on a real server: what a filter means, and marks that are exact among several people."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from relay.errors import BusyError, PostgresLostError
from relay.postgres.admin import failures as module
from relay.postgres.admin import reads
from relay.postgres.admin.failures import FailureFilter, Failures
from relay.postgres.admin.migrate import make_roles
from relay.postgres.errors import PrivilegeError
from relay.postgres.sql import query
from tests.support.postgres.failures import add, add_failed, add_held, add_replica, deliver, fail_again, states
from tests.support.postgres.outbox import connected, migrated
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from relay.postgres.admin.rows import Marked

pytestmark = pytest.mark.usefixtures("with_outbox")

ALL = FailureFilter()


@asynccontextmanager
async def outbox(dsn: str) -> AsyncIterator[tuple[asyncpg.Connection, Failures]]:
    """A connection to a new outbox, and its failures through another one."""
    async with migrated(dsn) as connection, connected(dsn) as other:
        yield connection, Failures(other, "outbox")


async def replay(failures: Failures, matching: FailureFilter = ALL, reason: str = "") -> Marked | None:
    """Mark for replay."""
    return await failures.mark("replay", matching, recorded={"all": True}, reason=reason, requested_by="kim@desk")


async def waits_for_a_lock(connection: asyncpg.Connection) -> None:
    """Return when another session waits for a lock."""
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await until("somebody waits for a lock", lambda: connection.fetchval(statement))


def test_every_statement_with_a_filter_has_the_same_one() -> None:
    condition = re.compile(
        r"(\(\$1::bigint\[\] IS NULL OR f\.id.*?\(\$7::text\[\] IS NULL OR f\.state = ANY \(\$7\)\))", re.DOTALL
    )
    found = {}
    for name in ("failures_list", "failures_counts", "failures_hold_back", "mark_failures"):
        match = condition.search(query(name))
        assert match is not None, name
        found[name] = " ".join(match[1].split())
    assert len(set(found.values())) == 1


async def test_a_filter_matches_what_it_says(database: str) -> None:
    async with outbox(database) as (connection, failures):
        a = await add_failed(connection, b"k1", "orders.placed", seconds_ago=10)
        b = await add_failed(connection, b"k2", "orders_placed", error="InvalidRecordError", seconds_ago=7200)
        c = await add_failed(connection, None, "mail", state="retrying", seconds_ago=100)
        now = await failures.now()
        for matching, expected in [
            (ALL, [a, b, c]),
            (FailureFilter(ids=(a.id, c.id, 99)), [a, c]),
            (FailureFilter(topic="orders.placed"), [a]),
            (FailureFilter(topic="orders_placed"), [b]),
            (FailureFilter(topic="orders*"), [a, b]),
            (FailureFilter(topic="*.*"), [a]),
            (FailureFilter(topic="ORDERS*"), []),
            (FailureFilter(key=b"k2"), [b]),
            (FailureFilter(key=b""), []),
            (FailureFilter(error="messagesize*"), [a, c]),
            (FailureFilter(error="InvalidRecordError"), [b]),
            (FailureFilter(error="Invalid"), []),
            (FailureFilter(error="%"), []),
            (FailureFilter(since=now - timedelta(minutes=5)), [a, c]),
            (FailureFilter(until=now - timedelta(minutes=1)), [b, c]),
            (FailureFilter(states=("retrying",)), [c]),
            (FailureFilter(topic="orders*", states=("failed",), since=now - timedelta(minutes=5)), [a]),
        ]:
            listed = [failure.id for failure in await failures.listed(matching, 0, 10)]
            assert listed == [event.id for event in expected], matching
            assert sum(group.events for group in await failures.counted(matching)) == len(expected), matching


async def test_the_list_goes_on_where_it_ended(database: str) -> None:
    async with outbox(database) as (connection, failures):
        ids = [(await add_failed(connection, f"k{number}".encode())).id for number in range(7)]
        first = [failure.id for failure in await failures.listed(ALL, 0, 3)]
        second = [failure.id for failure in await failures.listed(ALL, first[-1], 3)]
        assert first + second == ids[:6]


async def test_held_events_count_for_what_they_wait_for(database: str) -> None:
    async with outbox(database) as (connection, failures):
        await add_held(connection, b"block")
        block = await add_failed(connection, b"block")
        retrying = await add_failed(connection, b"retrying", state="retrying")
        replaying = await add_failed(connection, b"replaying", state="replaying", policy="skip")
        skip = await add_failed(connection, b"skip", policy="skip")
        discarded = await add_failed(connection, b"discarded", state="discarded")
        without_key = await add_failed(connection, None)
        for _ in range(2):
            for event in (block, retrying, replaying, skip, discarded, without_key):
                await add_held(connection, event.key)
        await add_held(connection, b"block", "another-topic")
        every = (block, retrying, replaying, skip, discarded, without_key)
        each = await failures.held_back_each([event.id for event in every])
        assert each == dict(zip((event.id for event in every), (2, 2, 2, 0, 0, 0), strict=True))
        assert await failures.held_back(ALL) == 6
        assert await failures.held_back(FailureFilter(states=("failed",))) == 2
        assert await failures.held_back(FailureFilter(topic="nothing")) == 0


async def test_counting_what_is_held_has_an_end(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (module, reads):
        monkeypatch.setattr(each, "query", lambda *names: query(*names).replace("'5s'", "'50ms'"))
    async with outbox(database) as (connection, failures):
        event = await add_failed(connection)
        async with connection.transaction():
            await connection.execute("LOCK TABLE outbox.held IN ACCESS EXCLUSIVE MODE")
            assert await failures.held_back(ALL) is None
            assert await failures.held_back_each([event.id]) is None
            with pytest.raises(BusyError, match="took too long"):
                await failures.first_held(*event, 10)
        monkeypatch.undo()
        assert await failures.held_back(ALL) == 0


async def test_a_mark_and_its_action_are_one(database: str) -> None:
    async with outbox(database) as (connection, failures):
        failed = await add_failed(connection, b"a")
        retrying = await add_failed(connection, b"b", state="retrying")
        replaying = await add_failed(connection, b"c", state="replaying")
        discarded = await add_failed(connection, b"d", state="discarded")
        marked = await failures.mark(
            "replay", ALL, recorded={"topic": "orders"}, reason="limit raised", requested_by="kim@desk"
        )
        assert marked is not None
        assert marked.events == 2
        rows = await connection.fetch("SELECT id, state, action, next_attempt_at FROM outbox.failure ORDER BY id")
        assert [tuple(row) for row in rows] == [
            (failed.id, "replaying", marked.action, None),
            (retrying.id, "replaying", marked.action, None),
            (replaying.id, "replaying", None, None),
            (discarded.id, "discarded", None, None),
        ]
        action = await connection.fetchrow("SELECT * FROM outbox.action")
        assert (action["id"], action["kind"], action["reason"]) == (marked.action, "replay", "limit raised")
        assert json.loads(action["filter"]) == {"topic": "orders"}
        assert json.loads(action["counts"]) == {"events": 2}
        assert action["requested_by"] == f"{await connection.fetchval('SELECT session_user')} (kim@desk)"
        assert action["finished_at"] is None


async def test_a_discard_is_finished_at_once(database: str) -> None:
    async with outbox(database) as (connection, failures):
        failed = await add_failed(connection, b"a")
        marked = await failures.mark("discard", ALL, recorded={"all": True}, reason="garbage", requested_by="kim@desk")
        assert marked is not None
        assert await states(connection) == {failed.id: "discarded"}
        assert await connection.fetchval("SELECT finished_at IS NOT NULL FROM outbox.action")


async def test_an_action_that_matches_nothing_is_not_recorded(database: str) -> None:
    async with outbox(database) as (connection, failures):
        await add_failed(connection, state="discarded")
        assert await replay(failures) is None
        assert await connection.fetchval("SELECT count(*) FROM outbox.action") == 0


async def test_of_ids_all_are_marked_or_none(database: str) -> None:
    async with outbox(database) as (connection, failures):
        failed = await add_failed(connection, b"a")
        held = await add_held(connection, b"a")
        before = await states(connection)
        assert await replay(failures, FailureFilter(ids=(failed.id, held.id))) is None
        assert await states(connection) == before
        assert await connection.fetchval("SELECT count(*) FROM outbox.action") == 0
        assert await replay(failures, FailureFilter(ids=(failed.id,))) is not None


async def test_a_mark_wakes_the_relay_up(database: str) -> None:
    async with outbox(database) as (connection, failures):
        heard = asyncio.Event()
        await connection.add_listener("outbox", lambda *_: heard.set())
        assert await replay(failures) is None
        await add_failed(connection)
        assert not heard.is_set()
        await replay(failures)
        await asyncio.wait_for(heard.wait(), 30)


async def test_of_two_people_the_second_gets_the_rest(database: str) -> None:
    async with outbox(database) as (connection, failures), connected(database) as third:
        first_seen = [await add_failed(connection, f"a{number}".encode()) for number in range(3)]
        first = connection.transaction(isolation="read_committed")
        await first.start()
        mine = await replay(Failures(connection, "outbox"))
        later = await add_failed(third, b"later")
        second = asyncio.create_task(replay(failures))
        await waits_for_a_lock(third)
        await first.commit()
        theirs = await second
        assert mine is not None
        assert theirs is not None
        assert (mine.events, theirs.events) == (3, 1)
        rows = await connection.fetch("SELECT id, action FROM outbox.failure ORDER BY id")
        assert dict(rows) == {event.id: mine.action for event in first_seen} | {later.id: theirs.action}


async def test_what_changes_under_a_waiting_mark_is_looked_at_again(database: str) -> None:
    async with outbox(database) as (connection, failures), connected(database) as third:
        stays, delivered, other_error, tried_again = [
            await add_failed(connection, f"a{number}".encode(), state="retrying") for number in range(4)
        ]
        transaction = connection.transaction()
        await transaction.start()
        await deliver(connection, delivered)
        change = "UPDATE outbox.failure SET error = $2, attempts = attempts + 1 WHERE id = $1"
        await connection.execute(change, other_error.id, "AnotherError")
        await connection.execute(change, tried_again.id, "MessageSizeTooLargeError")
        marking = asyncio.create_task(replay(failures, FailureFilter(error="MessageSize*")))
        await waits_for_a_lock(third)
        await transaction.commit()
        marked = await marking
        assert marked is not None
        assert marked.events == 2
        assert await states(connection) == {
            stays.id: "replaying",
            other_error.id: "retrying",
            tried_again.id: "replaying",
        }
        assert await connection.fetchval("SELECT (counts ->> 'events')::int FROM outbox.action") == 2


async def test_many_people_at_once_mark_each_event_once_and_do_not_deadlock(database: str) -> None:
    async with outbox(database) as (connection, failures):
        del failures
        for number in range(200):
            await add_failed(connection, f"k{number}".encode(), topic=f"t{number % 4}", error=f"E{number % 3}")
        filters = [
            ALL,
            FailureFilter(topic="t1"),
            FailureFilter(topic="t*", error="E2"),
            FailureFilter(error="E*"),
            ALL,
            FailureFilter(topic="t3"),
        ]

        async def one(matching: FailureFilter) -> int:
            async with connected(database) as own:
                marked = await replay(Failures(own, "outbox"), matching)
                return marked.events if marked else 0

        assert sum(await asyncio.gather(*(one(matching) for matching in filters))) == 200
        per_action = await connection.fetch(
            "SELECT (a.counts ->> 'events')::int AS counted, count(*) AS marked FROM outbox.action AS a"
            " JOIN outbox.failure AS f ON f.action = a.id GROUP BY a.id"
        )
        assert all(row["counted"] == row["marked"] for row in per_action)


async def test_a_row_that_somebody_keeps_locked_ends_the_wait(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "query", lambda *names: query(*names).replace("'10s'", "'50ms'"))
    async with outbox(database) as (connection, failures):
        await add_failed(connection)
        async with connection.transaction():
            await connection.execute("SELECT FROM outbox.failure FOR UPDATE")
            with pytest.raises(BusyError, match="nothing was changed"):
                await replay(failures)
        monkeypatch.undo()
        assert await replay(failures) is not None


async def test_a_mark_that_loses_a_deadlock_changes_nothing(database: str) -> None:
    async with outbox(database) as (connection, failures), connected(database) as third:
        first, second = sorted([await add_failed(connection, b"a"), await add_failed(connection, b"b")])
        # The other session leaves finding out to the one that marks.
        await connection.execute("SET deadlock_timeout = '1h'")
        transaction = connection.transaction()
        await transaction.start()
        touch = "UPDATE outbox.failure SET attempts = 9 WHERE lane = $1 AND id = $2"
        await connection.execute(touch, second.lane, second.id)
        marking = asyncio.create_task(replay(failures))
        await waits_for_a_lock(third)
        await connection.execute(touch, first.lane, first.id)
        with pytest.raises(BusyError, match="nothing was changed"):
            await marking
        await transaction.commit()
        assert set((await states(connection)).values()) == {"failed"}


async def test_a_connection_lost_while_marking_says_where_to_look(database: str) -> None:
    async with outbox(database) as (connection, failures), connected(database) as third:
        await add_failed(connection)
        async with connection.transaction():
            await connection.execute("SELECT FROM outbox.failure FOR UPDATE")
            marking = asyncio.create_task(replay(failures))
            await waits_for_a_lock(third)
            await third.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            with pytest.raises(PostgresLostError, match="`relay failed actions` whether this replay was recorded"):
                await marking


async def test_a_mark_does_not_depend_on_the_databases_isolation(database: str) -> None:
    async with migrated(database) as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
        await add_failed(connection)
        async with connected(database) as other:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("UPDATE outbox.failure SET attempts = 9")
            marking = asyncio.create_task(replay(Failures(other, "outbox")))
            async with connected(database) as third:
                await waits_for_a_lock(third)
            await transaction.commit()
            assert await marking is not None


async def test_a_replay_is_finished_when_nothing_of_it_is_under_way(database: str) -> None:
    async with outbox(database) as (connection, failures):
        events = [await add_failed(connection, f"a{number}".encode()) for number in range(3)]
        await replay(failures)
        await deliver(connection, events[0])
        await failures.finish_replays()
        (under_way,) = await failures.actions(10)
        assert (under_way.done, under_way.to_go, under_way.failed, under_way.finished) == (1, 2, 0, False)
        await fail_again(connection, events[1])
        await deliver(connection, events[2])
        (unrecorded,) = await failures.actions(10)
        assert (unrecorded.done, unrecorded.failed, unrecorded.finished) == (2, 1, True)
        for _ in range(2):
            await failures.finish_replays()
            (finished,) = await failures.actions(10)
            assert finished.finished_at is not None
            assert finished.counts == {"events": 3, "failed": 1}
            assert (finished.done, finished.failed) == (2, 1)


async def test_an_event_that_failed_again_counts_for_its_first_replay_when_it_is_in_another(database: str) -> None:
    async with outbox(database) as (connection, failures):
        again, slow = await add_failed(connection, b"again"), await add_failed(connection, b"slow")
        await replay(failures)
        await fail_again(connection, again)
        await failures.mark(
            "discard", FailureFilter(ids=(again.id,)), recorded={}, reason="no hope", requested_by="kim@desk"
        )
        await deliver(connection, slow)
        await failures.finish_replays()
        discard, first = await failures.actions(10)
        assert (first.kind, first.events, first.done, first.failed) == ("replay", 2, 1, 1)
        assert (discard.kind, discard.events, discard.done) == ("discard", 1, 1)


async def test_the_account_of_a_finished_replay_stays_when_its_events_are_replayed_again(database: str) -> None:
    async with outbox(database) as (connection, failures):
        event = await add_failed(connection)
        for _ in range(2):
            await replay(failures)
            await fail_again(connection, event)
            await failures.finish_replays()
        await replay(failures)
        await deliver(connection, event)
        await failures.finish_replays()
        accounts = [(action.done, action.failed, action.finished) for action in await failures.actions(10)]
        assert accounts == [(1, 0, True), (0, 1, True), (0, 1, True)]


async def test_actions_are_listed_the_latest_first_and_go_on(database: str) -> None:
    async with outbox(database) as (connection, failures):
        for number in range(3):
            await add_failed(connection, f"a{number}".encode())
            await replay(failures, reason=f"reason {number}")
        page = await failures.actions(2)
        assert [action.reason for action in page] == ["reason 2", "reason 1"]
        rest = await failures.actions(2, before=page[-1].id)
        assert [action.reason for action in rest] == ["reason 0"]
        assert [action.reason for action in await failures.actions(9, only=page[1].id)] == ["reason 1"]


async def test_a_role_that_may_not_write_still_reads(database: str) -> None:
    async with outbox(database) as (connection, _), connected(database) as reader:
        event = await add_failed(connection)
        await replay(Failures(connection, "outbox"))
        await deliver(connection, event)
        await reader.execute("SET default_transaction_read_only = on")
        failures = Failures(reader, "outbox")
        await failures.finish_replays()
        (action,) = await failures.actions(10)
        assert action.finished
        assert action.finished_at is None


async def test_admins_may_all_of_it_and_the_relay_may_not_mark(database: str) -> None:
    async with migrated(database) as owner, connected(database) as connection:
        await make_roles(owner)
        event = await add_failed(owner)
        held = await add_held(owner)
        await connection.execute("SET ROLE outbox_admin")
        failures = Failures(connection, "outbox")
        assert [failure.id for failure in await failures.listed(ALL, 0, 10)] == [event.id]
        assert await failures.counted(ALL)
        assert await failures.held_back(ALL) == 1
        assert await failures.first_held(*event, 10) == [held.id]
        assert (await failures.id_range()).newest == held.id
        assert await failures.live_replicas() == 0
        assert [asked.held for asked in await failures.states([event.id, held.id])] == [False, True]
        assert (await failures.event(event.id, 10)) is not None
        assert await replay(failures) is not None
        await fail_again(owner, event)
        await failures.finish_replays()
        assert (await failures.actions(10))[0].finished_at is not None
        assert await failures.mark("discard", ALL, recorded={}, reason="why", requested_by="kim@desk") is not None
        await connection.execute("SET ROLE outbox_relay")
        with pytest.raises(PrivilegeError, match="permission denied"):
            await replay(failures)


async def test_only_replicas_with_a_lease_count(database: str) -> None:
    async with outbox(database) as (connection, failures):
        await add_replica(connection, -1)
        assert await failures.live_replicas() == 0
        await add_replica(connection)
        assert await failures.live_replicas() == 1


async def test_an_event_is_shown_with_as_much_payload_as_asked_for(database: str) -> None:
    async with outbox(database) as (connection, failures):
        event = await add(connection, payload=b"0123456789")
        shown = await failures.event(event.id, 4)
        assert shown is not None
        assert (shown.payload, shown.payload_bytes) == (b"0123", 10)
        assert await failures.event(event.id + 1, 4) is None


async def test_an_outbox_of_another_name_has_failures_of_its_own(database: str) -> None:
    async with outbox(database) as (connection, _), migrated(database, "billing") as other:
        event = await add_failed(connection)
        await add_held(connection)
        billing = Failures(other, "billing")
        assert await billing.listed(ALL, 0, 10) == []
        assert await billing.counted(ALL) == []
        assert await billing.held_back(ALL) == 0
        assert await billing.held_back_each([event.id]) == {event.id: 0}
        assert (await billing.states([event.id]))[0].lane is None
        assert await billing.event(event.id, 1) is None
        assert await billing.behind(*event) is None
        assert await billing.first_held(*event, 1) == []
        assert (await billing.id_range()).newest == 0
        assert await billing.actions(1) == []
        assert await replay(billing) is None
        await billing.finish_replays()
        assert await states(connection) == {event.id: "failed"}
