"""`relay replay`: delivered events are published again on purpose, for a consumer that lost data."""

from __future__ import annotations

from typing import Any

import click

from relay.admin.selections import parse_group
from relay.admin.topics import parse_topic_name
from relay.cli.options import (
    Bounded,
    InOrder,
    exit_codes,
    json_option,
    key_option,
    read,
    reason_option,
    since_option,
    until_option,
    wait_option,
    yes_option,
)
from relay.cli.replay.cancel import cancel
from relay.cli.replay.listing import list_command
from relay.cli.replay.request import ask_for_replay
from relay.cli.replay.show import show
from relay.cli.replay.watch import watch

EPILOG = exit_codes(
    "done, or recorded",
    "nothing was changed: refused, or nothing matched; or the replay was cancelled or Kafka refused events",
)

_RATE = click.FloatRange(0.01, 1e9)


@click.group(name="replay", cls=InOrder, invoke_without_command=True, epilog=EPILOG, subcommand_metavar="[COMMAND]")
@click.option("--topic", metavar="TOPIC", help="Only events of this topic. Required.")
@since_option("delivered", " Required.")
@until_option("delivered", "  [default: now]")
@key_option
@click.option(
    "--rate", cls=Bounded, type=_RATE, metavar="N", help="At most N events per second, of all replicas together."
)
@click.option(
    "--to-topic",
    callback=read(parse_topic_name),
    metavar="TOPIC",
    help="Publish them to this topic instead, in the order of their keys.",
)
@click.option(
    "--group",
    callback=read(parse_group),
    metavar="NAME",
    help="Mark them with the header outbox-replay-group, by which consumers of other groups can skip them.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing; show which events would be published again.")
@yes_option
@reason_option
@wait_option
@json_option
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Publish delivered events again, for a consumer that lost data.

    \b
      relay replay --topic orders --since 2h --dry-run
      relay replay --topic orders --since 2026-05-17T03:10 --until 2026-05-17T04:00 --rate 500
      relay replay --topic orders --since 2h --to-topic orders.repair

    The events go to their topic once more, and EVERY consumer of the topic gets them again, unless --to-topic names
    another one, or consumers heed the header of --group. Events of one key keep their order. Each event keeps its
    headers and ids, and gets the header outbox-replay and a new timestamp. Live events continue to flow, and come first
    when there is not enough room for both.

    This needs only PostgreSQL: the request is recorded immediately and carried out when a relay runs. A replay that is
    interrupted continues where it was; the events that were under way are published once more. (For events that could
    not be published at all, see `relay failed replay`.)
    """
    if context.invoked_subcommand is None:
        ask_for_replay(**options)
    elif any(value for value in options.values()):
        raise click.UsageError(f"{context.invoked_subcommand} does not take the options of a request")


for each in (list_command, show, watch, cancel):
    each.epilog = EPILOG
    command.add_command(each)
