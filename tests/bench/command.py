"""What the commands of all benchmarks have in common: servers to run on, and where the results go."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tests.bench.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.bench.report import Report

    Command = TypeVar("Command", bound=Callable[..., Any])


def output(command: Command) -> Command:
    """Add the options that all benchmarks have, passed on as `json_file` and `picture`."""
    for option in (
        click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw it as SVG."),
        click.option("--json", "json_file", type=click.File("w", lazy=True), help="Write JSON; - for stdout."),
    ):
        command = option(command)
    return command


def run(
    measure: Callable[[Place], Coroutine[object, object, Report]],
    json_file: Any,
    picture: Path | None,
    warm_up: float = 0,
    **settings: object,
) -> None:
    """Start servers (PostgreSQL with these settings), measure, and show what was found."""
    with Place(warm_up, **settings) as place:
        report = asyncio.run(measure(place))
    show(report, json_file, picture)


def show(report: Report, json_file: Any, picture: Path | None) -> None:
    """Print the table, or instead of it JSON if that goes to stdout; write the files that were asked for."""
    if json_file is None or json_file.name != "-":
        report.print()
    if json_file is not None:
        json_file.write(json.dumps(report.as_json(), indent=2) + "\n")
    if picture is not None:
        report.draw(picture)
