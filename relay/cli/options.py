"""Options and arguments that several commands have, and how their values are read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from relay.admin.selections import parse_key
from relay.admin.times import parse_span, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = re.compile(r"\d{1,99}(\.\d{1,99})?", re.ASCII)

EVENT_ID = click.IntRange(1, 2**63 - 1)
EVENT_ID.name = "event id"
NUMBER = click.IntRange(1, 2**63 - 1)


class Bounded(click.Option):
    """An option whose bounds only the message about a wrong value tells: nobody chooses 2^63 - 1."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Leave the bounds out of the help."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class InOrder(click.Group):
    """A group that offers its commands in the order in which one uses them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        """List the commands as they were added."""
        return list(self.commands)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; kept with who asked and when.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
wait_option = click.option("--wait/--no-wait", default=None, help="Wait for the end.  [default: wait if on a terminal]")


def limit_option(default: int) -> Callable[[Any], Any]:
    """Return the option that limits how many rows are shown."""
    return click.option(
        "--limit",
        cls=Bounded,
        type=click.IntRange(1, 100_000),
        default=default,
        show_default=True,
        metavar="N",
        help="Show at most N.",
    )


def exit_codes(done: str, refused: str) -> str:
    """Return the end of a command's help, with what 0 and 1 stand for."""
    return (
        f"\b\nExit codes:\n  0  {done}\n  1  {refused}\n"
        "  2  the command or the settings are wrong\n  3  PostgreSQL cannot be reached\n"
    )


def read(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Return the callback of an option that `parse` reads, raising ValueError for what it cannot be."""

    def parsed(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return parsed


key_option = click.option(
    "--key", callback=read(parse_key), metavar="KEY", help="Only this key: text, or hex: and digits."
)


def since_option(happened: str, more: str = "") -> Callable[[Any], Any]:
    """Return the option of the earliest time; `happened` is what events did at it, `more` the end of its help."""
    return click.option(
        "--since",
        callback=read(parse_time),
        metavar="TIME",
        help=f"Only events {happened} at or after TIME: 2h (ago), or a date.{more}",
    )


def until_option(happened: str, more: str = "") -> Callable[[Any], Any]:
    """Return the option of the latest time, as `since_option` does."""
    return click.option(
        "--until",
        callback=read(parse_time),
        metavar="TIME",
        help=f"Only events {happened} at or before TIME: 30m (ago), or a date.{more}",
    )


def span(lowest: str, highest: str) -> Callable[[click.Context | None, click.Parameter | None, str], float]:
    """Return the callback of an option that takes a length of time, with a unit or in seconds, between two spans.

    It returns seconds, and raises BadParameter for anything else.
    """
    bounds = parse_span(lowest) or 0, parse_span(highest) or 0

    def parsed(context: click.Context | None, parameter: click.Parameter | None, text: str) -> float:
        seconds = float(text) if _SECONDS.fullmatch(text) else parse_span(text)
        if seconds is None:
            raise click.BadParameter(
                f"{text!r} is not a length of time; write 90s, 30m, 2h or 3d, or a number of seconds",
                context,
                parameter,
            )
        if not bounds[0] <= seconds <= bounds[1]:
            raise click.BadParameter(f"{text} is not between {lowest} and {highest}", context, parameter)
        return seconds

    return parsed
