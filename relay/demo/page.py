"""The pages of the live display: pure functions from the demo's progress to objects that Rich can print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from relay.demo.progress import Phase, Progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from relay.postgres.admin.status import Status

IDEA = (
    "1. A service changes a row and enqueues an event in the same transaction.",
    "2. The relay reads committed events in PostgreSQL and publishes them to Kafka.",
    "3. A consumer checks: no event lost, and those of an order in commit order.",
)

# Indented they must leave room for the ^C that terminals echo: one that wraps would shift the page.
CODE = (
    "async with connection.transaction():",
    '    await connection.execute("UPDATE orders SET ... WHERE id = $1", order)',
    '    await enqueue(connection, "orders", key=f"order-{order}", payload=...)',
)

PHASES = {
    Phase.WRITING: "Ctrl-C ends it early",
    Phase.FINISHING: "last transactions end",
    Phase.DRAINING: "waiting for the last events",
    Phase.CHECKING: "relay drains and ends",
}
# Lines of the running page that are not events.
_OTHER_LINES = 17
_MOST_WIDTH = 100


class Starting:
    """The page during the start: finished steps, the current step, and a text to read in the meantime."""

    def __init__(self) -> None:
        self._done: list[tuple[str, float]] = []
        self._current = ""
        self._began = 0.0
        self._spinner = Spinner("dots", style="cyan")

    def step(self, text: str, now: float) -> None:
        """Begin the next step, which ends the step before."""
        if self._current:
            self._done.append((self._current, now - self._began))
        self._current, self._began = text, now

    def page(self, now: float) -> RenderableType:
        """Return the page with the progress of the start."""
        steps = Table.grid(padding=(0, 1))
        mark = Text("✓", style="green")
        for text, seconds in self._done:
            steps.add_row(" ", mark, text, Text(f" {seconds:.1f} s", style="dim"))
        steps.add_row(" ", self._spinner, self._current, Text(f" {now - self._began:.0f} s", style="dim"))
        code = [Text(f"    {line}", style="cyan") for line in CODE]
        return Group(steps, "", Text("  What the order service is going to do:", style="dim"), *code)


def running(progress: Progress, height: int, width: int) -> RenderableType:
    """Return the page while events flow, for a terminal of this size."""
    width = min(width, _MOST_WIDTH)
    return Group(
        _time(progress, width),
        "",
        _flow(progress),
        "",
        _counts(progress),
        "",
        _lanes(progress.status),
        "",
        _latest(progress, height - _OTHER_LINES),
    )


def line(progress: Progress) -> str:
    """Return the progress while events flow as one line, for logs and pipes."""
    checker = progress.checker
    return (
        f"{progress.elapsed:4.0f} s  committed {progress.committed:,} ({progress.committing.per_second():,.0f}/s)  "
        f"delivered {checker.delivered:,}  backlog {backlog(progress.status)}  lag {lag(progress.status)}  "
        f"p50 {_ms(progress.latencies.recent(50))}  p99 {_ms(progress.latencies.recent(99))}  "
        f"out of order {checker.out_of_order}  duplicates {checker.duplicates}"
    )


def backlog(status: Status | None) -> str:
    """Return the number of pending events in the outbox, as text."""
    if status is None or status.backlog.events is None:
        return "?"
    precision = "" if status.backlog.precision == "exact" else f"{status.backlog.precision} "
    return f"{precision}{status.backlog.events:,}"


def lag(status: Status | None) -> str:
    """Return the age of the oldest pending event, as text; 0 when none is pending."""
    if status is None:
        return "?"
    seconds = status.oldest_seconds or 0.0
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def owners(status: Status | None) -> list[tuple[str, str]]:
    """Return pairs (owner, its lanes) such as ("demo-relay", "0-15"), with free lanes last."""
    lanes: dict[str | None, list[int]] = {}
    for lane in status.lanes if status else []:
        lanes.setdefault(lane.replica, []).append(lane.lane)
    named = sorted((replica, _ranges(owned)) for replica, owned in lanes.items() if replica is not None)
    return [*named, ("nobody", _ranges(lanes[None]))] if None in lanes else named


def _time(progress: Progress, width: int) -> Table:
    bar = ProgressBar(total=progress.seconds, completed=min(progress.elapsed, progress.seconds), width=width // 3 - 2)
    table = Table.grid(padding=(0, 2))
    clock = f"{progress.elapsed:.0f} of {progress.seconds:.0f} s"
    table.add_row(Text(" relay demo", style="bold"), bar, clock, Text(_doing(progress), style="dim"))
    return table


def _doing(progress: Progress) -> str:
    missing = progress.committed - progress.checker.delivered
    if progress.phase is Phase.DRAINING and missing > 0:
        return f"waiting for {missing:,} events"
    return PHASES[progress.phase]


def _flow(progress: Progress) -> Table:
    table = Table.grid(padding=(0, 1))
    for _ in range(9):
        table.add_column(justify="center", no_wrap=True)
    arrow = Text("──►", style="dim")
    names = [Text(name, style="bold") for name in ("order service", "PostgreSQL", "relay", "Kafka", "consumer")]
    cells: list[RenderableType] = [Text(f"  {names[0]}", style="bold")]
    for name in names[1:]:
        cells += [arrow, name]
    table.add_row(*cells)
    owned = sum(lane.replica is not None for lane in progress.status.lanes) if progress.status else 0
    table.add_row(
        Text(f"  {progress.committing.per_second():,.0f}/s", style="green"),
        "",
        Text(f"{backlog(progress.status)} waiting", style="yellow"),
        "",
        Text(f"{owned} lanes"),
        "",
        Text("6 partitions"),
        "",
        Text(f"{progress.arriving.per_second():,.0f}/s", style="green"),
    )
    return table


def _counts(progress: Progress) -> Table:
    checker, latencies = progress.checker, progress.latencies
    rows = [
        (
            "committed",
            f"{progress.committed:,}",
            f"events, by {progress.counts.committed:,} transactions of {progress.counts.writers} writers",
        ),
        (
            "rolled back",
            f"{progress.counts.rolled_back + progress.counts.savepoints:,}",
            "transactions and savepoints with their events",
        ),
        ("slow", f"{progress.counts.slow:,}", "transactions that stayed open for up to 2 s"),
        ("delivered", f"{checker.delivered:,}", "events arrived at the consumer"),
        ("backlog", backlog(progress.status), "committed events that are not in Kafka yet"),
        ("lag", lag(progress.status), "how long ago the oldest of them was enqueued"),
        (
            "latency",
            _ms(latencies.recent(50)),
            f"from commit to consumer (median); 99 % within {_ms(latencies.recent(99))}",
        ),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=13)
    table.add_column(justify="right", no_wrap=True, min_width=9)
    table.add_column(style="dim", no_wrap=True)
    for name, number, meaning in rows:
        table.add_row(f"  {name}", number, meaning)
    wrong = Text.assemble(
        _count("out of order", checker.out_of_order, bad=True),
        "   ",
        _count("duplicates", checker.duplicates, bad=False),
        "   ",
        _count("arrived although rolled back", checker.uncommitted, bad=True),
    )
    grid = Table.grid()
    grid.add_row(table)
    grid.add_row(Text("  ").append_text(wrong))
    return grid


def _count(name: str, number: int, *, bad: bool) -> Text:
    style = ("bold red" if bad else "yellow") if number else "green"
    return Text.assemble((f"{name} ", "bold"), (f"{number:,}", style))


def _lanes(status: Status | None) -> Text:
    found = owners(status)
    text = Text("  lanes ", style="bold")
    for owner, lanes in found:
        text.append(f" {lanes} ", style="cyan" if owner != "nobody" else "red")
        text.append(f"owned by {owner}  ", style="not bold")
    if len(found) == 1:
        text.append("(all events of an order are in one lane)", style="not bold dim")
    if not found:
        text.append(" ?", style="not bold")
    return text


def _latest(progress: Progress, events: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("  latest events", "version", "change", "partition", "offset", "latency"):
        numbers = name in ("version", "partition", "offset", "latency")
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for arrival in list(progress.latest)[-max(1, events) :]:
        table.add_row(
            f"  order-{arrival.order}",
            str(arrival.version),
            Text(arrival.change, style="cyan"),
            str(arrival.partition),
            f"{arrival.offset:,}",
            _ms(arrival.latency),
        )
    return table


def _ranges(numbers: Iterable[int]) -> str:
    """Return lanes as ranges, such as 0-3 5 7-15."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"
