"""`relay replay`: delivered events are published again on purpose, for a consumer that lost data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from relay.cli.failed.filters import parse_key, parse_time
from relay.cli.replay.request import ask
from relay.cli.replay.seen import cancel, list_replays, show, watch

if TYPE_CHECKING:
    from collections.abc import Callable

EPILOG = """\b
Exit codes:
  0  done, or recorded
  1  refused or nothing matched, and nothing was changed; or, when waiting, it was cancelled or Kafka refused events
  2  the command or the settings are wrong
  3  PostgreSQL cannot be reached
"""


def _read(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    def read(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return read


_RATE = click.FloatRange(0.01, 1e9)


@click.group(name="replay", invoke_without_command=True, epilog=EPILOG, subcommand_metavar="[COMMAND]")
@click.option("--topic", metavar="TOPIC", help="Of this topic. Required.")
@click.option(
    "--since", callback=_read(parse_time), metavar="TIME", help="Delivered at or after: 2h (ago), or a date. Required."
)
@click.option(
    "--until",
    callback=_read(parse_time),
    metavar="TIME",
    help="Delivered at or before: 30m (ago), or a date; else now.",
)
@click.option("--key", callback=_read(parse_key), metavar="KEY", help="Only of this key: text, or hex: and digits.")
@click.option("--rate", type=_RATE, metavar="N", help="At most N events per second, of all replicas together.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be published again.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept with who and when.")
@click.option("--wait/--no-wait", default=None, help="Wait for the end.  [default: wait on a terminal]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Publish delivered events again, for a consumer that lost data.

    \b
      relay replay --topic orders --since 2h --dry-run
      relay replay --topic orders --since 2026-05-17T03:10 --until 2026-05-17T04:00 --rate 500

    They go to their topic once more, where EVERY consumer gets them again, those of a key in their old order: with
    their own headers and ids, the header outbox-replay, and the time of publishing as their timestamp. Live events go
    on meanwhile, and come first when there is no room for both.

    Needs only PostgreSQL: what you ask for is recorded at once, and happens when a relay runs. A replay that is
    interrupted goes on by itself; what was on its way then is published once more. (For events that could not be
    published see `relay failed replay`.)
    """
    if context.invoked_subcommand is None:
        ask(**options)
    elif any(value for value in options.values()):
        raise click.UsageError(f"{context.invoked_subcommand} comes without the options of a request")


for each in (list_replays, show, watch, cancel):
    each.epilog = EPILOG
    command.add_command(each)
