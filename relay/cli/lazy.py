"""A click group whose commands are loaded when they are used, so that its help loads none."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


class LazyGroup(click.Group):
    """Offers the commands of a table, name -> ("module:attribute", help), whose modules exist, in its order."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], heading: str = "Commands", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.table = table
        self._heading = heading

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        """List the commands whose modules exist, without loading them."""
        return [name for name, (place, _) in self.table.items() if importlib.util.find_spec(place.partition(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, name = self.table[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{name} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        with formatter.section(self._heading):
            formatter.write_dl([(name, self.table[name][1]) for name in self.list_commands(ctx)])
