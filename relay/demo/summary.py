"""The summary of the demo, for programs and for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from relay.demo.check import Findings
    from relay.demo.progress import Counts

LATENCY_IS = "from COMMIT having returned to the writer until the consumer has the event"


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a demo. Latencies are in ms, None when nothing arrived."""

    findings: Findings
    counts: Counts
    target_rate: float
    seconds: float
    """Seconds for which the writers wrote."""
    committed_meanwhile: int
    """Events committed in these seconds; a few more follow while the last transactions end."""
    drain_seconds: float
    """From the last commit until everything had arrived, or nothing came any more."""
    p50: float | None
    p99: float | None
    slowest: float | None
    p99_latest: float | None
    """The 99th percentile of the latest events only: the first events meet a Kafka whose JVM is cold."""
    interrupted: bool
    relay_exit_code: int | None

    @property
    def events_per_second(self) -> float:
        """Committed events per second while the writers wrote."""
        return self.committed_meanwhile / self.seconds if self.seconds else 0.0

    @property
    def ok(self) -> bool:
        """Whether no event was lost, out of order or uncommitted, and the relay ended well."""
        return self.findings.ok and self.relay_exit_code == 0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary for programs."""
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "target_rate": self.target_rate,
            "events_per_second": round(self.events_per_second, 1),
            **asdict(self.findings),
            "latency_ms": {
                "p50": self.p50,
                "p99": self.p99,
                "max": self.slowest,
                "p99_latest": self.p99_latest,
                "is": LATENCY_IS,
            },
            "drain_seconds": round(self.drain_seconds, 3),
            "transactions": asdict(self.counts),
            "relay_exit_code": self.relay_exit_code,
            "interrupted": self.interrupted,
        }

    def verdict(self) -> str:
        """Return the verdict in one sentence."""
        found = self.findings
        if not found.committed:
            return "Nothing was committed, so the demo showed nothing; let it run longer."
        wrong = [
            f"{number:,} {what}"
            for number, what in (
                (found.lost, "committed events never arrived"),
                (found.out_of_order, "events arrived after a later one of their order"),
                (found.uncommitted, "events arrived that were never committed"),
            )
            if number
        ]
        if wrong:
            return f"The promise was broken: {', '.join(wrong)}."
        if self.relay_exit_code:
            return f"Every event arrived in order, but the relay ended with code {self.relay_exit_code}."
        again = f" {found.duplicates:,} arrived twice, which at least once allows." if found.duplicates else ""
        return f"Every committed event arrived in Kafka, those of each order in commit order.{again}"


def page(summary: Summary) -> Group:
    """Return the summary for people: a table and the verdict."""
    found = summary.findings
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    # A narrow terminal cuts the explanations, never the numbers.
    table.add_column(style="bold", no_wrap=True, min_width=12)
    table.add_column(justify="right", no_wrap=True, min_width=10)
    table.add_column(style="dim", no_wrap=True)
    counts = summary.counts
    rows: list[tuple[str, str | Text, str]] = [
        (
            "committed",
            f"{found.committed:,}",
            f"events: {summary.events_per_second:,.0f}/s for {summary.seconds:.0f} s by {counts.writers} writers",
        ),
        ("", "", f"in {counts.committed:,} transactions, {counts.slow:,} of them slow"),
        ("delivered", f"{found.delivered:,}", "of them arrived at the consumer"),
        ("lost", _bad(found.lost), "committed, but never arrived"),
        ("out of order", _bad(found.out_of_order), "arrived after a later event of the same order"),
        ("duplicates", f"{found.duplicates:,}", "arrived once more"),
        (
            "rolled back",
            _bad(found.uncommitted),
            f"arrived, of {counts.rolled_back + counts.savepoints:,} events that were rolled back",
        ),
        ("latency p50", _ms(summary.p50), "from COMMIT until the consumer has the event"),
        ("latency p99", _ms(summary.p99), f"99 % took no longer; 99 % of the latest: {_ms(summary.p99_latest)}"),
    ]
    for row in rows:
        table.add_row(*row)
    mark, style = ("✓", "bold green") if summary.ok else ("✗", "bold red")
    return Group(table, "", Text(f"{mark} {summary.verdict()}", style=style))


def _bad(number: int) -> Text:
    return Text(f"{number:,}", style="bold red" if number else "bold green")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} ms"
