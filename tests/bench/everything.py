"""All benchmarks one after the other, and tables and picture of the documents from what they found."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tests.bench import machine, warming
from tests.bench.compare import measure_compare
from tests.bench.drain import measure_drain, measure_held_snapshot
from tests.bench.enqueue import measure_enqueue
from tests.bench.failures import measure_bad_event, measure_missing_topic, measure_refused_events
from tests.bench.figures import PARTS, median
from tests.bench.idle import measure_idle
from tests.bench.late import measure_late_commit
from tests.bench.latency import measure_latency
from tests.bench.memory import measure_memory
from tests.bench.outage import measure_outage
from tests.bench.picture import draw
from tests.bench.place import Place
from tests.bench.process import ROOT
from tests.bench.profiles import measure_profile
from tests.bench.report import Report
from tests.bench.scale import measure_scale
from tests.bench.segments import measure_segments
from tests.bench.soak import measure_soak
from tests.bench.timers import measure_timers
from tests.bench.writers import measure_writers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

README = ROOT / "README.md"
PAGE = ROOT / "tests/bench/README.md"
PICTURE = ROOT / "deploy/performance.svg"
SHOWN = f"![Bars: this relay, a naive one, Debezium Server and Kafka Connect](../../{PICTURE.relative_to(ROOT)})\n"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"

HIGHLIGHTS = (
    "Draining a backlog",
    "CPU of the relay per event",
    "Memory while draining",
    "Commit to consumer at 1000/s, p50",
    "Commit to consumer at 1000/s, p99",
    "Lost in the outage",
    "Out of order in the outage",
    "Speed against Debezium Server",
)
"""How the rows begin that the README has."""


@dataclass(frozen=True)
class Plan:
    """How `all` calls a benchmark: as its command does by default, and with sizes for a first look."""

    measure: Callable[..., Coroutine[object, object, Report]]
    full: Mapping[str, Any]
    quick: Mapping[str, Any]
    settings: Mapping[str, object]
    """Of PostgreSQL."""


def _plan(
    measure: Callable[..., Coroutine[object, object, Report]],
    full: Mapping[str, Any],
    quick: Mapping[str, Any],
    **settings: object,
) -> Plan:
    return Plan(measure, full, {**full, **quick}, settings)


PLANS = {
    "drain": _plan(measure_drain, {"events": 1_000_000, "rounds": 3}, {"events": 100_000, "rounds": 1}),
    "compare": _plan(
        measure_compare,
        {"events": 1_000_000, "rate": 1_000, "seconds": 15, "rounds": 3},
        {"events": 100_000, "seconds": 5, "rounds": 1},
        wal_level="logical",
    ),
    "latency": _plan(
        measure_latency, {"rate": 1_000, "seconds": 15, "rounds": 3}, {"rate": 1_000, "seconds": 5, "rounds": 1}
    ),
    "writers": _plan(measure_writers, {"seconds": 15, "rate": 1_000, "rounds": 3}, {"seconds": 5, "rounds": 1}),
    "enqueue": _plan(measure_enqueue, {"seconds": 5, "many": 10_000, "rounds": 3}, {"seconds": 1, "rounds": 1}),
    "memory": _plan(
        measure_memory,
        {"small": 1_000_000, "large": 5_000_000, "rounds": 1},
        {"small": 50_000, "large": 250_000},
    ),
    "held-snapshot": _plan(measure_held_snapshot, {"events": 2_000_000, "rounds": 3}, {"events": 100_000, "rounds": 1}),
    "late-commit": _plan(
        measure_late_commit,
        {"passed": 5_000_000, "own": 1_000_000, "seconds": 30, "rounds": 1},
        {"passed": 200_000, "own": 50_000, "seconds": 10},
    ),
    "idle": _plan(measure_idle, {"seconds": 60, "history": 100_000, "rounds": 1}, {"seconds": 10, "history": 10_000}),
    "timers": _plan(
        measure_timers,
        {"timers": 100_000, "rate": 1_000, "seconds": 60, "rounds": 3},
        {"timers": 10_000, "seconds": 10, "rounds": 1},
    ),
    "segments": _plan(
        measure_segments,
        {"events": 10_000_000, "segment": 5_000_000, "payload_bytes": 300, "rounds": 1},
        {"events": 200_000, "segment": 100_000, "payload_bytes": 300, "rounds": 1},
    ),
    "outage": _plan(
        measure_outage, {"rate": 1_000, "seconds": 60, "before": 20, "rounds": 1}, {"seconds": 10, "before": 5}
    ),
    "soak": _plan(measure_soak, {"rate": 2_000, "seconds": 120}, {"seconds": 15}),
    "bad-event": _plan(measure_bad_event, {"events": 200_000, "rounds": 5}, {"events": 20_000, "rounds": 1}),
    "refused-events": _plan(measure_refused_events, {"events": 20_000, "rounds": 3}, {"events": 4_000, "rounds": 1}),
    "missing-topic": _plan(measure_missing_topic, {"events": 220_000, "rounds": 5}, {"events": 22_000, "rounds": 1}),
    "profile": _plan(
        measure_profile,
        {"events": 1_000_000, "rate": 1_000, "seconds": 15, "rounds": 3},
        {"events": 400_000, "seconds": 5, "rounds": 1},
    ),
    "scale": _plan(measure_scale, {"events": 400_000, "rounds": 3}, {"events": 50_000, "rounds": 1}),
}

WARMED = (
    "drain",
    "compare",
    "latency",
    "writers",
    "held-snapshot",
    "timers",
    "bad-event",
    "missing-topic",
    "profile",
    "scale",
)
"""The benchmarks that warm the broker up before their rounds."""
WARM_UP_DEFAULT = f"{warming.SECONDS:g}, or {warming.QUICK_SECONDS:g} with --quick"


@click.command
@click.option("--quick", is_flag=True, help="Small sizes and one round, for a first look.")
@click.option("--only", multiple=True, type=click.Choice(list(PLANS)), help="Only this one; may be repeated.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Keep what was found.")
@click.option("--warm-up", type=float, help=f"Seconds before the rounds; {WARM_UP_DEFAULT} if this is left out.")
@click.pass_context
def all_command(
    context: click.Context, quick: bool, only: tuple[str, ...], json_file: Path | None, warm_up: float | None
) -> None:
    """Run all benchmarks; print each one's table, and at the end the rows for tests/bench/README.md.

    With --json, what was found so far is in the file after each benchmark; `readme FILE` takes it over.
    """
    if warm_up is None:
        warm_up = warming.QUICK_SECONDS if quick else warming.SECONDS
    reports: list[Report] = []
    broken: list[str] = []
    for name in only or PLANS:
        plan = PLANS[name]
        click.echo(f"\n== {name}")
        begin = time.monotonic()
        try:
            seconds = warm_up if name in WARMED else 0
            with Place(seconds, **plan.settings) as place:
                report = asyncio.run(plan.measure(place, **(plan.quick if quick else plan.full)))
        except Exception as error:  # noqa: BLE001 one that fails must not cost what the others found
            broken.append(f"{name}: {type(error).__name__}: {error}")
            click.echo(broken[-1], err=True)
            continue
        report.print()
        click.echo(f"{time.monotonic() - begin:.0f} s")
        reports.append(report)
        if json_file is not None:
            json_file.write_text(json.dumps([each.as_json() for each in reports], indent=1) + "\n")
    click.echo()
    click.echo(markdown(reports))
    for each in broken:
        click.echo(f"BROKEN {each}", err=True)
    context.exit(1 if broken else 0)


@click.command
@click.argument("found", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def readme_command(found: Path) -> None:
    """Put what `all --json FOUND` kept into tests/bench/README.md, README.md and deploy/performance.svg."""
    reports = [Report.from_json(each) for each in json.loads(found.read_text())]
    _put(PAGE, f"\n{SHOWN}\n{markdown(reports)}\n")
    _put(README, f"\n{highlights(reports)}\n")
    PICTURE.write_text(picture(reports))
    click.echo(f"wrote {', '.join(str(path.relative_to(ROOT)) for path in (PAGE, README, PICTURE))}")


def _put(page: Path, part: str) -> None:
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise click.ClickException(f"{page} has no lines {BEGIN.strip()} and {END.strip()}; put them back")
    # A function: the text may have backslashes.
    page.write_text(re.sub(f"(?<={BEGIN}).*(?={END})", lambda _: part, text, flags=re.DOTALL))


def highlights(reports: list[Report]) -> str:
    """The README's table: the findings that HIGHLIGHTS names, and the command that measures each."""
    lines = ["| What | Median (lowest to highest) | Command |", "|---|---|---|"]
    for beginning in HIGHLIGHTS:
        lines += [
            f"| {finding.what} | {finding.value} | `{report.benchmark}` |"
            for report in reports
            for finding in report.findings
            if finding.what.startswith(beginning)
        ]
    return "\n".join(lines) + "\n"


def markdown(reports: list[Report]) -> str:
    """The full table, on what it was measured, and where the time goes."""
    rows = [row for report in reports for row in report.markdown()]
    if not rows:
        return ""
    named = {report.benchmark: report for report in reports}
    lines = ["| Command | What | Median (lowest to highest) | Target |", "|---|---|---|---|", *rows]
    lines += ["", f"Measured on {machine.one_line(reports[0].machine)}.", ""]
    if drained := named.get("drain"):
        lines += [*_costs(drained), ""]
    if profiled := named.get("profile"):
        lines += [*_parts(profiled), ""]
    return "\n".join(lines)


def _costs(drained: Report) -> list[str]:
    rounds = drained.series["drain"]
    costs = [median(rounds, f"{process}_cpu_us") for process in ("relay", "postgres", "kafka")]
    relay, postgres, kafka = (f"{cost:.1f} us ({cost / sum(costs):.0%})" for cost in costs)
    return [
        f"Where the time goes: of an event's {sum(costs):.0f} us of CPU while draining, the relay takes {relay},",
        f"PostgreSQL {postgres} and Kafka {kafka}; beside that, {median(rounds, 'wal_bytes'):,.0f} bytes of WAL,",
        f"and a commit per {1 / median(rounds, 'commits'):,.0f} events.",
    ]


def _parts(profiled: Report) -> list[str]:
    lines = [f"| Where the relay's time goes (`profile`) | {' | '.join(profiled.series)} |"]
    lines.append(f"|---|{'---|' * len(profiled.series)}")
    for part, name in PARTS.items():
        cells = [f"{median(rounds, part):.0f} %" for rounds in profiled.series.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def picture(reports: list[Report]) -> str:
    """The comparison as bars, and the outage as curves."""
    named = {report.benchmark: report for report in reports}
    bars = named["compare"].panels() if "compare" in named else []
    curves = named["outage"].curves if "outage" in named else {}
    return draw("Performance", bars, curves, machine.one_line(reports[0].machine))
