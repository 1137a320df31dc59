"""`relay replay` on a real server: what it records, shows and refuses."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.decide.republishing import ReplayRequest
from relay.postgres.admin.migrate import make_roles
from tests.support.postgres.outbox import add_event, connected, migrated
from tests.support.postgres.receipts import add_receipts
from tests.support.postgres.replays import look

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import TypeVar

    import asyncpg

    Answer = TypeVar("Answer")


class Shell:
    """Runs the command in this process, on an outbox with 30 delivered events of two topics."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __call__(self, *arguments: str, **options: Any) -> Result:
        # A Kafka configuration that could not be worse: the command does not look at it.
        env = {"RELAY_POSTGRES_DSN": self.dsn, "RELAY_KAFKA_BOOTSTRAP_SERVERS": "", "COLUMNS": "200"}
        return CliRunner().invoke(main, ["replay", *arguments], env=env, **options)

    def json(self, *arguments: str) -> Any:
        """What it prints with --json."""
        shown = self(*arguments, "--json")
        assert shown.exit_code == 0, shown.output
        return json.loads(shown.stdout)

    def look(self, ask: Callable[[asyncpg.Connection], Awaitable[Answer]]) -> Answer:
        """Ask the database."""

        async def looked() -> Answer:
            async with connected(self.dsn) as connection:
                return await ask(connection)

        return _run(looked())

    def execute(self, statement: str, *arguments: object) -> None:
        """Change the database."""
        self.look(lambda connection: connection.execute(statement, *arguments))

    def actions(self) -> int:
        """How many requests there are."""
        count: int = self.look(lambda connection: connection.fetchval("SELECT count(*) FROM outbox.action"))
        return count

    def progress(self, action: int) -> str:
        """How far a replay is, lane by lane, as JSON."""
        text: str = self.look(lambda c: c.fetchval("SELECT progress FROM outbox.action WHERE id = $1", action))
        return text

    def start_replica(self) -> None:
        """Enter a replica that is alive."""
        self.execute(
            "INSERT INTO outbox.replica (id, name, version, lease_expires_at) VALUES ($1, 'r', '1', now() + '1 h')",
            uuid4(),
        )


def _run(work: Coroutine[object, object, Answer]) -> Answer:
    return asyncio.run(work)


@pytest.fixture
def shell(database: str, with_outbox: None) -> Shell:
    """The command, and an outbox."""

    async def fill() -> None:
        async with migrated(database) as connection:
            for number in range(20):
                await add_event(connection, f"key-{number % 4}")
            for _ in range(10):
                await add_event(connection, "key-0", "payments")
            await add_receipts(connection)
            await connection.execute(
                "UPDATE outbox.receipt SET delivered_at = now() - make_interval(secs => 60 * (30.5 - max_id))"
            )

    _run(fill())
    return Shell(database)


def test_a_dry_run_shows_what_matches_and_changes_nothing(shell: Shell) -> None:
    shown = shell("--topic", "orders", "--since", "2h", "--dry-run")
    assert shown.exit_code == 0
    assert shown.output.startswith("20 events would be published again: topic orders, since ")
    assert "every consumer of the topic gets them again" in shown.output
    assert shown.output.rstrip().endswith("dry run: nothing was changed")
    assert shell.actions() == 0


def test_a_request_is_recorded_with_what_was_asked_for_by_whom_and_why(shell: Shell) -> None:
    shown = shell("--topic", "orders", "--since", "2h", "--rate", "50", "--reason", "a lost disk", "--yes")
    assert shown.exit_code == 0
    assert shown.output == (
        "the replay of 20 events is recorded as action 1; no replica is alive now, so it happens when a relay runs\n"
    )
    replay = shell.look(lambda connection: look(connection, 1))
    assert (replay.filter["topic"], replay.filter["rate"], replay.reason) == ("orders", 50.0, "a lost disk")
    assert re.fullmatch(r"postgres \(.+@.+\)", replay.requested_by)
    assert (replay.events, replay.published, replay.state) == (20, 0, "open")
    request = ReplayRequest.parse(1, json.dumps(replay.filter), shell.progress(1), replay.requested_at)
    assert (request.last_id, request.rate) == (30, 50.0)
    assert request.until - request.since == timedelta(hours=2)
    lanes = {lane for (lane,) in shell.look(lambda c: c.fetch("SELECT lane FROM outbox.event WHERE topic = 'orders'"))}
    assert request.open_lanes() == lanes


def test_a_replay_to_another_topic_or_for_a_group_says_who_gets_what(shell: Shell) -> None:
    given = "--topic", "orders", "--since", "2h"
    moved = shell(*given, "--to-topic", "orders.repair", "--dry-run").output
    assert "20 events would be published again: from topic orders, to topic orders.repair, since " in moved
    assert "they go to topic orders.repair, whose every consumer gets them, and not to their own again" in moved
    marked = shell(*given, "--group", "billing", "--dry-run").output
    assert "one that heeds the header outbox-replay-group skips them unless it is of group billing" in marked
    assert shell(*given, "--to-topic", "orders.repair", "--group", "billing", "--yes").exit_code == 0
    replay = shell.look(lambda connection: look(connection, 1))
    request = ReplayRequest.parse(1, json.dumps(replay.filter), shell.progress(1), replay.requested_at)
    assert (request.topic, request.target, request.group) == ("orders", "orders.repair", "billing")
    assert "from topic orders, to topic orders.repair, group billing, since" in shell("list").output


def test_the_time_the_key_and_the_topic_narrow_it_down(shell: Shell) -> None:
    def events(*options: str) -> int:
        found: int = shell.json("--dry-run", *options)["events"]
        return found

    assert events("--topic", "payments", "--since", "1d") == 10
    # Event 1 was delivered 29.5 minutes ago, event 20 10.5 minutes ago.
    assert events("--topic", "orders", "--since", "25m") == 15
    assert events("--topic", "orders", "--since", "25m", "--until", "20m") == 5
    assert events("--topic", "orders", "--since", "1d", "--key", "key-1") == 5
    assert events("--topic", "orders", "--since", "1d", "--key", "hex:6b65792d31") == 5
    since = (datetime.now().astimezone() - timedelta(minutes=15)).isoformat()
    assert events("--topic", "orders", "--since", since) == 5


def test_the_key_is_looked_for_in_its_lane_only(shell: Shell) -> None:
    shell("--topic", "orders", "--since", "1d", "--key", "key-1", "--yes")
    lanes = json.loads(shell.progress(1))["lanes"]
    (lane,) = shell.look(lambda c: c.fetchrow("SELECT lane FROM outbox.event WHERE key = 'key-1' LIMIT 1"))
    assert [number for number, position in lanes.items() if position < 30] == [str(lane)]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--topic", "orders"], 2, "say what to replay: --topic, and --since"),
        (["--since", "2h"], 2, "say what to replay: --topic, and --since"),
        (["--topic", "orders", "--since", "soon"], 2, "'soon' is not a time; write how long ago"),
        (["--topic", "orders", "--since", "2h", "--until", "31st"], 2, "'31st' is not a time"),
        (["--topic", "orders", "--since", "1h", "--until", "2h"], 2, "is not before --until"),
        (["--topic", "orders", "--since", "2999-01-01"], 2, "is not before now, by PostgreSQL's clock"),
        (["--topic", "orders", "--since", "2h", "--key", "hex:1"], 2, "is not a key"),
        (["--topic", "orders", "--since", "2h", "--rate", "0"], 2, "--rate"),
        (["--topic", "orders", "--since", "2h", "--to-topic", "or?ers"], 2, "'or?ers' is not a topic name"),
        (["--topic", "orders", "--since", "2h", "--to-topic", "repair.*"], 2, "'repair.*' is a pattern"),
        (["--topic", "orders", "--since", "2h", "--to-topic", "orders"], 2, "--to-topic is --topic; leave it out"),
        (["--topic", "orders", "--since", "2h", "--group", " "], 2, "' ' is not a consumer group"),
        (["--topic", "orders", "--since", "2h", "--group", "x" * 250], 2, "is not a consumer group; write its name"),
        (
            ["--topic", "order", "--since", "2h"],
            1,
            "topic order has no delivered events in that time; did you mean orders?",
        ),
        (["--topic", "zzz", "--since", "2h"], 1, "topic zzz has no events that were delivered from"),
        (["--topic", "orders", "--since", "2h", "--until", "1h"], 1, "has no events that were delivered from"),
        (["--topic", "orders", "--since", "2h", "--key", "none"], 1, "has no events of key none that were delivered"),
        (
            ["--topic", "orders", "--since", "2h"],
            1,
            "no terminal to ask on; look with --dry-run, then add --yes",
        ),
        (["--topic", "orders", "list"], 2, "list does not take the options of a request"),
        (["show", "9"], 1, "there is no replay 9; see `relay replay list`"),
        (["cancel", "9"], 1, "there is no replay 9"),
        (["watch", "9"], 1, "there is no replay 9"),
        (["cancel", "x"], 2, "'x' is not a valid integer"),
        (["lst"], 2, "No such command 'lst'"),
    ],
)
def test_bad_input_is_refused_in_words_and_changes_nothing(
    shell: Shell, arguments: list[str], code: int, told: str
) -> None:
    shown = shell(*arguments)
    assert (shown.exit_code, told in shown.output) == (code, True), shown.output
    assert shell.actions() == 0


def test_what_reaches_back_behind_what_is_kept_is_refused_with_the_time_to_use(shell: Shell) -> None:
    shell.execute("SELECT outbox.add_segment(5000001, 10000001)")
    shell.execute("SELECT setval('outbox.event_id', 5000000)")
    shell.look(lambda connection: add_event(connection))
    shell.look(add_receipts)
    shell.execute("UPDATE outbox.lane SET position = 5000001")
    assert shell.look(lambda connection: connection.fetchval("SELECT outbox.drop_segment(1)"))
    refused = shell("--topic", "orders", "--since", "1h", "--dry-run")
    assert refused.exit_code == 1
    found = re.search(r"ask for --since (\S+) or later \(RELAY_SEGMENT_RETENTION", refused.output)
    assert found, refused.output
    # What it says to use is taken: there may be nothing as young as that, but it is not "pruned".
    assert "pruned" not in shell("--topic", "orders", "--since", found[1], "--dry-run").output
    shell.execute("DELETE FROM outbox.receipt")
    assert "all delivered events are pruned" in shell("--topic", "orders", "--since", "1h", "--dry-run").output


def test_an_outbox_that_has_delivered_nothing_says_so(database: str) -> None:
    async def empty() -> None:
        async with migrated(database):
            pass

    _run(empty())
    shown = Shell(database)("--topic", "orders", "--since", "1h")
    assert (shown.exit_code, shown.output) == (1, "relay: no event has been delivered; nothing was changed\n")


def test_the_exit_code_without_a_server_is_3(database: str) -> None:
    shown = Shell("postgresql://postgres@127.0.0.1:1/postgres")("--topic", "orders", "--since", "1h")
    assert shown.exit_code == 3


def test_a_person_is_asked_and_may_say_no(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.cli.replay.request.somebody_to_ask", lambda: True)
    shown = shell("--topic", "orders", "--since", "1h", input="n\n")
    assert shown.exit_code == 1
    assert "publish 20 events again? [y/N]" in shown.output
    assert "relay: nothing was changed" in shown.output
    assert shell.actions() == 0
    shown = shell("--topic", "orders", "--since", "1h", input="y\n")
    assert shown.exit_code == 0
    assert shell.actions() == 1


def test_replays_are_listed_and_shown_with_what_kafka_refused(shell: Shell) -> None:
    assert shell("list").output == "nobody has replayed delivered events\n"
    for _ in range(2):
        shell("--topic", "orders", "--since", "1h", "--yes", "--reason", "[bold]because[/]")
    shell.execute(
        "INSERT INTO outbox.replay_receipt (action, lane, id, error) SELECT 2, lane, id, 'Large: too large'"
        " FROM outbox.event WHERE id <= 3"
    )
    shell.execute("""UPDATE outbox.action SET counts = counts || '{"published": 4, "failed": 3}' WHERE id = 2""")
    listed = shell("list")
    assert listed.exit_code == 0
    lines = listed.output.splitlines()
    assert re.search(
        r"^ *2 .* topic orders, since .* \[bold\]because\[/\] +open +4 of 20 published, 3 refused", lines[1]
    )
    assert lines[2].split()[0] == "1"
    assert lines[3] == "! no replica is alive: replays continue when a relay runs"
    shown = shell("show", "2")
    assert "4 of 20 published, 3 refused by Kafka" in shown.output
    assert re.search(r"^ *3 +1 +Large: too large *$", shown.output, re.MULTILINE), shown.output
    assert shell.json("show", "2")["errors"] == [{"error": "Large: too large", "events": 3, "example": 1}]
    assert [replay["id"] for replay in shell.json("list", "--open")["replays"]] == [2, 1]


def test_a_replay_is_cancelled_once(shell: Shell) -> None:
    shell("--topic", "orders", "--since", "1h", "--yes")
    shown = shell("cancel", "1")
    assert (shown.exit_code, shown.output.startswith("replay 1 stops: 0 of 20 published; cancelled by postgres (")) == (
        0,
        True,
    )
    again = shell("cancel", "1")
    assert (again.exit_code, again.output.startswith("relay: replay 1 is over: 0 of 20 published; cancelled by")) == (
        1,
        True,
    )
    assert shell("list", "--open").output == "no replay is in progress\n"


def test_waiting_ends_with_the_replay_and_tells_how_it_was(shell: Shell) -> None:
    shell("--topic", "orders", "--since", "1h", "--yes", "--no-wait")
    shell.execute("""UPDATE outbox.action SET finished_at = now(), counts = counts || '{"published": 20}'""")
    shown = shell("watch", "1")
    assert (shown.exit_code, shown.output) == (0, "20 of 20 published\n")
    shell.execute("""UPDATE outbox.action SET counts = counts || '{"published": 18}'""")
    shown = shell("watch", "1")
    assert (shown.exit_code, shown.output) == (0, "18 of 20 published; 2 were pruned before their turn\n")
    shell.execute("""UPDATE outbox.action SET counts = counts || '{"failed": 2}'""")
    shown = shell("watch", "1")
    assert (shown.exit_code, shown.output) == (1, "18 of 20 published, 2 refused by Kafka (relay replay show 1)\n")


def test_without_a_terminal_nobody_waits_unless_told_to(shell: Shell) -> None:
    shell.start_replica()
    shown = shell("--topic", "orders", "--since", "1h", "--yes")
    assert shown.output == "the replay of 20 events is recorded as action 1\n"


def test_an_admin_without_further_rights_can_ask_and_cancel(shell: Shell) -> None:
    async def make_admin(connection: asyncpg.Connection) -> None:
        await make_roles(connection)
        await connection.execute("DROP ROLE IF EXISTS replay_tester")
        await connection.execute("CREATE ROLE replay_tester LOGIN PASSWORD 'secret' IN ROLE outbox_admin")

    shell.look(make_admin)
    tester = Shell(re.sub(r"//[^@]*@", "//replay_tester:secret@", shell.dsn))
    try:
        assert tester("--topic", "orders", "--since", "1h", "--yes").exit_code == 0
        assert tester("list").exit_code == tester("show", "1").exit_code == 0
        assert "cancelled by replay_tester (" in tester("cancel", "1").output
    finally:
        shell.execute("DROP ROLE replay_tester")
