"""`relay local`: a PostgreSQL and a Kafka of one's own, until Ctrl-C."""

from __future__ import annotations

import asyncio
import shlex
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from relay.cli.show.lines import say, say_json
from relay.local import LocalServerError
from relay.local.pair import DEFAULT_FOLDER, local_servers

if TYPE_CHECKING:
    from relay.local import KafkaServer, PostgresServer

WATCH_SECONDS = 0.2
PORT = click.IntRange(1, 65535)
PARTITIONS = 6
"""Of a topic that does not say how many; enough to see that keys are spread and each stays where it is."""


def _as_topics(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, int]]:
    """Take each NAME or NAME:PARTITIONS apart."""
    topics = []
    for value in values:
        name, colon, partitions = value.partition(":")
        if not name or (colon and not (partitions.isdecimal() and int(partitions))):
            raise click.BadParameter(f"{value!r} is not a topic; write a name, or a name and partitions as orders:12")
        topics.append((name, int(partitions) if colon else PARTITIONS))
    return topics


@click.command("local")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder for the data, ports and logs of both.",
)
@click.option("--postgres-port", type=PORT, help="Port of PostgreSQL.  [default: a free one, then always the same]")
@click.option("--kafka-port", type=PORT, help="Port of Kafka.  [default: a free one, then always the same]")
@click.option(
    "--topic",
    "topics",
    metavar="NAME[:PARTITIONS]",
    multiple=True,
    callback=_as_topics,
    help=f"Create this topic unless it exists, with {PARTITIONS} partitions or the given number. Can be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead of export lines.")
def command(
    folder: Path,
    postgres_port: int | None,
    kafka_port: int | None,
    topics: list[tuple[str, int]],
    as_json: bool,
) -> None:
    """Start a real PostgreSQL and a real Kafka, without Docker and without installing either.

    Prints the two settings that the other commands need, then runs until Ctrl-C. The data stay in the folder; delete
    the folder to start from scratch. Both servers listen on 127.0.0.1 only. When one of them ends by itself, the
    command stops the other one and ends with an error.

    To create another topic, stop the command and start it again with --topic.
    """
    # Also while they are starting: what is half up is stopped in the same way.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with local_servers(folder, postgres_port=postgres_port, kafka_port=kafka_port, say=_say) as servers:
            _make_topics(servers[1], topics)
            if as_json:
                say_json(_settings(*servers), indent=None)
            else:
                say(_as_exports(*servers))
            _say("both run until Ctrl-C")
            _watch(*servers)
    except KeyboardInterrupt:
        _say(f"stopped; the data stay in {folder}")


def _make_topics(kafka: KafkaServer, topics: list[tuple[str, int]]) -> None:
    if not topics:
        return
    from aiokafka.errors import KafkaError

    from relay.local import create_topic

    for name, partitions in topics:
        try:
            asyncio.run(create_topic(kafka.bootstrap_servers, name, partitions=partitions, exist_ok=True))
        except KafkaError as error:
            raise LocalServerError(f"Kafka did not create the topic {name}: {error}") from error
        _say(f"topic {name} is ready")


def _as_exports(postgres: PostgresServer, kafka: KafkaServer) -> str:
    return (
        f"export RELAY_POSTGRES_DSN={shlex.quote(postgres.dsn)}\n"
        f"export RELAY_KAFKA_BOOTSTRAP_SERVERS={shlex.quote(kafka.bootstrap_servers)}"
    )


def _settings(postgres: PostgresServer, kafka: KafkaServer) -> dict[str, str]:
    return {"postgres_dsn": postgres.dsn, "kafka_bootstrap_servers": kafka.bootstrap_servers}


def _watch(*servers: PostgresServer | KafkaServer) -> NoReturn:
    """Run for ever: the end is Ctrl-C, or LocalServerError when one of them ends by itself."""
    while True:
        for server in servers:
            if not server.running:
                raise LocalServerError(f"{server.name} ended unexpectedly; see {server.log}")
        time.sleep(WATCH_SECONDS)


def _say(text: str) -> None:
    # To stderr, so that `relay local > settings` holds the settings only.
    say(text, err=True)
