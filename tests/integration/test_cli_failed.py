"""`relay failed` against a real server, with no relay, no Kafka and a Kafka configuration that is broken."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest
from click.testing import CliRunner, Result

from relay.admin import failures as deciding
from relay.cli import main
from relay.cli.failed import replay_or_discard
from tests.support.postgres.failures import Event, add, add_failed, add_held, add_replica, deliver, fail_again, states
from tests.support.postgres.outbox import connected, migrated
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.servers import shared as servers

pytestmark = pytest.mark.usefixtures("with_outbox")

BROKEN_KAFKA = {"RELAY_KAFKA_SECURITY_PROTOCOL": "nonsense", "RELAY_KAFKA_REQUEST_TIMEOUT": "-1"}
TERMINAL_SECONDS = 120.0
FORMATTED = '{\n    "order": 17\n  }'


async def run(dsn: str, *arguments: str, code: int = 0) -> Result:
    """Run the command in this process, not on a terminal."""

    def invoke() -> Result:
        return CliRunner().invoke(main, ["failed", *arguments], env={"RELAY_POSTGRES_DSN": dsn, **BROKEN_KAFKA})

    result = await asyncio.to_thread(invoke)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


async def run_json(dsn: str, *arguments: str) -> Any:
    """Run the command with --json."""
    return json.loads((await run(dsn, *arguments, "--json")).stdout)


class Terminal:
    """The command on a terminal of its own, killed at the end of the block."""

    def __init__(self, dsn: str, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = {**os.environ, "RELAY_POSTGRES_DSN": dsn, "COLUMNS": "100", "TERM": "xterm", **BROKEN_KAFKA}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "relay", "failed", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    async def read_until(self, text: str) -> None:
        """Wait until `text` is shown."""
        async with asyncio.timeout(TERMINAL_SECONDS):
            while text not in self.shown:
                assert await asyncio.to_thread(self._read), self.shown

    def answer(self, text: str) -> None:
        """Type something."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def interrupt_at_prompt(self) -> None:
        """Press Ctrl-C, again if need be: Python misses one that comes just before it begins to read."""
        for _ in range(6):
            self.interrupt()
            if select.select([self._ours], [], [], 10)[0]:
                return

    async def ended(self) -> int:
        """Wait for the end; returns the exit code."""
        async with asyncio.timeout(TERMINAL_SECONDS):
            while await asyncio.to_thread(self._read):
                pass
            return await asyncio.to_thread(self._process.wait, 30)

    def _read(self) -> bool:
        """Read what is there, waiting for it if need be; whether there was something."""
        ready, _, _ = select.select([self._ours], [], [], 60)
        assert ready, f"nothing more was shown: {self.shown}"
        try:
            # It may end within a character of the progress bar.
            self.shown += os.read(self._ours, 65536).decode(errors="replace")
        except OSError:
            # What Linux says when the other side is closed.
            return False
        return True


async def test_what_failed_is_listed_with_what_waits_behind_it(database: str) -> None:
    async with migrated(database) as connection:
        blocked = await add_failed(connection, b"customer-17", seconds_ago=7500)
        for _ in range(3):
            await add_held(connection, b"customer-17")
        binary = await add_failed(connection, b"\x00\xff", "mail", state="retrying", error="UnknownServerError")
        await add_failed(connection, None, state="discarded")
        output = (await run(database, "list")).output
        rows = [line.split("  ") for line in output.splitlines()]
        cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
        assert cells[0] == ["id", "topic", "key", "state", "error", "attempts", "age", "holds"]
        assert cells[1] == [
            str(blocked.id),
            "orders",
            "customer-17",
            "failed",
            "MessageSizeTooLargeError",
            "1",
            "2 h 5 min",
            "3",
        ]
        assert cells[2][:5] == [str(binary.id), "mail", "hex:00ff", "retrying", "UnknownServerError"]
        assert "1 failed, 1 retrying; 3 events held back behind them (1 discarded: --state discarded)" in output
        assert f"relay failed show {blocked.id}" in output


async def test_the_list_as_json_is_for_machines(database: str) -> None:
    async with migrated(database) as connection:
        event = await add_failed(connection, b"\xff")
        await add_held(connection, b"\xff")
        listed = await run_json(database, "list")
        assert (listed["total"], listed["holds_back"]) == (1, 1)
        assert listed["counts"] == [
            {"topic": "orders", "error": "MessageSizeTooLargeError", "state": "failed", "events": 1}
        ]
        (failure,) = listed["failures"]
        assert (failure["id"], failure["key"], failure["holds_back"]) == (event.id, "hex:ff", 1)
        assert "T" in failure["failed_at"]
        # What it shows as the key is what it takes as the key.
        assert (await run_json(database, "list", "--key", failure["key"]))["total"] == 1


async def test_the_list_goes_page_by_page_and_counts_all(database: str) -> None:
    async with migrated(database) as connection:
        ids = [(await add_failed(connection, f"k{number}".encode(), f"t{number % 2}")).id for number in range(5)]
        first = await run(database, "list", "--limit", "2")
        assert f"2 of 5 are shown; add --after {ids[1]} to see more" in first.output
        rest = await run_json(database, "list", "--limit", "9", "--after", str(ids[1]))
        assert [failure["id"] for failure in rest["failures"]] == ids[2:]
        beyond = await run(database, "list", "--after", str(ids[-1]))
        assert f"none of them has an id above {ids[-1]}" in beyond.output
        counted = (await run(database, "list", "--count")).output
        assert [line.split()[:4] for line in counted.splitlines()[1:3]] == [
            ["t0", "MessageSizeTooLargeError", "failed", "3"],
            ["t1", "MessageSizeTooLargeError", "failed", "2"],
        ]
        assert "failures" not in await run_json(database, "list", "--count")


async def test_a_list_without_failures_says_so(database: str) -> None:
    async with migrated(database) as connection:
        assert (await run(database, "list")).output == "no failures\n"
        await add_failed(connection, state="discarded")
        assert (await run(database, "list")).output == "no failures (1 discarded: --state discarded)\n"
        assert (await run_json(database, "list", "--state", "discarded"))["total"] == 1
        assert (await run(database, "list", "--topic", "x")).output == "no failure matches (topic x)\n"


async def test_nothing_is_cut_off_in_a_pipe(database: str) -> None:
    async with migrated(database) as connection:
        await add_failed(connection, b"k" * 200, "t" * 200, error="E" * 100)
        line = (await run(database, "list")).output.splitlines()[1]
        for text in ("k" * 200, "t" * 200, "E" * 100):
            assert text in line


async def test_a_failure_is_shown_with_all_there_is_to_know(database: str) -> None:
    async with migrated(database) as connection:
        event = await add_failed(
            connection, b"k1", attempts=3, payload=b'{"order": 17}', headers={"tenant": "acme"}, seconds_ago=120
        )
        held = [await add_held(connection, b"k1") for _ in range(12)]
        await run(database, "replay", str(event.id), "--reason", "limit raised")
        await fail_again(connection, event)
        output = (await run(database, "show", str(event.id))).output
        for text in (
            f"event {event.id}: failed",
            "MessageSizeTooLargeError",
            "told by the broker",
            "block: later events of its key are held back",
            f"12 events: {', '.join(str(each.id) for each in held[:10])}, ...",
            "limit raised",
            "0 delivered, 1 failed again",
            "payload: JSON, 13 bytes",
            '    "order": 17',
            f"relay failed replay {event.id}",
        ):
            assert text in output
        lines = [line.split() for line in output.splitlines()]
        assert ["tenant", "acme"] in lines
        assert [line[-2:] for line in lines if "try" in line] == [["try", "1"], ["try", "2"], ["try", "3"]]


async def test_a_failure_as_json_has_its_whole_payload(database: str) -> None:
    async with migrated(database) as connection:
        payload = "ä".encode() * 20_000
        event = await add_failed(connection, payload=payload, headers={"tenant": "acme"}, attempts=2)
        shown = await run_json(database, "show", str(event.id))
        assert shown["payload"] == {"encoding": "utf-8", "data": payload.decode()}
        assert shown["headers"] == {"tenant": "acme"}
        assert [attempt["error"] for attempt in shown["history"]] == ["try 1", "try 2"]
        binary = await add_failed(connection, payload=b"\xff\x00")
        assert (await run_json(database, "show", str(binary.id)))["payload"] == {"encoding": "base64", "data": "/wA="}


async def test_the_bytes_of_a_payload_can_be_had_as_they_are(database: str) -> None:
    async with migrated(database) as connection:
        payload = bytes(range(256)) * 5_000
        await connection.execute("SELECT outbox.set_max_event_bytes(2000000)")
        event = await add_failed(connection, payload=payload)
        tombstone = await add_failed(connection, payload=None)
        assert (await run(database, "show", str(event.id), "--raw")).stdout_bytes == payload
        shown = await run(database, "show", str(event.id))
        assert "payload: binary, 1,280,000 bytes" in shown.output
        assert "000000  00 01 02" in shown.output
        assert f"relay failed show {event.id} --raw" in shown.output
        raw = await run(database, "show", str(tombstone.id), "--raw")
        assert (raw.stdout_bytes, "it has no payload" in raw.stderr) == (b"", True)


async def test_nothing_that_is_shown_reaches_the_terminal_as_a_control_sequence(database: str) -> None:
    evil = "\x1b[31m[red]evil[/red]\x1b]0;title\x07"
    async with migrated(database) as connection:
        event = await add_failed(
            connection, evil.encode(), payload=f"[bold]{evil}".encode(), headers={evil: evil}, error=evil
        )
        await connection.execute("UPDATE outbox.event SET type = $1", evil)
        await connection.execute("UPDATE outbox.failure SET detail = $1", evil)
        await run(database, "replay", str(event.id), "--reason", evil)
        for command in (["list"], ["list", "--count"], ["show", str(event.id)], ["actions"]):
            output = (await run(database, *command)).output
            assert not {"\x1b", "\x07"} & set(output)
            assert command == ["list", "--count"] or "[red]evil[/red]" in output or "hex:1b5b" in output


async def test_events_that_have_not_failed_are_shown_too(database: str) -> None:
    async with migrated(database) as connection:
        failed, held, paused = (
            await add_failed(connection),
            await add_held(connection),
            await add_held(connection, b"p"),
        )
        pending, delivered = await add(connection), await add(connection, b"d")
        await deliver(connection, delivered)
        for event, told in [
            (held, f"behind event {failed.id} (failed, MessageSizeTooLargeError)"),
            (paused, "until its topic takes events again (orders is paused)"),
            (pending, f"event {pending.id}: pending"),
            (delivered, "partition 3, offset 7"),
        ]:
            assert told in (await run(database, "show", str(event.id))).output


async def every_kind(connection: Any) -> dict[str, Event]:
    """One event in each state there is."""
    events = {
        "failed": await add_failed(connection, b"f"),
        "held": await add_held(connection, b"f"),
        "paused": await add_held(connection, b"p", "paused-topic"),
        "pending": await add(connection, b"x"),
        "delivered": await add(connection, b"d"),
        "replaying": await add_failed(connection, b"r"),
        "discarded": await add_failed(connection, b"g"),
    }
    await deliver(connection, events["delivered"])
    return events


@pytest.mark.parametrize("command", [("replay",), ("discard", "--reason", "x"), ("replay", "--dry-run")])
async def test_an_event_that_has_not_failed_is_refused_and_the_reason_said(
    database: str, command: tuple[str, ...]
) -> None:
    async with migrated(database) as connection:
        event = await every_kind(connection)
        await run(database, "replay", str(event["replaying"].id))
        await run(database, "discard", str(event["discarded"].id), "--reason", "garbage")
        before, actions = await states(connection), await connection.fetchval("SELECT count(*) FROM outbox.action")
        told = {
            "held": f"held back behind event {event['failed'].id} (failed, MessageSizeTooLargeError)",
            "paused": "it waits for its topic paused-topic",
            "pending": "it is pending",
            "delivered": "topic orders, partition 3, offset 7",
            "replaying": "is being replayed already (action 1, by ",
            "discarded": "was discarded (action 2, by ",
        }
        for state, words in told.items():
            refused = await run(database, *command, str(event[state].id), code=1)
            assert refused.stderr.startswith(f"relay: event {event[state].id} ")
            assert words in refused.stderr
            assert refused.stderr.endswith("; nothing was changed\n")
        together = await run(database, *command, *(str(each.id) for each in event.values()), "999", code=1)
        lines = together.stderr.splitlines()
        assert "nothing was changed" in lines[0]
        assert [line.split()[1] for line in lines[1:-1]] == [str(event[state].id) for state in told]
        assert "there is no event 999" in lines[-1]
        assert await states(connection) == before
        assert await connection.fetchval("SELECT count(*) FROM outbox.action") == actions


async def test_an_event_whose_segment_was_pruned_is_told_from_one_that_never_was(database: str) -> None:
    async with migrated(database) as connection:
        await deliver(connection, await add(connection))
        await connection.execute("SELECT outbox.add_segment(5000001, 5000101), setval('outbox.event_id', 5000000)")
        failed = await add_failed(connection)
        await connection.execute("UPDATE outbox.lane SET position = 5000001")
        assert await connection.fetchval("SELECT outbox.drop_segment(1)")
        for command in ("replay", "show"):
            pruned = await run(database, command, "1", code=1)
            assert "there is no event 1: events below 5000001 have been pruned" in pruned.stderr
        assert "the newest id is 5000001" in (await run(database, "replay", "5000002", code=1)).stderr
        await connection.execute("SELECT setval('outbox.event_id', 5000050)")
        assert "its segment may have been pruned" in (await run(database, "replay", "5000002", code=1)).stderr
        assert (await run(database, "replay", str(failed.id))).exit_code == 0


async def test_a_replay_is_recorded_with_who_and_why_while_no_relay_runs(database: str) -> None:
    async with migrated(database) as connection:
        event = await add_failed(connection)
        done = await run(database, "replay", str(event.id), "--reason", "limit raised", "--wait")
        assert done.output == (
            "the replay of 1 event is recorded as action 1; no replica is alive now, so it happens when a relay runs\n"
        )
        assert await states(connection) == {event.id: "replaying"}
        row = await connection.fetchrow("SELECT requested_by, reason, session_user AS role FROM outbox.action")
        assert row["requested_by"].startswith(f"{row['role']} (")
        assert "@" in row["requested_by"]
        assert row["reason"] == "limit raised"


async def test_a_filter_replays_what_it_matches(database: str) -> None:
    async with migrated(database) as connection:
        mine = [await add_failed(connection, f"k{number}".encode(), "orders.placed") for number in range(3)]
        other = await add_failed(connection, b"k", "mail")
        report = await run_json(database, "replay", "--topic", "orders.*", "--since", "2h")
        assert (report["events"], report["action"], report["live_replicas"]) == (3, 1, 0)
        assert await states(connection) == {event.id: "replaying" for event in mine} | {other.id: "failed"}
        recorded = json.loads(await connection.fetchval("SELECT filter FROM outbox.action"))
        assert recorded["topic"] == "orders.*"
        assert recorded["since"] == report["filter"]["since"]


async def test_a_dry_run_shows_what_would_happen_and_changes_nothing(database: str) -> None:
    async with migrated(database) as connection:
        for number in range(30):
            await add_failed(connection, f"k{number}".encode())
        await add_held(connection, b"k1")
        await add_failed(connection, b"s", policy="skip")
        before = await states(connection)
        shown = (await run(database, "replay", "--all", "--dry-run")).output
        assert "the 1 event held back behind them follows, in order" in shown
        assert "! 1 event failed under skip or dead-letter" in shown
        assert "31 events would be published again" in shown
        assert shown.endswith("dry run: nothing was changed\n")
        # No reason is needed to look.
        assert "31 events would be given up for good" in (await run(database, "discard", "--all", "--dry-run")).output
        report = await run_json(database, "discard", "--all", "--dry-run")
        assert (report["dry_run"], report["events"], report["held_back"], report["action"]) == (True, 31, 1, None)
        assert await states(connection) == before
        assert await connection.fetchval("SELECT count(*) FROM outbox.action") == 0


async def test_many_events_take_a_yes(database: str) -> None:
    async with migrated(database) as connection:
        for number in range(deciding.CONFIRM_ABOVE + 1):
            await add_failed(connection, f"k{number}".encode())
        refused = await run(database, "replay", "--all", code=1)
        assert "more than 20" in refused.stderr
        assert "--yes" in refused.stderr
        assert set((await states(connection)).values()) == {"failed"}
        await run(database, "discard", "--all", "--reason", "x", "--yes")
        assert set((await states(connection)).values()) == {"discarded"}


async def test_a_filter_that_matches_nothing_is_refused(database: str) -> None:
    async with migrated(database) as connection:
        await add_failed(connection, b"a", state="replaying")
        await add_failed(connection, b"b", state="discarded")
        nothing = await run(database, "replay", "--topic", "nope", code=1)
        assert nothing.stderr == "relay: no failed or retrying event matches (topic nope); nothing was changed\n"
        second = await run(database, "replay", "--all", code=1)
        assert "1 event being replayed already, see `relay failed actions`; 1 event discarded earlier" in second.stderr
        await run(database, "discard", "--all", "--reason", "x", "--dry-run", code=1)
        assert await connection.fetchval("SELECT count(*) FROM outbox.action") == 0


async def test_of_two_people_at_once_one_does_it_and_the_other_hears_of_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with migrated(database) as connection:
        event = await add_failed(connection)
        looked = replay_or_discard._look

        async def look_then_somebody_else(request: Any) -> Any:
            preview = await looked(request)
            await connected_replay(database)
            return preview

        for arguments in ([str(event.id)], ["--topic", "orders"]):
            await connection.execute("UPDATE outbox.failure SET state = 'failed', action = NULL")
            with monkeypatch.context() as patch:
                patch.setattr(replay_or_discard, "_look", look_then_somebody_else)
                refused = await run(database, "replay", *arguments, code=1)
            assert "being replayed already" in refused.stderr
            assert "nothing was changed" in refused.stderr
        assert await connection.fetchval("SELECT count(*) FROM outbox.action") == 0


async def connected_replay(dsn: str) -> None:
    """Mark everything for replay, as somebody else does."""
    async with connected(dsn) as connection:
        await connection.execute("UPDATE outbox.failure SET state = 'replaying'")


async def test_a_discard_lets_go_what_was_held_back(database: str) -> None:
    async with migrated(database) as connection:
        event = await add_failed(connection)
        await add_held(connection)
        done = await run(database, "discard", str(event.id), "--reason", "garbage, agreed with the mail team")
        assert done.output == (
            "1 event discarded, as action 1; the 1 event held back behind it goes on"
            " when a relay runs: no replica is alive now\n"
        )
        assert await states(connection) == {event.id: "discarded"}
        shown = (await run(database, "show", str(event.id))).output
        assert "garbage, agreed with the mail team (done)" in shown
        assert "holds back   nothing" in shown


async def finish(dsn: str, work: Callable[[Any, Event], Any]) -> None:
    """Do with every event that is being replayed what a relay would; return when there was one and none is left."""
    async with connected(dsn) as connection:
        done = 0
        while True:
            rows = await connection.fetch(
                "SELECT lane, id, topic, key FROM outbox.failure WHERE state = 'replaying' ORDER BY id LIMIT 1"
            )
            if not rows and done:
                return
            for row in rows:
                await work(connection, Event(*row))
                done += 1
            await asyncio.sleep(0)


async def test_waiting_ends_with_the_replay(database: str) -> None:
    async with migrated(database) as connection:
        await add_replica(connection)
        for number in range(10):
            await add_failed(connection, f"k{number}".encode())
        waits, _ = await asyncio.gather(run(database, "replay", "--all", "--wait"), finish(database, deliver))
        assert waits.output == "the replay of 10 events is recorded as action 1\nall 10 delivered\n"
        assert await connection.fetchval("SELECT finished_at IS NOT NULL FROM outbox.action")


async def test_waiting_for_what_fails_again_ends_with_1(database: str) -> None:
    async with migrated(database) as connection:
        await add_replica(connection)
        for number in range(3):
            await add_failed(connection, f"k{number}".encode())

        async def some(connection: Any, event: Event) -> None:
            await (fail_again if event.key == b"k1" else deliver)(connection, event)

        waits, _ = await asyncio.gather(
            run(database, "replay", "--all", "--wait", "--json", code=1), finish(database, some)
        )
        report = json.loads(waits.stdout)
        assert (report["events"], report["delivered"], report["failed"], report["to_go"]) == (3, 2, 1, 0)
        assert "2 delivered, 1 failed again; see `relay failed list`" in waits.stderr


async def test_waiting_ends_when_the_last_replica_is_gone(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "_PATIENCE", 0.0)
    async with migrated(database) as connection:
        await add_replica(connection)
        await add_failed(connection)

        async def recorded() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM outbox.action"))

        async def end_lease() -> None:
            await until("the replay is recorded", recorded)
            await connection.execute("UPDATE outbox.replica SET lease_expires_at = clock_timestamp()")

        ended, _ = await asyncio.gather(run(database, "replay", "--all", "--wait"), end_lease())
        assert "0 delivered, 1 to go, and no replica is alive any more" in ended.output


async def test_without_a_terminal_nobody_waits_unless_asked_to(database: str) -> None:
    async with migrated(database) as connection:
        await add_replica(connection)
        await add_failed(connection)
        done = await run(database, "replay", "--all")
        assert done.output == "the replay of 1 event is recorded as action 1; follow it with: relay failed actions\n"


async def test_on_a_terminal_a_person_is_asked_and_can_say_no(database: str) -> None:
    async with migrated(database) as connection:
        for number in range(30):
            await add_failed(connection, f"k{number}".encode())
        for no in ("n\n", None):
            with Terminal(database, "replay", "--all") as terminal:
                await terminal.read_until("Replay 30 events? [y/N]: ")
                assert "30 events would be published again" in terminal.shown
                if no:
                    terminal.answer(no)
                else:
                    terminal.interrupt_at_prompt()
                assert await terminal.ended() == 1
        assert set((await states(connection)).values()) == {"failed"}


async def test_a_yes_is_for_what_was_seen(database: str) -> None:
    async with migrated(database) as connection:
        seen = [await add_failed(connection, f"k{number}".encode()) for number in range(30)]
        with Terminal(database, "discard", "--all", "--reason", "garbage") as terminal:
            await terminal.read_until("Discard 30 events? [y/N]: ")
            since = await add_failed(connection, b"since", seconds_ago=0)
            await deliver(connection, seen[0])
            terminal.answer("y\n")
            assert await terminal.ended() == 0
            assert "30 matched in the preview, 29 still matched" in terminal.shown
            assert "29 events discarded, as action 1" in terminal.shown
        assert await states(connection) == {event.id: "discarded" for event in seen[1:]} | {since.id: "failed"}
        assert json.loads(await connection.fetchval("SELECT filter FROM outbox.action")) == {"all": True}


async def test_on_a_terminal_progress_is_shown_until_the_end(database: str) -> None:
    async with migrated(database) as connection:
        await add_replica(connection)
        events = [await add_failed(connection, f"k{number}".encode()) for number in range(4)]
        with Terminal(database, "replay", *(str(event.id) for event in events)) as terminal:
            await terminal.read_until("0/4")
            await deliver(connection, events[0])
            await terminal.read_until("1/4")
            for event in events[1:]:
                await deliver(connection, event)
            assert await terminal.ended() == 0
            assert "4/4" in terminal.shown
            assert "all 4 delivered" in terminal.shown


async def test_ctrl_c_ends_the_waiting_and_not_the_replay(database: str) -> None:
    async with migrated(database) as connection:
        await add_replica(connection)
        event = await add_failed(connection)
        with Terminal(database, "replay", str(event.id)) as terminal:
            await terminal.read_until("0/1")
            terminal.interrupt()
            assert await terminal.ended() == 130
            assert "action 1 continues without this command; see `relay failed actions`" in terminal.shown
            assert "Traceback" not in terminal.shown
        assert await states(connection) == {event.id: "replaying"}


async def test_the_actions_tell_who_did_what_when_and_why(database: str) -> None:
    async with migrated(database) as connection:
        assert "nobody has replayed or discarded anything" in (await run(database, "actions")).output
        first, second = await add_failed(connection, b"a"), await add_failed(connection, b"b")
        await run(database, "replay", "--topic", "orders", "--reason", "limit raised")
        await deliver(connection, first)
        under_way = (await run(database, "actions")).output
        assert "1 delivered, 1 to go" in under_way
        assert "no replica is alive: the rest is published once a relay runs" in under_way
        await fail_again(connection, second)
        await run(database, "discard", str(second.id), "--reason", "garbage")
        output = (await run(database, "actions")).output
        newest, oldest = output.splitlines()[1:3]
        assert "replay topic orders" in oldest
        assert "limit raised" in oldest
        assert "1 delivered, 1 failed again" in oldest
        assert f"discard ids {second.id}" in newest
        page = await run_json(database, "actions", "--limit", "1")
        assert [action["kind"] for action in page["actions"]] == ["discard"]
        rest = await run_json(database, "actions", "--before", str(page["actions"][0]["id"]))
        (replay,) = rest["actions"]
        assert (replay["events"], replay["done"], replay["failed"], replay["finished"]) == (2, 1, 1, True)


async def test_without_an_outbox_or_a_server_it_says_what_to_do(postgres: servers.Postgres) -> None:
    database = postgres.dsn
    for command in (["list"], ["show", "1"], ["replay", "--all"], ["actions"]):
        assert "run `relay migrate`" in (await run(database, *command, code=1)).stderr
        away = await run("postgresql://relay@127.0.0.1:1/nowhere", *command, code=3)
        assert away.stderr.startswith("relay: PostgreSQL cannot be reached")


def test_nothing_of_kafka_or_the_service_is_loaded() -> None:
    script = (
        "import sys, relay.cli.failed\n"
        "assert not {'aiokafka', 'aiohttp', 'relay.run.service', 'relay.kafka', 'relay.stages'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
