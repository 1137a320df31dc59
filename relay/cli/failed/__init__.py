"""`relay failed`: events that could not be published, and what a person does about them."""

from __future__ import annotations

import click

from relay.cli.failed.actions import actions
from relay.cli.failed.listing import list_failures
from relay.cli.failed.marking import discard, replay
from relay.cli.failed.show import show

EPILOG = """\b
Exit codes:
  0  done
  1  refused or nothing matched, and nothing was changed; or, with --wait, events failed again
  2  the command or the settings are wrong
  3  PostgreSQL cannot be reached
"""


class _InOrder(click.Group):
    """A group that offers its commands in the order in which one uses them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        """List the commands as they were added."""
        return list(self.commands)


@click.group(name="failed", cls=_InOrder, epilog=EPILOG)
def command() -> None:
    """See events that could not be published, and replay or discard them.

    \b
    A failure is
      failed     and waits for a person
      retrying   the relay tries again by itself
      replaying  a person asked for it; the relay publishes it next
      discarded  a person gave it up

    While an event has failed under the policy "block", later events of its key are held back. A replay publishes
    it, then those it held back, in order; a discard lets them go on without it. Other keys are not concerned.

    Needs only PostgreSQL: what you ask for is recorded at once, and a relay acts on it when one runs.
    """


for each in (list_failures, show, replay, discard, actions):
    each.epilog = EPILOG
    command.add_command(each)
