"""The command `relay`. Each subcommand is a module or package here, which exports `command`.

They parse and show; what is asked of an outbox is in `relay.admin`.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from relay import __version__
from relay.cli.lazy import LazyGroup
from relay.cli.show.lines import never_fail_to_encode, say
from relay.errors import RelayError
from relay.text import plain

if TYPE_CHECKING:
    from types import TracebackType

COMMANDS = {
    "demo": "See it work: real servers, writers, the relay, and a consumer that checks.",
    "local": "Start a PostgreSQL and a Kafka of your own, without Docker.",
    "migrate": "Create the outbox in your database, or update it.",
    "run": "Relay events from PostgreSQL to Kafka until stopped.",
    "status": "Show pending events, replicas and their lanes, and problems.",
    "lanes": "Show which replica owns which lanes; move lanes for maintenance.",
    "topics": "Show what waits for each topic, what is paused and why; pause a topic.",
    "failed": "List events that could not be published; replay or discard them.",
    "scheduled": "List events that are to come; cancel them.",
    "replay": "Publish delivered events again, for a consumer that lost data.",
    "export": "Write events as lines of JSON or CSV.",
    "erase": "Erase payloads and headers of events; their receipts stay.",
    "verify": "Compare what Kafka has with the outbox: lost, repeated, out of order?",
    "prune": "Drop old segments now, or show what would be dropped.",
    "doctor": "Look at everything the relay rests on; say what is wrong and what to do.",
    "config": "Show the settings in effect, and where each comes from.",
    "health": "Ask a relay on this machine whether it is ready: for probes.",
    "version": "Show version, commit, schema, and the packages it runs on.",
}
"""Subcommands in the order in which a newcomer meets them, with their help."""

_INTERRUPTED = 130
"""What shells report for a program ended by Ctrl-C."""


class Program(LazyGroup):
    """The program `relay`: its errors are one line and an exit code, and fit for a terminal."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; the traceback of a fault of ours is neutralised as well."""
        never_fail_to_encode()
        if kwargs.get("standalone_mode", True):
            sys.excepthook = _last_words
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments of the program itself."""
        try:
            return super().make_context(*args, **kwargs)
        except click.ClickException as error:
            raise _neutral(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; turn what it raises on purpose into a line and an exit code."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            raise _neutral(error) from None
        except RelayError as error:
            _end(ctx, error)
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)
        except BaseExceptionGroup as group:
            # A TaskGroup wraps what its tasks raise. Bugs among it must keep their traceback.
            ours, others = group.split(RelayError)
            if ours is None or others is not None:
                raise
            _end(ctx, _first(ours))


def _end(ctx: click.Context, error: RelayError) -> NoReturn:
    # A further line is indented, so that none can be mistaken for another message, whoever wrote it.
    first, *others = str(error).splitlines() or [""]
    say("\n".join([f"relay: {plain(first)}", *(f"  {plain(other.strip())}" for other in others)]), err=True)
    ctx.exit(error.exit_code)


def _neutral(error: click.ClickException) -> click.ClickException:
    """Neutralise a message of click's, which has arguments as they are; a script may have them from anywhere."""
    if isinstance(error, NoArgsIsHelpError):
        return error
    text = plain(error.format_message(), also="\n")
    return click.UsageError(text, error.ctx) if isinstance(error, click.UsageError) else click.ClickException(text)


def _last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write the traceback of a fault of ours: messages in it may come from anybody."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), err=True)


def _first(group: BaseExceptionGroup[RelayError]) -> RelayError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


@click.group(
    cls=Program,
    table={name: (f"{__name__}.{name}:command", text) for name, text in COMMANDS.items()},
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="To see it work, run: relay demo",
)
@click.version_option(__version__, prog_name="relay", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Relay events from a PostgreSQL outbox to Kafka, for each key in the order of commits.

    Your service writes an event into the outbox in the same transaction as its change. The relay publishes
    every committed event to Kafka and keeps a receipt that says where it went.

    Settings are environment variables that begin with RELAY_; "relay config --reference" lists all of them.
    """
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())
