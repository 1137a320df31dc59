"""`relay export` on a real server: every event once, in any state, in whole lines, whatever is in them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.keys import key_bytes
from relay.postgres.admin.exports import PART_BYTES, WINDOW
from tests.support.hostile import NASTY
from tests.support.postgres.failures import add_failed, add_held
from tests.support.postgres.outbox import add_event, connected
from tests.support.postgres.receipts import add_receipt
from tests.support.postgres.writers import fill
from tests.support.relay.process import environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg


class Desk:
    """An outbox and the command."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def plant(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> None:
        """Do something to the outbox."""

        async def planted() -> None:
            async with connected(self.dsn) as connection:
                await work(connection)

        asyncio.run(planted())

    def __call__(self, *arguments: str) -> Result:
        """Run the command."""
        return CliRunner().invoke(main, ["export", *arguments], env={"RELAY_POSTGRES_DSN": self.dsn})

    def events(self, *arguments: str) -> list[dict[str, Any]]:
        """The events that it writes."""
        shown = self(*arguments)
        assert shown.exit_code == 0, shown.output
        return [json.loads(line) for line in shown.stdout.splitlines()]

    def ids(self, *arguments: str) -> list[int]:
        """Their ids."""
        return [event["id"] for event in self.events(*arguments)]


@pytest.fixture
def desk(outbox: str) -> Desk:
    return Desk(outbox)


async def _one_in_each_state(connection: asyncpg.Connection) -> None:
    await add_event(connection, "a", payload='{"n": 1}', headers={"h": "v"})
    await add_receipt(connection, 1, partition=3, offset=7)
    await add_event(connection, "b", payload=b"\xff\x00")
    await add_failed(connection, b"c", "orders")
    await add_held(connection, b"c", "orders")
    await add_event(connection, None, payload=None)
    await connection.execute(
        "INSERT INTO outbox.scheduled (topic, key, payload, deliver_at, timer)"
        " VALUES ('orders', 's', 'later', now() + interval '1 h', 'alarm')"
    )


def test_events_in_every_state_are_written_with_all_that_is_known_of_them(desk: Desk) -> None:
    desk.plant(_one_in_each_state)
    found = desk.events()
    states = [event["state"] for event in found]
    assert states == ["delivered", "pending", "failed", "held", "pending", "scheduled"]
    first, second, failed, _, keyless, scheduled = found
    assert first["headers"] == {"h": "v"}
    assert first["payload"] == {"encoding": "utf-8", "data": '{"n": 1}'}
    assert (first["kafka_partition"], first["kafka_offset"]) == (3, 7)
    assert second["payload"] == {"encoding": "base64", "data": "/wA="}
    assert failed["error"]
    assert (keyless["key"], keyless["payload"]) == (None, None)
    assert (scheduled["id"], scheduled["timer"]) == (None, "alarm")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--state", "delivered"], [1]),
        (["--state", "pending"], [2, 5]),
        (["--state", "failed", "--state", "held"], [3, 4]),
        (["--state", "scheduled"], [None]),
        (["--state", "discarded"], []),
        (["--key", "c"], [3, 4]),
        (["--topic", "ord*"], [1, 2, 3, 4, 5, None]),
        (["--topic", "mail"], []),
        (["--since", "1h"], [1, 2, 3, 4, 5, None]),
        (["--until", "1h"], []),
        (["--after", "4"], [5, None]),
        (["--after", "00000000-0000-0000-0000-000000000001"], [None]),
    ],
)
def test_filters_choose(desk: Desk, arguments: list[str], expected: list[int | None]) -> None:
    desk.plant(_one_in_each_state)
    assert desk.ids(*arguments) == expected


def test_csv_has_one_line_for_each_event_and_the_same_in_it(desk: Desk) -> None:
    async def plant(connection: asyncpg.Connection) -> None:
        await _one_in_each_state(connection)
        await add_event(connection, "lines", payload='two\nlines, "quoted"')

    desk.plant(plant)
    shown = desk("--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert len(shown.splitlines()) == len(rows) + 1 == 8
    events = desk.events()
    assert [row["event_id"] for row in rows] == [event["event_id"] for event in events]
    assert [row["state"] for row in rows] == [event["state"] for event in events]
    assert key_bytes(rows[5]["payload"]) == b'two\nlines, "quoted"'
    assert key_bytes(rows[1]["payload"]) == b"\xff\x00"
    assert json.loads(rows[0]["headers"]) == {"h": "v"}


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_is_exported_exactly_and_harmlessly(desk: Desk, text: str) -> None:
    if "\0" in text:
        text = text.replace("\0", "")

    async def plant(connection: asyncpg.Connection) -> None:
        await add_event(connection, text, payload=text, headers={"h": text})

    desk.plant(plant)
    for form in ("ndjson", "csv"):
        shown = desk("--format", form)
        assert shown.exit_code == 0
        assert len(shown.stdout.splitlines()) == (1 if form == "ndjson" else 2)
    (event,) = desk.events()
    assert event["payload"]["data"] == text
    assert event["headers"] == {"h": text}
    assert key_bytes(event["key"]) == text.encode()
    assert desk().stdout.isascii()


async def _many(connection: asyncpg.Connection) -> None:
    """Events of very different sizes, with gaps between their ids."""
    await fill(connection, "orders", 3_000)
    await connection.execute("SELECT setval('outbox.event_id', $1)", 5 * WINDOW)
    for size in (PART_BYTES // 4, 10, 900_000, 900_000, 900_000, 5):
        await add_event(connection, payload=b"x" * size)
    await connection.execute("SELECT setval('outbox.event_id', 40000000000)")
    await fill(connection, "orders", 10)


def test_every_event_is_written_once_across_parts_and_gaps(desk: Desk) -> None:
    desk.plant(_many)
    ids = desk.ids()
    assert ids == [*range(1, 3_001), *range(5 * WINDOW + 1, 5 * WINDOW + 7), *range(40_000_000_001, 40_000_000_011)]
    assert desk.ids("--after", "2990") == ids[2_990:]


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_an_export_goes_on_behind_the_last_whole_line(desk: Desk, tmp_path: Path, form: str) -> None:
    desk.plant(_one_in_each_state)
    whole, file = tmp_path / "whole", tmp_path / "cut"
    arguments = ("--format", form, "--output")
    assert desk(*arguments, str(whole)).exit_code == 0
    data = whole.read_bytes()
    for cut in range(0, len(data) + 1, 7):
        file.write_bytes(data[:cut])
        resumed = desk(*arguments, str(file), "--resume")
        assert resumed.exit_code == 0, resumed.output
        assert file.read_bytes() == data


def test_a_file_is_not_overwritten_and_not_gone_on_with_if_it_is_another(desk: Desk, tmp_path: Path) -> None:
    desk.plant(_one_in_each_state)
    file = tmp_path / "file"
    file.write_text("something else\n")
    refused = desk("--output", str(file))
    assert refused.exit_code == 1
    assert "--resume" in refused.stderr
    refused = desk("--output", str(file), "--resume")
    assert refused.exit_code == 1
    assert "not an event" in refused.stderr
    assert file.read_text() == "something else\n"
    assert desk("--output", str(tmp_path / "none" / "file")).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--resume"], 2, "--output FILE"),
        (["--after", "x"], 2, "neither an id nor"),
        (["--since", "1h", "--until", "2h"], 2, "is not before"),
        (["--state", "lost"], 2, "lost"),
    ],
)
def test_what_cannot_be_exported_is_refused(desk: Desk, arguments: list[str], code: int, says: str) -> None:
    refused = desk(*arguments)
    assert refused.exit_code == code
    assert says in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_is_stopped_leaves_whole_lines_and_says_where_to_go_on(
    desk: Desk, number: signal.Signals
) -> None:
    desk.plant(lambda connection: fill(connection, "orders", 20_000, payload_bytes=1_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", "export"],
        env=environment(postgres_dsn=desk.dsn),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [process.stdout.readline()]
    # It is full now, with the pipe, and cannot have come to its end.
    process.send_signal(number)
    lines += process.stdout.readlines()
    said = process.stderr.read().decode()
    assert process.wait() == 130
    ids = [json.loads(line)["id"] for line in lines]
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) < 20_000
    assert f"--after {ids[-1]}" in said
    process.stdout.close()
    process.stderr.close()


def test_a_full_disk_is_said(desk: Desk) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    desk.plant(_one_in_each_state)
    with full.open("wb") as out:
        refused = subprocess.run(
            [sys.executable, "-m", "relay", "export"],
            env=environment(postgres_dsn=desk.dsn),
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert refused.returncode == 1
    assert b"Traceback" not in refused.stderr
    assert b"writing to the standard output failed" in refused.stderr
