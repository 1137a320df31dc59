"""The options that say which failures are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from relay.admin.selections import parse_key, parse_topic
from relay.cli.options import read, since_option, until_option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Command = TypeVar("Command", bound=Callable[..., Any])


def filter_options(states: Sequence[str], states_help: str) -> Callable[[Command], Command]:
    """Add the options to a command, which makes a `Selection` of them: `Selection(**options)`."""
    options = [
        click.option(
            "--topic",
            callback=read(parse_topic),
            metavar="PATTERN",
            help="Only this topic; * stands for any characters.",
        ),
        click.option("--key", callback=read(parse_key), metavar="KEY", help="Only this key, written as in the list."),
        click.option("--error", metavar="PATTERN", help="Only with this error; * stands for any characters."),
        since_option("that failed"),
        until_option("that failed"),
        click.option("--state", "states", type=click.Choice(states), multiple=True, help=states_help),
    ]

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
