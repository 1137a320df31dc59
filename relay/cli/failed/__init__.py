"""`relay failed`: events that could not be published, and what a person does about them."""

from __future__ import annotations

import click

from relay.cli.failed.actions import actions
from relay.cli.failed.listing import list_command
from relay.cli.failed.replay_or_discard import discard, replay
from relay.cli.failed.show import show
from relay.cli.options import InOrder, exit_codes

EPILOG = exit_codes("done", "nothing was changed: refused, or nothing matched; or, with --wait, events failed again")


@click.group(name="failed", cls=InOrder, epilog=EPILOG)
def command() -> None:
    """List events that could not be published, and replay or discard them.

    \b
    A failure is in one of these states:
      failed     it waits for a person
      retrying   the relay will try again on its own
      replaying  a person asked for it; the relay publishes it next
      discarded  a person gave it up

    After an event has failed under the policy "block", the relay holds back later events of its key. A replay
    publishes the failed event, then the events behind it, in order. A discard lets those go on without it. Other keys
    are not affected.

    These commands need only PostgreSQL: a request is recorded immediately, and a relay acts on it as soon as one runs.
    """


for each in (list_command, show, replay, discard, actions):
    each.epilog = EPILOG
    command.add_command(each)
