"""`relay demo`: see it work."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.cli.show.console import PlainConsole
    from relay.demo.summary import Summary
    from relay.local import KafkaServer, PostgresServer

INTERRUPTED = 130
KEEP_LOOK_SECONDS = 0.2


def _new_folder(_: click.Context, __: click.Parameter, folder: Path | None) -> Path | None:
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise click.BadParameter(f"{folder} is not empty; choose a new folder: the demo begins with empty servers")
    return folder


@click.command("demo")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 86_400),
    default=30,
    show_default=True,
    help="Number of seconds to write for.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 100_000, min_open=True),
    default=1_500,
    show_default=True,
    help="Number of events per second that the writers aim at.",
)
@click.option("--keep", is_flag=True, help="Keep the servers running afterwards, until Ctrl-C.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_new_folder,
    help="New folder for the servers' data and all logs.  [default: a temporary one]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and the progress to stderr.")
@click.pass_context
def command(
    context: click.Context, seconds: float, rate: float, keep: bool, folder: Path | None, as_json: bool
) -> None:
    """See it work: real PostgreSQL, real Kafka, writers, the relay, and a consumer that checks every event.

    Needs only this package with its extra "local", and the network the first time. Ends after --seconds or
    Ctrl-C, then reports how many events were committed, delivered, lost and out of order. Exits with 0 only if no event
    was lost or out of order.
    """
    # Imported here, so that `relay demo --help` answers at once.
    from relay.cli.show.console import PlainConsole
    from relay.cli.show.lines import say

    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no arrows gets question marks instead of a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    console = PlainConsole(stderr=as_json)
    _signals_interrupt()
    try:
        summary = _demo(console, seconds, rate, folder, keep=keep, as_json=as_json)
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("relay: interrupted", err=True)
        context.exit(INTERRUPTED)
    context.exit(0 if summary.ok else 1)


def _demo(
    console: PlainConsole, seconds: float, rate: float, chosen: Path | None, *, keep: bool, as_json: bool
) -> Summary:
    from relay.cli.show.lines import say, say_json
    from relay.demo.display import display_on
    from relay.demo.folder import demo_folder
    from relay.demo.folder import keep as keep_folder

    with demo_folder(chosen) as folder, ExitStack() as running:
        with display_on(console) as display:
            # Only now, because they take a moment, and there is something to read meanwhile.
            from relay.demo.run import Plan, demonstrate
            from relay.demo.summary import page
            from relay.local.pair import local_servers

            postgres, kafka = running.enter_context(local_servers(folder, say=display.step))
            plan = Plan(seconds, rate, folder, postgres.dsn, kafka.bootstrap_servers)
            summary = asyncio.run(demonstrate(plan, display))
        # The loop has put its own in their place.
        _signals_interrupt()
        if as_json:
            places = {"postgres_dsn": postgres.dsn, "kafka_bootstrap_servers": kafka.bootstrap_servers}
            say_json(summary.as_dict() | (places if keep else {}), indent=None)
        else:
            console.print(page(summary))
        if not summary.ok:
            keep_folder(folder)
            say(f"relay: everything is kept in {folder}; see it with: {_program()} local --folder {folder}", err=True)
        if keep:
            if not as_json:
                say("\n" + _how_to_go_on(postgres, kafka))
            # The result is known: what comes now does not change the exit code.
            with suppress(KeyboardInterrupt):
                _keep(console.print, postgres, kafka)
    return summary


def _keep(say: Callable[[str], object], *servers: PostgresServer | KafkaServer) -> NoReturn:
    """Leave the servers up. The end is Ctrl-C, or LocalServerError when one of them ends by itself."""
    from relay.local import LocalServerError

    say("The servers keep running until Ctrl-C.")
    while True:
        for server in servers:
            if not server.running:
                raise LocalServerError(f"{server.name} ended unexpectedly; see {server.log}")
        time.sleep(KEEP_LOOK_SECONDS)


def _how_to_go_on(postgres: PostgresServer, kafka: KafkaServer) -> str:
    return (
        "To continue with these servers, run in another terminal:\n"
        f"export RELAY_POSTGRES_DSN={shlex.quote(postgres.dsn)}\n"
        f"export RELAY_KAFKA_BOOTSTRAP_SERVERS={shlex.quote(kafka.bootstrap_servers)}\n"
        f"{_program()} status    # what is pending and what was delivered\n"
        f"{_program()} run       # relays what you enqueue for the topic orders, until Ctrl-C\n"
    )


def _program() -> str:
    """How to call this command in another terminal."""
    found = shutil.which("relay")
    if found is not None and Path(found).resolve() == Path(sys.argv[0]).resolve():
        return "relay"
    return f"{shlex.quote(str(Path(sys.executable).absolute()))} -m relay"


def _signals_interrupt() -> None:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: everything that runs is ended in good order."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
