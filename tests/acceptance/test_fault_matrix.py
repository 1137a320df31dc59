"""The fault matrix: for each statement that the service runs, PostgreSQL raises an error that no table knows.

The process lives, and when the cause is gone everything is delivered, in order, and nothing twice beyond what was in
flight. tests/unit/test_fault_matrix_is_complete.py holds that no statement is left out.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from relay.run.service import Service
from relay.settings import Settings
from relay.telemetry import Telemetry
from tests.support.postgres.receipts import DELIVERY_OF_EACH
from tests.support.postgres.replays import ask
from tests.support.postgres.writers import Writers
from tests.support.proxies.failing_postgres import FailingPostgres
from tests.support.proxies.proxy import Proxy
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic

MOST_IN_FLIGHT = 200
"""Events of a few writers that may be under way when a tenure ends: no round may repeat more."""


class Matrix:
    """A relay in this process, its faulty way to PostgreSQL, and somebody who writes."""

    def __init__(self, here: Place, failing: FailingPostgres, small: str) -> None:
        self.here = here
        self.failing = failing
        self.small = small
        """A topic that takes small events only."""
        self.telemetry = Telemetry()
        self.service: Service
        self.running: asyncio.Task[None]

    def start(self, bootstrap_servers: str | None = None) -> None:
        parts = urlsplit(self.here.dsn)
        netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.failing.port}"
        given = {
            "RELAY_POSTGRES_DSN": urlunsplit(parts._replace(netloc=netloc)),
            "RELAY_KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers or self.here.bootstrap_servers,
            "RELAY_HTTP_HOST": "127.0.0.1",
            "RELAY_HTTP_PORT": "0",
            "RELAY_REPLICA_LEASE": "6",
            "RELAY_KAFKA_REQUEST_TIMEOUT": "3",
            "RELAY_REPLICA_RECONCILE": "auto",
            # So that a sweep may be long.
            "RELAY_SCAN_SWEEP_STEP_IDS": "100",
        }
        self.service = Service(Settings.load(given), self.telemetry)
        self.running = asyncio.create_task(self.service.run())

    async def begin_anew(self) -> None:
        """A tenure begins: all that is done at its start, at a take-over, and from time to time after it."""
        await self.failing.cut()

    async def interrupt(self) -> None:
        """A tenure ends with receipts that are still to be written."""
        before = self.telemetry.value("flow_failed_total") or 0

        async def ended() -> bool:
            return (self.telemetry.value("flow_failed_total") or 0) > before

        self.failing.fail("settle")
        await until("a tenure ends", ended, 30)
        self.failing.fail("still_the_same")

    async def open_transaction(self) -> None:
        async with self.here.connection.transaction():
            await self.here.connection.execute("SELECT pg_current_xact_id()")
            await self._failed()

    async def commit_late(self) -> None:
        """Events that commit after others with higher ids were taken."""
        async with self.here.connection.transaction():
            newest = await self.here.connection.fetchval(
                "WITH e AS (INSERT INTO outbox.event (topic, key, payload)"
                " SELECT $1, convert_to('late-' || i, 'UTF8'), 'x' FROM generate_series(1, 200) AS i RETURNING id)"
                " SELECT max(id) FROM e",
                self.small,
            )

            async def overtaken() -> bool:
                found: bool = await self.here.connection.fetchval(
                    "SELECT EXISTS (SELECT FROM outbox.delivered WHERE id > $1)", newest
                )
                return found

            await until("an event that came later is delivered", overtaken, 30)

    async def failed_before(self) -> None:
        """An event that is to be retried now, and one that is held back behind nothing any more."""
        async with self.here.connection.transaction():
            await self.here.connection.execute(
                "WITH e AS (INSERT INTO outbox.event (topic, key, payload) VALUES ($1, 'retried', 'x')"
                " RETURNING lane, id, topic, key)"
                " INSERT INTO outbox.failure (lane, id, topic, key, state, attempts, next_attempt_at, error, policy)"
                " SELECT lane, id, topic, key, 'retrying', 1, now(), 'Some', 'block' FROM e",
                self.small,
            )
            await self.here.connection.execute(
                "WITH e AS (INSERT INTO outbox.event (topic, key, payload) VALUES ($1, 'held', 'x')"
                " RETURNING lane, id, topic, key)"
                " INSERT INTO outbox.held (lane, id, topic, key) SELECT lane, id, topic, key FROM e",
                self.small,
            )
        await self.failing.cut()

    async def refused(self) -> None:
        """An event that is too large for its topic, and one of its key behind it."""
        for payload in (b"x" * 5_000, b"x"):
            await self.here.connection.execute(
                "INSERT INTO outbox.event (topic, key, payload) VALUES ($1, 'large', $2)", self.small, payload
            )

    async def replayed(self) -> None:
        """Delivered events that are to be published again."""
        await self.here.connection.execute(
            "WITH e AS (INSERT INTO outbox.event (topic, key, payload) VALUES ($1, 'again', 'x') RETURNING id) "
            + DELIVERY_OF_EACH.format(offset="78", events="e"),
            self.small,
        )
        await ask(self.here.connection, self.small)

    async def replay_by_hand(self) -> None:
        """A replay that nobody can read, as somebody wrote it by hand."""
        await self.here.connection.execute(
            "INSERT INTO outbox.action (kind, filter, progress) VALUES ('replay-delivered', $1, $2)",
            json.dumps({"topic": 7}),
            json.dumps({"last_id": "none"}),
        )
        await self.failing.cut()

    async def scheduled(self) -> None:
        """An event that is to come."""
        await self.here.connection.execute(
            "INSERT INTO outbox.scheduled (delay, topic, payload) VALUES ('1 h', $1, 'x')", self.small
        )
        await self.failing.cut()

    async def stop_and_start(self) -> None:
        self.service.stop("the matrix")
        await self._failed()
        self.failing.fail(None)
        async with asyncio.timeout(40):
            await self.running
        self.start()

    async def reach_kafka_late(self) -> None:
        """A replica is on the list before it reaches Kafka."""

        async def waits() -> bool:
            found: bool = await self.here.connection.fetchval(
                "SELECT bool_or(put_off ? 'publish events') FROM outbox.replica"
            )
            return found

        async def restart(bootstrap_servers: str | None = None) -> None:
            self.service.stop("the matrix")
            async with asyncio.timeout(40):
                await self.running
            self.start(bootstrap_servers)

        host, _, port = self.here.bootstrap_servers.rpartition(":")
        async with Proxy(int(port)) as line:
            await line.refuse()
            await restart(f"{host}:{line.port}")
            await until("it is on the list", waits, 30)
            await line.accept()
            await self._failed()
            self.failing.fail(None)
            await restart()

    async def dead_owner(self) -> None:
        """A lane belongs to a replica that ended without handing it over."""
        await self.here.connection.execute(
            "WITH dead AS (INSERT INTO outbox.replica (id, name, version, lease_expires_at, process)"
            " VALUES (gen_random_uuid(), 'dead', '0', now(), gen_random_uuid()) RETURNING id)"
            " UPDATE outbox.lane SET owner = dead.id, epoch = epoch + 1, claimed_at = now() FROM dead WHERE lane = 0"
        )

    async def producers_replaced(self) -> None:
        self.service._publish.producers.discard_both("the matrix")

    async def topics_are_cold(self) -> None:
        """A topic had no batch for long."""
        notes = self.service._lasting.notes
        assert notes is not None
        await self.here.connection.execute(
            "INSERT INTO outbox.event (topic, key, payload) VALUES ($1, 'cold', 'x')", self.small
        )

        async def noted() -> bool:
            return self.small in notes._used and not any(tail.open for tail in notes._tails[self.small])

        await until("the topic is noted", noted, 30)
        notes._used[self.small] = float("-inf")

    async def topics_were_cold(self) -> None:
        """The topics are noted no longer."""
        notes = self.service._lasting.notes
        assert notes is not None
        notes._forget_tails()

    async def wait(self) -> None:
        """It runs all the time."""

    async def round(self, statement: str, writers: Writers) -> None:
        """One statement fails, until it has done so often enough; then all is delivered."""
        self.failing.fail(statement)
        await PROVOKED[statement](self)
        if self.failing.failing is not None:
            await self._failed()
        assert not self.running.done(), f"{statement} ended the process: {self.running!r}"
        self.failing.fail(None)
        await writers.commit(5)
        newest = await self.here.connection.fetchval("SELECT max(id) FROM outbox.event")

        async def delivered() -> bool:
            if self.running.done():
                self.running.result()
            return not await self.here.connection.fetchval(
                "SELECT count(*) FROM outbox.pending WHERE id <= $1 AND topic = $2", newest, self.here.topic
            )

        async def lasts() -> bool:
            return not self.service._restarts._in_a_row

        await until(f"all is delivered after {statement} failed", delivered, 40)
        # Or the pauses would grow from one statement to the next.
        await until("the tenure counts as one that worked", lasts, 40)

    async def _failed(self) -> None:
        async def failed() -> bool:
            if self.running.done():
                self.running.result()
            return self.failing.failed > 0

        await until(f"{self.failing.failing} fails", failed, 30)


PROVOKED: dict[str, Callable[[Matrix], Awaitable[None]]] = {
    **dict.fromkeys(
        (
            *("in_recovery", "server_process", "safe_search_path", "dependable_settings", "relay_settings"),
            *(
                "row_security_applies",
                "usable_name",
                "applied_migrations",
                "sequence_state",
                "sequence_value",
                "register_noting",
                "renew",
            ),
            *(
                "live_replicas",
                "lanes",
                "paused_topics",
                "claim",
                "highest_settled",
                "delivered_twice",
                "blocking",
                "held_topics",
                "has_failures",
            ),
            *("lanes_wake_up", "advance_positions", "scan", "look", "snapshot", "sweep_ids", "settle", "segment_state"),
            *("due_segments", "stranded_segment", "finish_replays", "forget_replayed", "forget_replicas"),
            *("survey_ids", "survey_failures", "survey_held", "survey_reach", "survey_pending"),
            "forget_actions",
            "move_due",
        ),
        Matrix.begin_anew,
    ),
    "still_the_same": Matrix.interrupt,
    "quiet_transactions": Matrix.open_transaction,
    **dict.fromkeys(("events_by_id", "gap_ids"), Matrix.commit_late),
    **dict.fromkeys(("due_failures", "settle_recorded", "held_events"), Matrix.failed_before),
    **dict.fromkeys(("fail", "hold"), Matrix.refused),
    **dict.fromkeys(("open_replays", "events_to_replay", "settle_replayed", "advance_replay"), Matrix.replayed),
    "refuse_replay": Matrix.replay_by_hand,
    **dict.fromkeys(("drain", "release", "unregister"), Matrix.stop_and_start),
    "take_part": Matrix.reach_kafka_late,
    "count_scheduled": Matrix.scheduled,
    **dict.fromkeys(("dead_replicas", "end_replica", "tails_of", "forget_ended"), Matrix.dead_owner),
    **dict.fromkeys(("enlist", "dismiss"), Matrix.producers_replaced),
    "note_topics": Matrix.topics_were_cold,
    "raise_tails": Matrix.wait,
    "forget_topics": Matrix.topics_are_cold,
}
"""What makes the relay run each statement."""

ELSEWHERE = {
    "add_segment": "tests/acceptance and unit tests of housekeeping: it is put off",
    "retire_segment": "the same",
    "segment_needs": "the same",
    "show_put_off": "the same",
    "long_statement": "the same",
    "register": "runs in place of register_noting with RELAY_REPLICA_RECONCILE=off",
    "expire": "runs when the process ends, or after its connections are lost: tests/acceptance/test_reconcile.py",
    **dict.fromkeys(
        ("still_at_work", "let_go", "found_events", "receipts_between"),
        "runs only while Kafka is asked: tests/unit/test_reconcile.py, tests/integration/test_reconcile_sql.py",
    ),
    "range_ids": "runs only where ids of others lie between: tests/contract/test_scan_port.py, as gap_ids",
    "owned": "no statement of the service: a column of this name",
    **dict.fromkeys(
        ("check_range", "check_kept", "check_slice", "check_again"), "the same: the check of receipts is such a chore"
    ),
    "first_due": "runs only after an event was refused: tests/unit/test_timers.py, tests/integration/test_scheduled.py",
    "events_without_content": "runs only after a read has failed: tests/acceptance/test_set_aside.py",
    "still_unreadable": "the same",
    "safe_search_path_of_transaction": "people's commands and migrations only",
    "current_role": "runs when the start is about to be refused",
    "forget_settings": "runs when the process is about to end for a pooler",
}
"""Where the others are held."""


@pytest.mark.proof
@pytest.mark.timeout(900)
async def test_an_unforeseen_error_of_any_statement_costs_nothing_but_time(
    here: Place, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.run.session.WORKED_AFTER", 0.2)
    port = urlsplit(here.dsn).port
    assert port is not None
    async with FailingPostgres(port) as failing:
        matrix = Matrix(here, failing, make_topic(1, **{"max.message.bytes": 2_000}))
        matrix.start()
        async with Writers(here.dsn, here.topic, pause=0.2) as writers:
            await writers.commit(20)
            for statement in PROVOKED:
                await matrix.round(statement, writers)
            await writers.end()
        await until("all is delivered", lambda: delivered(here), 40)
        matrix.service.stop("the test is over")
        async with asyncio.timeout(40):
            await matrix.running
    repeats = await here.check_everything()
    assert len(repeats) <= MOST_IN_FLIGHT


async def delivered(here: Place) -> bool:
    return not await here.connection.fetchval("SELECT count(*) FROM outbox.pending WHERE topic = $1", here.topic)
