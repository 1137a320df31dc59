"""Real servers for every kind of test: shared ones for the session, own ones for tests that break them."""

from __future__ import annotations

import os
import secrets
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.support.servers import shared as servers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from relay.local import KafkaServer, PostgresServer

# `nohup` and `&` have it ignored, here and in every child, and then no Ctrl-C of a test would be heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast an example is says only how busy the machine is.
settings.register_profile("relay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relay")


LEFT_OUT = {
    "slow": "slow tests (crashes, outages, replicas, upgrades)",
    "proof": "proofs (image, chart, release, benchmarks, every client, long searches)",
}
"""The marks of tests that a run of everything leaves out, and what each stands for."""

WORKERS = 2
"""Processes of a run of everything, each with servers of its own; -n says otherwise, -n 0 runs all in this process."""

_NOT_RUN = pytest.StashKey[dict[str, int]]()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run everything side by side: the tests wait for servers more than they work."""
    if hasattr(config, "workerinput") or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    if _names_none(config) and getattr(config.option, "numprocesses", 0) is None and not config.option.usepdb:
        config.option.numprocesses = WORKERS
        # Each process takes half of the files in order, so that few tests of a module are apart from the others.
        config.option.dist = "worksteal"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests and proofs out of a run of everything, or of a folder, unless a file, -k or -m names them."""
    if not _names_none(config):
        return
    marks = {item: next((mark for mark in LEFT_OUT if item.get_closest_marker(mark)), None) for item in items}
    config.stash[_NOT_RUN] = dict(Counter(mark for mark in marks.values() if mark))
    config.hook.pytest_deselected(items=[item for item, mark in marks.items() if mark])
    items[:] = [item for item, mark in marks.items() if not mark]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist what was asked for: it gets the tests' paths as if somebody had named them."""
    node.workerinput["names_none"] = _names_none(node.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that others of pytest-xdist work for what this one has left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = session.config.stash.get(_NOT_RUN, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a process of pytest-xdist has left out; each has left out the same."""
    if found := getattr(node, "workeroutput", {}).get("not_run"):
        node.config.stash[_NOT_RUN] = found


def _names_none(config: pytest.Config) -> bool:
    """Whether no file, no word of a name and no mark is given: everything is asked for, or all of a folder."""
    if hasattr(config, "workerinput"):
        return bool(config.workerinput["names_none"])
    chosen = config.option.markexpr or config.option.keyword
    return not chosen and all(Path(config.invocation_params.dir, each).is_dir() for each in config.args)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let a report of hostile text through to the process that prints it, which takes UTF-8 only."""
    return _encodable((yield))


def _encodable(told: Any) -> Any:
    if isinstance(told, str):
        return told.encode(errors="backslashreplace").decode()
    if isinstance(told, dict):
        return {_encodable(key): _encodable(value) for key, value in told.items()}
    return type(told)(map(_encodable, told)) if isinstance(told, list | tuple) else told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was not run, and how it is run."""
    for mark, number in sorted(config.stash.get(_NOT_RUN, {}).items(), reverse=True):
        terminalreporter.write_line(
            f"{number} {LEFT_OUT[mark]} were not run. Run them with: .venv/bin/pytest -m {mark} -n {WORKERS}"
        )


class MakeTopic(Protocol):
    """Creates a topic with a fresh name and returns the name."""

    def __call__(self, partitions: int = 1, **configs: object) -> str: ...


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    """Where the session's own servers keep their data."""
    with servers.server_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres(session_folder: Path) -> Iterator[servers.Postgres]:
    """The session's PostgreSQL; tests must not stop or reconfigure it."""
    with servers.postgres_for_the_session(session_folder) as server:
        yield server


@pytest.fixture(scope="session")
def kafka(session_folder: Path) -> Iterator[servers.Kafka]:
    """The session's Kafka; tests must not stop or reconfigure it."""
    given = os.environ.get("RELAY_TEST_KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield servers.GivenKafka(given)
    else:
        with servers.own_kafka_server(session_folder) as server:
            servers.wait_for_coordinator(server)
            yield server


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """Where this test's own servers keep their data."""
    with servers.server_folder() as folder:
        yield folder


@pytest.fixture
def own_postgres(own_folder: Path) -> Iterator[PostgresServer]:
    """A running PostgreSQL of this test alone, to stop, kill, pause and restart."""
    with servers.own_postgres_server(own_folder) as server:
        yield server


@pytest.fixture
def own_kafka(own_folder: Path) -> Iterator[KafkaServer]:
    """A running Kafka of this test alone, to stop, kill, pause and restart."""
    with servers.own_kafka_server(own_folder) as server:
        servers.wait_for_coordinator(server)
        yield server


@pytest.fixture(scope="session")
def _fragile_kafka() -> Iterator[KafkaServer]:
    with servers.server_folder() as folder, servers.own_kafka_server(folder) as server:
        servers.wait_for_coordinator(server)
        yield server


@pytest.fixture
def fragile_kafka(_fragile_kafka: KafkaServer) -> Iterator[KafkaServer]:
    """A running Kafka to pause, kill and restart: not the session's, but the next such test finds it running."""
    yield _fragile_kafka
    _fragile_kafka.resume()
    _fragile_kafka.start()
    servers.wait_until_it_takes_topics(_fragile_kafka)


@pytest.fixture
def with_outbox() -> None:
    """Asks that the `database` has an outbox from the beginning, which is faster than to migrate it."""


@pytest.fixture
def database(request: pytest.FixtureRequest, postgres: servers.Postgres) -> Iterator[str]:
    """The DSN of a database, dropped after the test. It is empty unless somebody needs `with_outbox`."""
    create = servers.create_outbox if "with_outbox" in request.fixturenames else servers.create_database
    name = create(postgres)
    yield servers.dsn_of(postgres, name)
    servers.drop_database(postgres, name)


@pytest.fixture
def sql_ascii(postgres: servers.Postgres) -> Iterator[str]:
    """The DSN of an empty database that takes any byte as text, dropped after the test."""
    name = servers.create_database(postgres, "ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    yield servers.dsn_of(postgres, name)
    servers.drop_database(postgres, name)


@pytest.fixture
def make_topic(kafka: servers.Kafka) -> MakeTopic:
    """Creates fresh topics: `make_topic(3, **{"max.message.bytes": 1000})` returns the name."""

    def make(partitions: int = 1, **configs: object) -> str:
        name = f"test-{secrets.token_hex(6)}"
        servers.create_topic_now(kafka, name, partitions, configs)
        return name

    return make


@pytest.fixture
def topic(make_topic: MakeTopic) -> str:
    """A fresh topic with one partition."""
    return make_topic()
