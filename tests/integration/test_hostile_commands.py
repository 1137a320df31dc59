"""Every command, with hostile text in every column a command may show: shown, never obeyed, never a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relay.cli import main
from tests.support.hostile import NASTY, hostile_text, unseen
from tests.support.postgres.outbox import migrated
from tests.support.postgres.receipts import add_receipt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import asyncpg

OWN = re.compile(r"\r?\x1b\[(\?25[lh]|[0-9;]*m|2K|1A)")
"""Colours and the movements of a spinner."""

WAYS: dict[str, list[list[str]]] = {
    "config": [[], ["--json"]],
    "version": [[], ["--json"]],
    "health": [["--timeout", "1s"], ["--live", "--timeout", "1s"]],
    "doctor": [[], ["--json"]],
    "status": [[], ["--json"]],
    "prune": [["--dry-run"], ["--dry-run", "--json"], [], ["--json"]],
    "migrate": [[], ["--check"], ["--json"], ["--sql"]],
    "lanes": [[], ["--json"]],
    "lanes move": [["0", "--to", "{text}", "--wait", "0s", "--reason", "{text}"]],
    "lanes release": [["1", "--wait", "0s", "--reason", "{text}"]],
    "topics": [[], ["--json"]],
    "topics pause": [["{text}"], ["orders", "--reason", "{text}", "--json"], ["orders", "--for", "{text}"]],
    "topics resume": [["{text}"], ["orders", "--reason", "{text}"]],
    "failed list": [[], ["--json"], ["--count"], ["--error", "{text}"], ["--topic", "{text}"]],
    "failed show": [["{failed}"], ["{failed}", "--json"], ["{delivered}"], ["{held}"]],
    "failed actions": [[], ["--json"]],
    "failed replay": [
        ["{delivered}"],
        ["--all", "--dry-run"],
        ["--since", "{text}"],
        ["{failed}", "--no-wait", "--reason", "{text}"],
        ["{failed}", "--no-wait", "--json"],
    ],
    "failed discard": [["{held}", "--reason", "x"], ["--all", "--yes", "--reason", "{text}"]],
    "scheduled list": [[], ["--json"], ["--topic", "{text}"], ["--timer", "{text}"]],
    "scheduled show": [["{scheduled}"], ["{scheduled}", "--json"], ["--timer", "{text}"]],
    "scheduled cancel": [["{scheduled}", "--reason", "{text}"]],
    "replay": [
        ["--topic", "{text}", "--since", "2h", "--dry-run"],
        ["--topic", "orders", "--since", "2h", "--yes", "--no-wait", "--reason", "{text}"],
        ["--topic", "orders", "--since", "2h", "--key", "{text}", "--dry-run", "--json"],
    ],
    "replay list": [[], ["--json"]],
    "replay show": [["{replay}"], ["{replay}", "--json"], ["{cancelled}"]],
    "replay watch": [["{replay}"], ["{cancelled}"]],
    "replay cancel": [["{replay}"]],
    "export": [[], ["--format", "csv"], ["--topic", "{text}"], ["--key", "{text}"], ["--after", "{text}"]],
    "erase": [
        ["--key", "{text}", "--dry-run"],
        ["--key", "{text}", "--dry-run", "--json", "--force"],
        ["--event", "{delivered}", "--reason", "{text}", "--yes"],
        ["--event", "{text}", "--reason", "x"],
    ],
    "verify": [["--topic", "{text}"], ["--sample", "2"], ["--topic", "orders", "--key", "{text}", "--json"]],
    "run": [[]],
    "local": [["--topic", "{text}:x"]],
    "demo": [["--folder", "{folder}"]],
}
"""How each command is called, those that change something last. One that is not here fails a test below."""


def commands(group: click.Group, path: str = "") -> Iterator[str]:
    """The names of all commands there are."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        here = f"{path} {name}".strip()
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield here
        if isinstance(command, click.Group):
            yield from commands(command, here)


def test_every_command_is_tried_with_hostile_text() -> None:
    assert sorted(commands(main)) == sorted(WAYS)


async def seed(connection: asyncpg.Connection, texts: list[str]) -> dict[str, str]:
    """Fill every column that a command shows with these texts; the ids that commands are called with."""
    # As somebody who may do anything: no constraint, trigger or default stands in the way.
    await connection.execute("SET session_replication_role = replica")
    for check in await connection.fetch(
        "SELECT conrelid::regclass::text AS name, conname FROM pg_constraint"
        " WHERE conrelid = ANY ('{outbox.event,outbox.scheduled,outbox.topic_intent}'::regclass[]) AND contype = 'c'"
        " AND conname <> 'event_size'"
    ):
        await connection.execute(f'ALTER TABLE {check["name"]} DROP CONSTRAINT "{check["conname"]}"')
    await connection.execute(
        "TRUNCATE outbox.event, outbox.scheduled, outbox.receipt, outbox.failure, outbox.held, outbox.action,"
        " outbox.replay_receipt, outbox.replica, outbox.lane_intent, outbox.topic_intent"
    )
    found: dict[str, str] = {}
    for n, text in enumerate(texts):
        key, many = text.encode(), json.dumps({text: text, "topic": text, "key": text, "since": text})
        ids = await connection.fetch(
            "INSERT INTO outbox.event (topic, key, payload, headers, type)"
            " SELECT t, $2, p, $3, left($1, 100)"
            " FROM (VALUES ($1::text, $2::bytea), ($1, $4), ('orders', NULL)) v (t, p)"
            " RETURNING lane, id",
            text,
            key,
            json.dumps({text: text}),
            json.dumps({"order": text}).encode(),
        )
        (lane, failed), (_, held), (_, delivered) = ids  # Of one key, so of one lane.
        scheduled = await connection.fetchval(
            "INSERT INTO outbox.scheduled (topic, key, payload, headers, type, timer, deliver_at)"
            " VALUES ($1, $2, $4, $3, left($1, 100), left($1, 100) || $5, now()) RETURNING event_id",
            *(text, key, json.dumps({text: text}), json.dumps({"order": text}).encode(), str(n)),
        )
        action = await connection.fetchval(
            "INSERT INTO outbox.action (kind, filter, reason, requested_by) VALUES ($1, $2, $3, $3) RETURNING id",
            ("replay", "discard")[n % 2],
            many,
            text,
        )
        replays = await connection.fetch(
            "INSERT INTO outbox.action (kind, filter, reason, requested_by, finished_at, counts)"
            " SELECT 'replay-delivered', $1, $2, $2, now(), c FROM unnest($3::jsonb[]) c RETURNING id",
            many,
            text,
            [
                json.dumps({"events": 1, "published": 0, "failed": 1, "error": text}),
                json.dumps({"events": 1, "published": 0, "failed": 0, "cancelled_by": text}),
            ],
        )
        await connection.execute(
            "INSERT INTO outbox.replay_receipt (action, lane, id, error) VALUES ($1, $2, $3, $4)",
            *(replays[0]["id"], lane, failed, text),
        )
        await connection.execute(
            "INSERT INTO outbox.failure (lane, id, topic, key, state, attempts, error, detail, policy, history, action)"
            " VALUES ($1, $2, $3, $4, 'failed', 1, $3, $3, 'block', $5, $6)",
            *(lane, failed, text, key, json.dumps([{"attempt": text, "at": text, "error": text}]), action),
        )
        await connection.execute("INSERT INTO outbox.held VALUES ($1, $2, $3, $4)", lane, held, text, key)
        await add_receipt(connection, delivered, offset=1)
        await connection.execute(
            "WITH r AS (INSERT INTO outbox.replica (id, name, version, lease_expires_at, renewed_at, topics)"
            "  VALUES (gen_random_uuid(), coalesce(nullif($1, ''), ' '), $1, now() + interval '1 hour',"
            "          now() - interval '5 min', jsonb_build_object($1, jsonb_build_object('trouble', $1)))"
            "  RETURNING id),"
            " o AS (UPDATE outbox.lane SET owner = r.id, claimed_at = now() FROM r WHERE lane = $2)"
            "INSERT INTO outbox.lane_intent (lane, epoch, replica, until, reason, requested_by)"
            " SELECT $2, 1, id, now() + interval '1 hour', $1, $1 FROM r"
            " ON CONFLICT (lane) DO UPDATE SET replica = excluded.replica, reason = excluded.reason",
            *(text, n % 16),
        )
        await connection.execute(
            "INSERT INTO outbox.topic_intent (topic, until, reason, requested_by)"
            " VALUES ($1, now() + interval '1 hour', $1, $1)",
            text,
        )
        found = {
            "failed": str(failed),
            "scheduled": str(scheduled),
            "held": str(held),
            "delivered": str(delivered),
            "replay": str(replays[0]["id"]),
            "cancelled": str(replays[1]["id"]),
            "text": text,
        }
    return found


def call(arguments: list[str], environment: dict[str, str]) -> Result:
    """Run a command; what it writes must be harmless, and it must not end with a traceback."""
    result = CliRunner().invoke(main, arguments, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(arguments) from result.exception
    shown = OWN.sub("", result.output) if environment.get("FORCE_COLOR") else result.output
    assert not unseen(shown.replace("\n", "")), (arguments, shown)
    assert not [nasty for nasty in NASTY if unseen(nasty) and nasty in result.output]
    if "--json" in arguments and result.stdout:
        assert result.stdout.isascii()
        json.loads(result.stdout)
    return result


def call_all(database: str, texts: list[str], folder: Path, *, coloured: bool) -> None:
    """Seed, and call every command in every way, also in wrong ones."""
    environment = {"RELAY_POSTGRES_DSN": database} | ({"FORCE_COLOR": "1", "TERM": "xterm"} if coloured else {})

    async def seeded() -> dict[str, str]:
        async with migrated(database) as connection:
            return await seed(connection, texts)

    given = asyncio.run(seeded()) | {"folder": str(folder)}
    no_such = urlunsplit(urlsplit(database)._replace(path="/" + quote(given["text"] or "x", safe="")))
    for path, ways in WAYS.items():
        hostile = environment
        if path in ("run", "config"):
            names = (
                "KAFKA_BOOTSTRAP_SERVERS",
                "KAFKA_SECURITY_PROTOCOL",
                "REPLICA_NAME",
                "LOG_LEVEL",
                "FAILURE_POLICIES",
            )
            hostile = environment | {f"RELAY_{name}": given["text"] for name in names}
        for way in ways:
            arguments = [each.format_map(given) if each.startswith("{") else each for each in way]
            call([*path.split(), *arguments], hostile)
        call([*path.split(), f"--x{given['text']}"], environment)
    # What PostgreSQL says of a database of this name.
    for path in ("status", "failed list", "replay list"):
        call(path.split(), environment | {"RELAY_POSTGRES_DSN": no_such})
    call([f"--x{given['text']}"], environment)
    call([given["text"] or "x"], environment)


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Path:
    """A folder that is not empty and has a bad name."""
    folder = tmp_path / "\x1b[31m[/x]\u202e"
    folder.mkdir(parents=True)
    (folder / "something").touch()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("coloured", [False, True])
def test_no_command_obeys_nasty_text(database: str, hostile_folder: Path, coloured: bool) -> None:
    for last in range(0, len(NASTY), 7):
        call_all(database, [*NASTY[last + 1 :], *NASTY[: last + 1]], hostile_folder, coloured=coloured)


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("RELAY_TEST_FUZZ_EXAMPLES", "2")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(texts=st.lists(hostile_text(for_postgres=True), min_size=3, max_size=3))
@example(texts=["\x1b[31m", "[/x]", "\u202e"])
def test_no_command_obeys_any_text(database: str, hostile_folder: Path, texts: list[str]) -> None:
    call_all(database, texts, hostile_folder, coloured=False)


def test_json_says_exactly_what_is_in_the_tables(database: str) -> None:
    async def seeded() -> None:
        async with migrated(database) as connection:
            await seed(connection, list(NASTY))

    asyncio.run(seeded())

    def said(*arguments: str) -> Any:
        return json.loads(call([*arguments, "--json"], {"RELAY_POSTGRES_DSN": database}).stdout)

    assert {replica["name"] for replica in said("status")["replicas"]} == set(NASTY)
    assert {replica["name"] for replica in said("lanes")["replicas"]} == set(NASTY)
    assert {topic["topic"] for topic in said("topics")["topics"]} == {*NASTY, "orders"}
    assert {failure["error"] for failure in said("failed", "list")["failures"]} == set(NASTY)
    assert {action["reason"] for action in said("failed", "actions")["actions"]} >= set(NASTY[-3:])
    assert {replay["reason"] for replay in said("replay", "list", "--limit", "99")["replays"]} == set(NASTY)


async def test_a_long_text_is_cut_in_tables_and_whole_in_json(database: str) -> None:
    async with migrated(database) as connection:
        given = await seed(connection, ["x" * 100_000])
        await connection.execute("UPDATE outbox.failure SET key = NULL")
    environment = {"RELAY_POSTGRES_DSN": database}
    for arguments in (["status"], ["lanes"], ["failed", "list"], ["failed", "show", given["failed"]]):
        shown = await asyncio.to_thread(call, arguments, environment)
        assert len(shown.output) < 60_000, arguments
        assert "morecharacters" in "".join(shown.output.split())
    told = await asyncio.to_thread(call, ["status", "--json"], environment)
    assert "x" * 100_000 in told.stdout
