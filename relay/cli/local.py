"""`relay local`: a PostgreSQL and a Kafka of one's own, until Ctrl-C."""

from __future__ import annotations

import json
import shlex
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from relay.local import LocalServerError
from relay.local.pair import DEFAULT_FOLDER, local_servers

if TYPE_CHECKING:
    from relay.local import KafkaServer, PostgresServer

WATCH_SECONDS = 0.2
PORT = click.IntRange(1, 65535)


@click.command("local")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Where both keep their data, ports and logs.",
)
@click.option("--postgres-port", type=PORT, help="PostgreSQL's port. [default: a free one, then always the same]")
@click.option("--kafka-port", type=PORT, help="Kafka's port. [default: a free one, then always the same]")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead of export lines.")
def command(folder: Path, postgres_port: int | None, kafka_port: int | None, as_json: bool) -> None:
    """Start a real PostgreSQL and a real Kafka, without Docker and without installing either.

    Prints the two settings that the other commands need, then runs until Ctrl-C. The data stay in the folder; delete
    it to start afresh. Both listen on 127.0.0.1 only.
    """
    # Also while they are starting: what is half up is stopped in the same way.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with local_servers(folder, postgres_port=postgres_port, kafka_port=kafka_port, say=_say) as servers:
            click.echo(_as_json(*servers) if as_json else _as_exports(*servers))
            _say("both run until Ctrl-C")
            _watch(*servers)
    except KeyboardInterrupt:
        _say(f"stopped; the data stay in {folder}")


def _as_exports(postgres: PostgresServer, kafka: KafkaServer) -> str:
    return (
        f"export RELAY_POSTGRES_DSN={shlex.quote(postgres.dsn)}\n"
        f"export RELAY_KAFKA_BOOTSTRAP_SERVERS={shlex.quote(kafka.bootstrap_servers)}"
    )


def _as_json(postgres: PostgresServer, kafka: KafkaServer) -> str:
    return json.dumps({"postgres_dsn": postgres.dsn, "kafka_bootstrap_servers": kafka.bootstrap_servers})


def _watch(*servers: PostgresServer | KafkaServer) -> NoReturn:
    """Run for ever: the end is Ctrl-C, or LocalServerError when one of them ends by itself."""
    while True:
        for server in servers:
            if not server.running:
                raise LocalServerError(f"{server.name} ended by itself; see {server.log}")
        time.sleep(WATCH_SECONDS)


def _say(text: str) -> None:
    # To stderr, so that `relay local > settings` holds the settings only.
    click.echo(text, err=True)
