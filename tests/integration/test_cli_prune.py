"""`relay prune` on a real server: what it shows, does and refuses."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.postgres.admin.migrate import make_roles
from tests.support.postgres.outbox import add_event, add_failure, connected, migrated
from tests.support.postgres.receipts import DELIVERIES, add_receipt

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


class Shell:
    """Runs the command in this process, with a retention of an hour."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __call__(self, *arguments: str, dsn: str | None = None, **settings: str) -> Result:
        env = {"RELAY_POSTGRES_DSN": dsn or self.dsn, "RELAY_SEGMENT_RETENTION": "3600", "COLUMNS": "200", **settings}
        return CliRunner().invoke(main, ["prune", *arguments], env=env)

    def execute(self, *statements: str) -> None:
        async def work() -> None:
            async with connected(self.dsn) as connection:
                for statement in statements:
                    await connection.execute(statement)

        run(work())

    def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        async def look() -> list[tuple[Any, ...]]:
            async with connected(self.dsn) as connection:
                return [tuple(row) for row in await connection.fetch(statement)]

        found: list[tuple[Any, ...]] = run(look())
        return found


async def _fill(dsn: str) -> None:
    """Four segments: of the first an event failed; all of the second went; the third is young, the fourth in use."""
    async with migrated(dsn) as connection:
        await connection.execute("DROP TABLE outbox.event_1, outbox.receipt_1")
        for number in range(4):
            lower = 1 + 100 * number
            await connection.execute("SELECT outbox.add_segment($1, $2)", lower, lower + 100)
            await connection.execute("SELECT setval('outbox.event_id', $1, false)", lower)
            events = [await add_event(connection, key=str(key)) for key in range(10)]
            if number == 0:
                await add_failure(connection, events[0])
        await connection.execute("UPDATE outbox.event SET created_at = now() - interval '1 day' WHERE id < 201")
        for (id_,) in await connection.fetch(
            f"SELECT id FROM outbox.event WHERE id > 1 AND id NOT IN (SELECT id FROM {DELIVERIES})"
        ):
            await add_receipt(connection, id_)
        await connection.execute("UPDATE outbox.receipt SET delivered_at = now() - interval '1 day' WHERE max_id < 201")
        await connection.execute("UPDATE outbox.lane SET position = 305")
        await connection.execute(
            "INSERT INTO outbox.action (kind, filter, finished_at)"
            " VALUES ('discard', '{}', now() - interval '2 years'), ('discard', '{}', now())"
        )


@pytest.fixture
def shell(database: str) -> Shell:
    run(_fill(database))
    return Shell(database)


LEFT = [(1, 101, True), (201, 301, False), (301, 401, False)]
SEGMENTS = "SELECT lower_id, upper_id, kept FROM outbox.segment ORDER BY lower_id"


def test_a_dry_run_shows_what_would_be_done_and_does_nothing(shell: Shell) -> None:
    before = shell.fetch(SEGMENTS)
    shown = shell("--dry-run")
    assert shown.exit_code == 0, shown.output
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[1].endswith("would be dropped, but for 1 failed")
    assert lines[2].endswith("would be dropped")
    assert "kept: its newest event is" in lines[3]
    assert lines[4].endswith("kept: the positions of the lanes 0-15 must pass it first")
    assert lines[5] == "1 request that was finished long ago would be forgotten"
    assert shell.fetch(SEGMENTS) == before
    told = json.loads(shell("--dry-run", "--json").stdout)
    assert [each["outcome"] for each in told["segments"]] == ["shrink", "drop", "keep", "keep"]
    assert told["segments"][0]["needed"] == {"failed": 1}
    assert told["over"] == {"replay_receipts": 0, "actions": 1, "replicas": 0}


def test_it_does_what_it_has_shown(shell: Shell) -> None:
    done = shell()
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "event_1 was dropped, but for 1 event in a small one in its place",
        "event_101 was dropped",
    ]
    assert shell.fetch(SEGMENTS) == LEFT
    assert shell.fetch("SELECT id FROM outbox.action") == [(2,)]
    assert [tuple(row) for row in shell.fetch("SELECT id FROM outbox.event WHERE id < 201")] == [(1,)]
    again = shell()
    assert "event_1 is kept" in again.stdout
    assert again.exit_code == 0


def test_the_settings_are_those_of_the_relay(shell: Shell) -> None:
    assert shell(RELAY_SEGMENT_RETENTION="100000").stdout.startswith("no segment is due: relay prune --dry-run")
    wrong = shell(RELAY_SEGMENT_RETENTION="soon")
    assert (wrong.exit_code, "RELAY_SEGMENT_RETENTION" in wrong.stderr) == (2, True)
    assert json.loads(shell("--json").stdout)[0] == {
        "name": "event_1",
        "lower_id": 1,
        "upper_id": 101,
        "kept": False,
        "events_kept": 1,
        "error": "",
    }


def test_an_event_that_was_passed_is_told_and_the_others_go(shell: Shell) -> None:
    shell.execute("DELETE FROM outbox.failure")
    done = shell()
    assert done.exit_code == 1
    assert "event_1: the segment event_1 is kept: its event 1 has no receipt and was not discarded" in done.stderr
    assert "1 segment could not be retired" in done.stderr
    assert done.stdout.splitlines() == ["event_101 was dropped"]


@pytest.fixture
def people(shell: Shell) -> Iterator[str]:
    """The DSN of a role that may do what people may."""

    async def make() -> None:
        async with connected(shell.dsn) as connection:
            await make_roles(connection)

    run(make())
    role = f"person_{secrets.token_hex(4)}"
    shell.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' IN ROLE outbox_admin")
    parts = urlsplit(shell.dsn)
    yield parts._replace(netloc=f"{role}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
    shell.execute(f"DROP ROLE {role}")


def test_people_may_look_and_the_relays_role_may_prune(shell: Shell, people: str) -> None:
    assert "but for 1 failed" in shell("--dry-run", dsn=people).stdout
    refused = shell(dsn=people)
    assert refused.exit_code == 1
    assert "to prune takes the rights of the role outbox_relay" in refused.stderr
    assert len(shell.fetch(SEGMENTS)) == 4
