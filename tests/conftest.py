"""Real servers for every kind of test: shared ones for the session, own ones for tests that break them."""

from __future__ import annotations

import os
import secrets
import signal
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.support.servers import shared as servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relay.local import KafkaServer, PostgresServer

# `nohup` and `&` have it ignored, here and in every child, and then no Ctrl-C of a test would be heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast an example is says only how busy the machine is.
settings.register_profile("relay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relay")


_NOT_RUN = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out of a run of everything. A test that is named, by its file or by -m, is run."""
    if not _of_everything(config):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.stash[_NOT_RUN] = len(slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist what was asked for: it gets the tests' paths as if somebody had named them."""
    node.workerinput["of_everything"] = _of_everything(node.config)


def _of_everything(config: pytest.Config) -> bool:
    """Whether no file and no mark is named."""
    if hasattr(config, "workerinput"):
        return bool(config.workerinput["of_everything"])
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was not run, and how it is run."""
    number = config.stash.get(_NOT_RUN, 0)
    if number:
        terminalreporter.write_line(
            f"{number} slow tests were not run (crashes, outages, replicas, benchmarks). Run them with:"
            " .venv/bin/pytest -m slow -n 2"
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
        yield server


@pytest.fixture(scope="session")
def _fragile_kafka() -> Iterator[KafkaServer]:
    with servers.server_folder() as folder, servers.own_kafka_server(folder) as server:
        yield server


@pytest.fixture
def fragile_kafka(_fragile_kafka: KafkaServer) -> Iterator[KafkaServer]:
    """A running Kafka to pause, kill and restart: not the session's, but the next such test finds it running."""
    yield _fragile_kafka
    _fragile_kafka.resume()
    _fragile_kafka.start()
    servers.wait_until_it_takes_topics(_fragile_kafka)


@pytest.fixture
def database(postgres: servers.Postgres) -> Iterator[str]:
    """The DSN of an empty database, dropped after the test."""
    name = servers.create_database(postgres)
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
