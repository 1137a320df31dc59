"""This code and that of earlier commits, in turn on the same warm servers: what a change costs or saves."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tests.bench.command import output, run
from tests.bench.drain import drain
from tests.bench.figures import ratios
from tests.bench.latency import of_relay
from tests.bench.process import ROOT
from tests.bench.report import Finding, Report, interleave
from tests.bench.warming import warm_up, warmed
from tests.bench.writers import FIGURE, writers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from tests.bench.figures import Figures
    from tests.bench.place import Place

    Measure = Callable[[], Awaitable[Figures]]

HERE = "here"
RATE = 1_000.0
COMPARED = {
    "drain": ("events_per_second", "relay_cpu_us", "postgres_cpu_us", "kafka_cpu_us", "all_cpu_us", "wal_bytes"),
    "latency": ("p50_ms", "p99_ms"),
    "writers": (FIGURE,),
    "writers-at-rate": (FIGURE, "average_ms", "relay_cpu_percent", "postgres_cpu_percent", "all_cpu_percent"),
}
"""The figures of each measurement of which the ratio is shown."""


async def measure_against(
    place: Place, checkouts: Mapping[str, Path], what: Sequence[str], events: int, seconds: float, rounds: int
) -> Report:
    """Rounds of what is named in `what`, by this code and by that of each checkout (its name, its folder)."""
    measures: dict[str, Measure] = {
        "drain": lambda: drain(place, events),
        "latency": lambda: of_relay(place, RATE, seconds),
        "writers": lambda: writers(place, seconds, "outbox.event", relay=True),
        "writers-at-rate": lambda: writers(place, seconds, "outbox.event", rate=RATE, relay=True),
    }
    versions = {HERE: None, **checkouts}
    await warm_up(place)
    series = await interleave(
        rounds,
        {
            f"{name}, {version}": partial(_by, place, folder, measures[name])
            for name in what
            for version, folder in versions.items()
        },
    )
    findings = [
        Finding(
            f"{name}: {figure}, here against {version}",
            ratios(series[f"{name}, {HERE}"], series[f"{name}, {version}"], figure),
        )
        for version in checkouts
        for name in what
        for figure in COMPARED[name]
    ]
    parameters: dict[str, object] = {"events": events, "seconds": seconds}
    return Report("against", "Versions of the relay in turn", parameters, series, findings, machine=place.machine)


@click.command
@click.argument("commits", nargs=-1, required=True)
@click.option("--what", multiple=True, type=click.Choice(tuple(COMPARED)), default=tuple(COMPARED), show_default=True)
@click.option("--events", default=600_000, show_default=True, help="Backlog to drain.")
@click.option("--seconds", default=10.0, show_default=True, help="Of each round of latency and writers.")
@click.option("--rounds", default=5, show_default=True)
@warmed
@output
def against_command(
    commits: tuple[str, ...],
    what: tuple[str, ...],
    events: int,
    seconds: float,
    rounds: int,
    warm_up: float,
    json_file: Any,
    picture: Path | None,
) -> None:
    """Measure this code and that of COMMITS in turn, on the same servers: ratios above 1 mean more here.

    Each version makes its own outbox and runs its own relay, with the libraries that are installed here.
    """
    with tempfile.TemporaryDirectory(prefix="bench-against-") as folder:
        checkouts = {commit: _checkout(commit, Path(folder) / commit.replace("/", "-")) for commit in commits}
        run(lambda place: measure_against(place, checkouts, what, events, seconds, rounds), json_file, picture, warm_up)


async def _by(place: Place, code: Path | None, measure: Measure) -> Figures:
    place.code = code
    try:
        return await measure()
    finally:
        place.code = None


def _checkout(commit: str, folder: Path) -> Path:
    """The files of a commit of this repository, in a new folder."""
    folder.mkdir()
    archive = subprocess.run(["git", "-C", ROOT, "archive", commit], stdout=subprocess.PIPE, check=False)
    if archive.returncode:
        raise click.BadParameter(f"git knows no commit {commit!r} here", param_hint="COMMITS")
    (folder / "all.tar").write_bytes(archive.stdout)
    with tarfile.open(folder / "all.tar") as files:
        files.extractall(folder, filter="data")
    return folder
