"""`relay topics` on a real server: what it lists, what it records, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.postgres.admin import topics as reads
from relay.postgres.admin.migrate import make_roles
from relay.postgres.admin.status import read_status
from relay.postgres.sql import query
from tests.support.postgres.failures import add_failed, add_held
from tests.support.postgres.outbox import add_event, concerns, connected, migrated
from tests.support.postgres.receipts import add_receipts
from tests.support.relay.claiming import running
from tests.support.waiting import until

if TYPE_CHECKING:
    from relay.decide.held_back import PausedTopic


@pytest.fixture
async def outbox(database: str) -> str:
    """The DSN of a database with an outbox."""
    async with migrated(database):
        return database


async def topics(dsn: str, *arguments: str) -> Result:
    """Run the command, while replicas run in this process."""

    def run() -> Result:
        return CliRunner().invoke(main, ["topics", *arguments], env={"RELAY_POSTGRES_DSN": dsn, "COLUMNS": "200"})

    return await asyncio.to_thread(run)


async def report(dsn: str) -> dict[str, dict[str, Any]]:
    found = json.loads((await topics(dsn, "--json")).output)
    assert (found["complete"], found["unread"]) == (True, [])
    return {each["topic"]: each for each in found["topics"]}


async def test_the_list_says_what_waits_for_each_topic_and_how_fast_it_goes(outbox: str) -> None:
    async with connected(outbox) as connection:
        for _ in range(6):
            await add_event(connection, topic="quick")
        await add_receipts(connection)
        for key in ("a", "b", "c"):
            await add_event(connection, key, topic="slow")
        await add_failed(connection, b"customer-17", "bad")
        await add_held(connection, b"customer-17", "bad")
        await add_held(connection, b"customer-18", "stopped")
        found = await report(outbox)
    assert {topic: (each["pending"], each["held"], each["failed"]) for topic, each in found.items()} == {
        "quick": (0, 0, 0),
        "slow": (3, 0, 0),
        "bad": (0, 1, 1),
        "stopped": (0, 1, 0),
    }
    assert found["quick"]["written_per_second"] == found["quick"]["delivered_per_second"] == 6 / 60
    assert found["slow"]["delivered_per_second"] == 0
    assert found["slow"]["oldest_seconds"] >= 0
    assert (found["bad"]["waiting"], found["stopped"]["waiting"]) == (0, 1)
    shown = (await topics(outbox)).output
    assert [line.split()[:5] for line in shown.splitlines() if line.startswith("bad")] == [["bad", "0", "-", "1", "1"]]
    assert "2 more topics: --limit 4" in (await topics(outbox, "--limit", "2")).output


async def test_an_empty_outbox_has_nothing_to_tell(outbox: str) -> None:
    assert (await topics(outbox)).output.startswith("there is nothing to tell of any topic")


async def test_counting_ends_at_its_limit_and_says_so(outbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "COUNT_IDS", 2)
    async with connected(outbox) as connection:
        for _ in range(7):
            await add_event(connection)
        assert (await report(outbox))["orders"]["pending"] == 7
        monkeypatch.setattr(reads, "COUNT_LIMIT", 3)
        found = await reads.read_topics(connection)
    assert (found.topics[0].pending, found.complete) == (4, False)
    assert "4+" in (await topics(outbox)).output


async def test_rates_are_those_of_the_time_that_was_looked_at(outbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of events a second fill what is looked at in less than a minute."""
    monkeypatch.setattr(reads, "NEWEST_IDS", 100)
    async with connected(outbox) as connection:
        await connection.execute(
            "INSERT INTO outbox.event (topic, created_at)"
            " SELECT 'orders', clock_timestamp() - interval '10 s' FROM generate_series(1, 300)"
        )
        rate = (await report(outbox))["orders"]["written_per_second"]
    assert 100 / 20 < rate <= 100 / 10


async def test_a_pause_is_recorded_and_shown_as_wanted_and_a_resume_ends_it(outbox: str) -> None:
    async with connected(outbox) as connection:
        await add_held(connection, b"customer-18", "orders")
        asked = await topics(outbox, "pause", "orders", "--for", "30m", "--reason", "consumers move")
        assert asked.output == "topic orders: paused for 30 min 0 s; the replicas act on it within a heartbeat\n"
        pause = (await report(outbox))["orders"]["paused"]
        assert pause["reason"] == "consumers move"
        assert 1_700 < pause["seconds"] <= 1_800
        assert "more, by postgres (" in (await topics(outbox)).output
        status = await read_status(connection)
        assert [each.topic for each in status.paused] == ["orders"]
        assert not [each for each in concerns(status) if "orders" in each], "a wanted pause is no trouble"
        env = {"RELAY_POSTGRES_DSN": outbox, "COLUMNS": "160"}
        shown = await asyncio.to_thread(CliRunner().invoke, main, ["status"], env=env)
        assert re.search(r"\npaused +orders, for .+ more, by postgres \(.+\): consumers move\n", shown.output)

        resumed = await topics(outbox, "resume", "orders", "--reason", "they have moved")
        assert resumed.output == "topic orders: resumed; the replicas act on it within a heartbeat\n"
        assert (await report(outbox))["orders"]["paused"] is None
        assert [each for each in concerns(await read_status(connection)) if "orders" in each]
        history = await connection.fetch("SELECT reason FROM outbox.topic_intent ORDER BY id")
        assert [row["reason"] for row in history] == ["consumers move", "they have moved"]


async def test_a_running_replica_hears_of_a_pause_and_of_its_end_at_once(
    outbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[tuple[str, str]]] = []

    def hear(paused: list[PausedTopic]) -> None:
        heard.append([(each.topic, each.reason) for each in paused])

    # Its lease is so long that no heartbeat falls into the test.
    async with running(outbox) as relay:
        monkeypatch.setattr(relay.claim, "_on_paused", hear)

        async def sees(expected: list[tuple[str, str]]) -> None:
            async def look() -> bool:
                return bool(heard) and heard[-1] == expected

            await until(f"it hears of {expected}", look)

        await topics(outbox, "pause", "orders", "mail", "--reason", "r")
        await sees([("mail", "r"), ("orders", "r")])
        await topics(outbox, "resume", "mail")
        await sees([("orders", "r")])
        # The latest counts, and it ends by itself, though nobody says so.
        await topics(outbox, "pause", "orders", "--for", "1s", "--reason", "short")
        await sees([("orders", "short")])
        await sees([])


async def test_replicas_tell_which_topics_take_no_events_and_why(outbox: str) -> None:
    # With such a lease a heartbeat comes each second.
    async with running(outbox, lease=3.0) as relay, connected(outbox) as connection:

        async def tells(expected: set[str]) -> None:
            async def look() -> bool:
                return set(await report(outbox)) == expected

            await until(f"the replica tells of {expected}", look)

        relay.telemetry.emit("topic.troubled", topic="orders", error="no\nleader")
        relay.telemetry.emit("topic.troubled", topic="mail", error="x" * 1_000)
        await tells({"orders", "mail"})
        found = await report(outbox)
        assert found["orders"]["trouble"] == "no leader"
        assert len(found["mail"]["trouble"]) < 400
        assert "takes no events: no leader" in (await topics(outbox)).output
        relay.telemetry.emit("topic.resumed", topic="orders")
        await tells({"mail"})
        # Of a replica that is gone nothing is believed.
        await connection.execute("UPDATE outbox.replica SET lease_expires_at = clock_timestamp()")
        assert await report(outbox) == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pause", "or?ers"], "'or?ers' is not a topic name; topics have up to 249 letters"),
        (["pause", "orders.*"], "'orders.*' is a pattern; name each topic, `relay topics` lists them"),
        (["pause", "x" * 250], "is not a topic name"),
        (["pause"], "Missing argument 'TOPIC...'"),
        (["pause", "orders", "--for", "0s"], "0s is not between 1s and 30d"),
        (["pause", "orders", "--for", "31d"], "31d is not between 1s and 30d"),
        (["pause", "orders", "--for", "soon"], "'soon' is not a length of time; write 90s, 30m, 2h or 3d"),
        (["resume"], "Missing argument 'TOPIC...'"),
        (["--json", "resume", "orders"], "write the options of a list without resume"),
        (["stop", "orders"], "No such command 'stop'"),
    ],
)
async def test_wrong_usage_is_refused(outbox: str, arguments: list[str], says: str) -> None:
    refused = await topics(outbox, *arguments)
    assert refused.exit_code == 2
    assert says in " ".join(refused.output.split())
    async with connected(outbox) as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox.topic_intent") == 0


async def test_a_topic_that_nobody_paused_is_not_resumed(outbox: str) -> None:
    refused = await topics(outbox, "resume", "orders")
    assert refused.exit_code == 1
    assert refused.output.startswith("relay: orders is not paused by a person; a topic that takes no events is tried")


async def test_a_name_that_no_event_had_lately_is_warned_of(outbox: str) -> None:
    async with connected(outbox) as connection:
        await add_event(connection, topic="orders")
    asked = await topics(outbox, "pause", "ordes")
    assert asked.exit_code == 0
    assert asked.stderr == "relay: no event of topic ordes was seen lately; did you mean orders?\n"


async def test_an_admin_may_ask_sign_only_as_himself_and_change_nothing_that_was_asked(outbox: str) -> None:
    async with connected(outbox) as connection:
        await make_roles(connection)
        await connection.execute("SET ROLE outbox_admin")
        await reads.ask_topics(connection, "outbox", ["orders"], seconds=60, reason="", requested_by="me@here")
        assert len(await reads.read_paused(connection)) == 1
        for forbidden in (
            "UPDATE outbox.topic_intent SET reason = 'another'",
            "DELETE FROM outbox.topic_intent",
            "INSERT INTO outbox.topic_intent (topic, until, requested_at) VALUES ('a', now(), '2000-01-01')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
        for impossible in ("'or?ers', now()", "'orders', 'infinity'", "'', now()"):
            with pytest.raises(asyncpg.CheckViolationError):
                await connection.execute(f"INSERT INTO outbox.topic_intent (topic, until) VALUES ({impossible})")
        for role in ("outbox_relay", "outbox_writer"):
            await connection.execute(f"SET ROLE {role}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("INSERT INTO outbox.topic_intent (topic, until) VALUES ('a', now())")


async def test_thousands_of_old_requests_cost_a_look_nothing(outbox: str) -> None:
    async with connected(outbox) as connection:
        await connection.execute(
            "INSERT INTO outbox.topic_intent (topic, until)"
            " SELECT 'topic-' || i % 100, now() - interval '1 h' FROM generate_series(1, 20000) AS i;"
            " INSERT INTO outbox.topic_intent (topic, until) VALUES ('topic-1', now() + interval '1 h');"
            " ANALYZE outbox.topic_intent"
        )
        assert [each.topic for each in await reads.read_paused(connection)] == ["topic-1"]
        plan = await connection.fetch("EXPLAIN " + query("paused_topics"))
        assert not any("Seq Scan" in row[0] for row in plan), plan
