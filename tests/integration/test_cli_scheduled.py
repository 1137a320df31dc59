"""`relay scheduled` on a real server: what it shows, cancels, records and refuses."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.postgres.admin.migrate import make_roles
from tests.support.postgres.outbox import connected, migrated

if TYPE_CHECKING:
    from collections.abc import Coroutine

IDS = [UUID(int=n + 1) for n in range(4)]


class Shell:
    """Runs the command in this process, on an outbox with four scheduled events."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __call__(self, *arguments: str) -> Result:
        env = {"RELAY_POSTGRES_DSN": self.dsn, "RELAY_KAFKA_BOOTSTRAP_SERVERS": "", "COLUMNS": "200"}
        return CliRunner().invoke(main, arguments, env=env)

    def json(self, *arguments: str) -> Any:
        """What it prints with --json."""
        shown = self(*arguments, "--json")
        assert shown.exit_code == 0, shown.output
        return json.loads(shown.stdout)

    def fetch(self, statement: str) -> list[dict[str, Any]]:
        """Ask the database."""

        async def look() -> list[dict[str, Any]]:
            async with connected(self.dsn) as connection:
                return [dict(row) for row in await connection.fetch(statement)]

        found: list[dict[str, Any]] = run(look())
        return found

    def left(self) -> list[UUID]:
        """The events that are to come."""
        return [row["event_id"] for row in self.fetch("SELECT event_id FROM outbox.scheduled ORDER BY deliver_at")]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def _fill(dsn: str) -> None:
    async with migrated(dsn) as connection:
        await make_roles(connection)
        for event_id, hours, topic, key, payload, timer in (
            (IDS[0], 3, "orders", b"42", b'{"a": 1}', "order 42"),
            (IDS[1], 1, "orders", None, None, None),
            (IDS[2], -1, "billing", b"\xff", b"\x00\x01", "bill 7"),
            (IDS[3], 200 * 24, "orders", b"42", b"x" * 9000, None),
        ):
            await connection.execute(
                "INSERT INTO outbox.scheduled (event_id, deliver_at, topic, key, payload, timer, type, headers)"
                " VALUES ($1, now() + make_interval(hours => $2), $3, $4, $5, $6, 'due', '{\"source\": \"shop\"}')",
                *(event_id, hours, topic, key, payload, timer),
            )


@pytest.fixture
def shell(database: str, with_outbox: None) -> Shell:
    run(_fill(database))
    return Shell(database)


def test_the_list_begins_with_what_is_due_first(shell: Shell) -> None:
    shown = shell("scheduled", "list")
    assert shown.exit_code == 0, shown.output
    lines = [" ".join(line.split()) for line in shown.output.splitlines()]
    assert [line.split()[0] for line in lines[-4:]] == [str(IDS[n]) for n in (2, 1, 0, 3)]
    assert lines[-4].startswith(f"{IDS[2]} billing hex:ff bill 7 for 1 h 0 min")
    assert re.search(r"orders \(no key\) - in (59 min|1 h 0 min)", lines[-3])


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--topic", "ord*"], [1, 0, 3]),
        (["--key", "42"], [0, 3]),
        (["--key", "hex:ff"], [2]),
        (["--timer", "* 7"], [2]),
        (["--timer", "order%"], []),
        (["--limit", "2"], [2, 1]),
        (["--topic", "orders", "--key", "42", "--timer", "order 42"], [0]),
    ],
)
def test_the_list_can_be_narrowed(shell: Shell, options: list[str], found: list[int]) -> None:
    assert [each["event_id"] for each in shell.json("scheduled", "list", *options)["scheduled"]] == [
        str(IDS[n]) for n in found
    ]


def test_show_has_all_of_an_event_by_its_id_or_its_name(shell: Shell) -> None:
    shown = shell("scheduled", "show", str(IDS[0]))
    assert shown.exit_code == 0, shown.output
    for part in ("orders", "42", "order 42", "source", "shop", "payload: JSON, 8 bytes"):
        assert part in shown.output
    by_name = shell.json("scheduled", "show", "--timer", "order 42")
    assert by_name["event_id"] == str(IDS[0])
    assert by_name["payload"] == '{"a": 1}'
    assert by_name["headers"] == {"source": "shop"}
    assert "tombstone" in shell("scheduled", "show", str(IDS[1])).output
    assert f"relay scheduled show {IDS[3]} --raw" in shell("scheduled", "show", str(IDS[3])).output
    assert shell("scheduled", "show", str(IDS[3]), "--raw").stdout_bytes == b"x" * 9000


def test_what_is_cancelled_is_gone_and_recorded(shell: Shell) -> None:
    shown = shell("scheduled", "cancel", str(IDS[0]), str(IDS[3]), "--reason", "wrong price")
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith("2 events cancelled, as action 1")
    assert shell.left() == [IDS[2], IDS[1]]
    (action,) = shell.json("failed", "actions")["actions"]
    assert (action["kind"], action["events"], action["reason"], action["finished"]) == (
        *("cancel", 2, "wrong price", True),
    )
    listed = shell("failed", "actions").output
    assert f"cancel event_ids {IDS[0]}, {IDS[3]}" in " ".join(listed.split())


def test_all_are_cancelled_or_none(shell: Shell) -> None:
    shown = shell("scheduled", "cancel", str(IDS[0]), str(uuid4()), "--reason", "x")
    assert shown.exit_code == 1
    assert "is to come: it has entered the outbox, was cancelled, or never was; nothing was changed" in shown.output
    assert len(shell.left()) == 4
    assert shell.fetch("SELECT FROM outbox.action") == []


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["cancel", str(IDS[0])], "a cancellation needs --reason", 2),
        (["cancel", "7", "--reason", "x"], "not a valid UUID", 2),
        (["cancel", "--reason", "x"], "Missing argument", 2),
        (["show"], "give an ID or --timer", 2),
        (["show", "order 42"], "'order 42' is not the ID of an event; the name of a timer goes with --timer", 2),
        (["show", str(IDS[0]), "--timer", "t"], "give an ID or --timer", 2),
        (["show", str(IDS[0]), "--raw", "--json"], "exclude each other", 2),
        (["show", str(uuid4())], "has entered the outbox, was cancelled, or never was", 1),
        (["list", "--topic", "a b"], "is not a topic", 2),
    ],
)
def test_what_makes_no_sense_is_refused(shell: Shell, arguments: list[str], message: str, code: int) -> None:
    shown = shell("scheduled", *arguments)
    assert shown.exit_code == code, shown.output
    assert message in shown.output
    assert len(shell.left()) == 4


def test_one_that_somebody_holds_is_not_waited_for(shell: Shell) -> None:
    async def while_held() -> Result:
        async with connected(shell.dsn) as connection, connection.transaction():
            await connection.execute("SELECT FROM outbox.scheduled WHERE event_id = $1 FOR UPDATE", IDS[0])
            return await asyncio.to_thread(shell, "scheduled", "cancel", str(IDS[0]), "--reason", "x")

    shown = run(while_held())
    assert shown.exit_code == 1
    assert "nothing was changed, try again" in shown.output
    assert len(shell.left()) == 4


def test_the_status_counts_what_is_to_come_and_shouts_when_it_is_late(shell: Shell) -> None:
    status = shell.json("status")
    assert status["scheduled"] == {"events": 4, "precision": "exact"}
    assert status["due_seconds"] == pytest.approx(-3600, abs=60)
    assert any("scheduled events have been due for 1 h 0 min" in concern for concern in status["concerns"])
    shown = " ".join(shell("status").output.split())
    assert "scheduled 4 events, the first due for 1 h 0 min" in shown
    shell("scheduled", "cancel", str(IDS[2]), "--reason", "x")
    assert not any("scheduled events" in concern for concern in shell.json("status")["concerns"])


def test_the_rights_of_the_role_for_people_suffice(shell: Shell) -> None:
    async def let_in() -> None:
        async with connected(shell.dsn) as connection:
            await connection.execute("CREATE ROLE person LOGIN PASSWORD 'p' IN ROLE outbox_admin")

    run(let_in())
    try:
        before, after = shell.dsn.split("//")[0], shell.dsn.split("@")[1]
        person = Shell(f"{before}//person:p@{after}")
        assert len(person.json("scheduled", "list")["scheduled"]) == 4
        shown = person("scheduled", "cancel", str(IDS[1]), "--reason", "x")
        assert shown.exit_code == 0, shown.output
    finally:

        async def let_out() -> None:
            async with connected(shell.dsn) as connection:
                await connection.execute("DROP ROLE person")

        run(let_out())
