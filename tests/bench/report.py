"""What a benchmark found: as a table, as JSON, as rows of the documents, as a picture."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tests.bench import machine
from tests.bench.figures import FIGURES, readable, spread
from tests.bench.picture import draw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from tests.bench.figures import Figures

WIDTH = 140
"""Columns of the tables, also where there is no terminal."""


@dataclass(frozen=True)
class Finding:
    """What is worth a line in the documents; `values` has one per round."""

    what: str
    values: list[float]
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        """What is compared with the target."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the target; None without one."""
        if self.at_least is not None:
            return self.median >= self.at_least
        return None if self.at_most is None else self.median <= self.at_most

    @property
    def target(self) -> str:
        """The target in words."""
        if self.at_least is not None:
            return f"at least {readable(self.at_least)}"
        return "" if self.at_most is None else f"at most {readable(self.at_most)}"

    @property
    def value(self) -> str:
        """Median, spread and unit."""
        return f"{spread(self.values)} {self.unit}".rstrip()


@dataclass
class Report:
    """The rounds of a benchmark by series (what was compared), and what follows from them."""

    benchmark: str
    what: str
    parameters: dict[str, object]
    series: dict[str, list[Figures]]
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    """For the picture: by title, then by name, points of seconds and values."""
    bars: tuple[str, ...] = ("events_per_second", "relay_cpu_us")
    """The figures to draw as bars, one panel each."""
    machine: dict[str, str] = field(default_factory=machine.describe)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def as_json(self) -> dict[str, object]:
        """Everything, as one object."""
        findings = [
            {**asdict(each), "median": each.median, "target": each.target, "met": each.met} for each in self.findings
        ]
        named = ("benchmark", "what", "at", "machine", "parameters", "series", "notes", "curves", "bars")
        return {**{name: getattr(self, name) for name in named}, "findings": findings}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Report:
        """What `as_json` made, read again."""
        names = {each.name for each in fields(Finding)}
        findings = [Finding(**{name: each[name] for name in names}) for each in found["findings"]]
        own = {each.name for each in fields(cls)} & found.keys()
        return cls(**{**{name: found[name] for name in own}, "findings": findings})

    def markdown(self) -> list[str]:
        """One row of the table in tests/bench/README.md per finding."""
        rows = []
        for each in self.findings:
            missed = " (missed)" if each.met is False else ""
            rows.append(f"| `{self.benchmark}` | {each.what} | {each.value} | {each.target or '-'}{missed} |")
        return rows

    def draw(self, path: Path) -> None:
        """Write the picture."""
        path.write_text(draw(self.what, self.panels(), self.curves, machine.one_line(self.machine)))

    def panels(self) -> list[tuple[str, dict[str, float]]]:
        """For the picture: the title of a figure, and its median by series."""
        found = []
        for figure in self.bars:
            rounds = {name: [each[figure] for each in one if figure in each] for name, one in self.series.items()}
            found.append((FIGURES[figure], {name: statistics.median(each) for name, each in rounds.items() if each}))
        return found

    def print(self) -> None:
        """Write the table for people."""
        console = Console(width=WIDTH, highlight=False)
        rounds = max(map(len, self.series.values()))
        console.print(self.what, style="bold", soft_wrap=True)
        table = Table()
        table.add_column(f"median (lowest to highest) of {rounds}" if rounds > 1 else "one round")
        for name in self.series:
            table.add_column(name, justify="right")
        for figure, title in FIGURES.items():
            cells = [[each[figure] for each in one if figure in each] for one in self.series.values()]
            if any(cells):
                table.add_row(title, *(spread(cell) if cell else "-" for cell in cells))
        console.print(table)
        for finding in self.findings:
            verdict = {True: ": met", False: ": NOT met", None: ""}[finding.met]
            target = f", {finding.target}{verdict}" if finding.target else ""
            console.print(f"{finding.what}: {finding.value}{target}", soft_wrap=True)
        for note in self.notes:
            console.print(note, soft_wrap=True)
        console.print(machine.one_line(self.machine), style="dim", soft_wrap=True)


async def interleave(rounds: int, series: Mapping[str, Callable[[], Awaitable[Figures]]]) -> dict[str, list[Figures]]:
    """Run the series in turn, round by round, every second round backwards: so a drift of the machine hits all."""
    found: dict[str, list[Figures]] = {name: [] for name in series}
    for number in range(rounds):
        for name in list(series) if number % 2 == 0 else reversed(list(series)):
            found[name].append(await series[name]())
    return found
