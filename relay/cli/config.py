"""`relay config`: the settings in effect, with their sources and without secrets."""

from __future__ import annotations

import click

from relay.cli.show.lines import say, say_json
from relay.settings import Warned, load_with_sources
from relay.settings.describe import Row, effective, reference
from relay.text import plain


@click.command(name="config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--reference", "as_reference", is_flag=True, help="Print the page on all settings, as Markdown.")
def command(as_json: bool, as_reference: bool) -> None:
    """Show the settings in effect, and where each comes from.

    Times are in seconds, sizes in bytes. Secrets are masked. If there are problems with the settings, the command
    lists all of them and ends with exit code 2: run it before a deployment.
    """
    if as_reference:
        say(reference())
        return
    rows = effective(*load_with_sources(on_warning=_warn))
    if as_json:
        say_json({row.name: {"value": row.value, "source": row.source} for row in rows})
    else:
        say("\n".join(_table(rows)))


def _warn(warning: Warned) -> None:
    say(f"relay: {plain(warning)}", err=True)


def _table(rows: list[Row]) -> list[str]:
    """Align by hand: a table that fits itself to the terminal would break names and values apart."""
    cells = [("SETTING", "VALUE", "SOURCE"), *((row.name, plain(_text(row.value)), plain(row.source)) for row in rows)]
    names, values = (max(len(cell[column]) for cell in cells) for column in (0, 1))
    return [f"{name:<{names}}  {value:<{values}}  {source}" for name, value, source in cells]


def _text(value: str | float | bool | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)
