"""What the demo shows: the summary's verdict, and pages that a terminal of 80 x 24 can show whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from rich.console import Console

from relay.demo import page
from relay.demo.check import Findings
from relay.demo.display import LineDisplay, LiveDisplay, display_on
from relay.demo.progress import Arrival, Counts, Phase, Progress
from relay.demo.summary import Summary
from relay.demo.summary import page as summary_page
from relay.postgres.admin.status import Count, Lane, Status

if TYPE_CHECKING:
    from rich.console import RenderableType

GOOD = Findings(committed=1_234_567, delivered=1_234_567, lost=0, out_of_order=0, duplicates=0, uncommitted=0)
SUMMARY = Summary(
    findings=GOOD,
    counts=Counts(committed=987_654, rolled_back=98_765, savepoints=87_654, slow=1_234, foreign=123, writers=18),
    target_rate=1500.0,
    seconds=823.04,
    committed_meanwhile=1_234_560,
    drain_seconds=0.25,
    p50=3.1,
    p99=1234.5,
    slowest=2345.6,
    p99_latest=1123.4,
    interrupted=False,
    relay_exit_code=0,
)


def shown(renderable: RenderableType, width: int = 80) -> list[str]:
    """The lines as they stand on a terminal."""
    console = Console(width=width, height=24, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


def words(lines: list[str]) -> list[list[str]]:
    """The lines without the space between words."""
    return [line.split() for line in lines]


def status(owner: str | None = "demo-relay", free: tuple[int, ...] = ()) -> Status:
    """An outbox with 16 lanes."""
    lanes = [
        Lane(
            lane=number,
            owner=uuid4(),
            replica=None if number in free else owner,
            epoch=1,
            position=0,
            owned_seconds=1.0,
            pending=2,
            oldest_seconds=0.5,
        )
        for number in range(16)
    ]
    return Status(
        schema="outbox",
        version=1,
        database="postgres",
        server="18.4",
        in_recovery=False,
        newest_id=1,
        backlog=Count(123_456, "exact"),
        oldest_seconds=1.94,
        delivered=Count(1, "exact"),
        last_delivered_seconds=0.1,
        failures={},
        held=Count(0, "exact"),
        lanes=lanes,
        replicas=[],
        segments=[],
        stranded=False,
    )


def progress() -> Progress:
    """The middle of a long demo, with large numbers everywhere."""
    made = Progress(seconds=3600.0, elapsed=1234.5, committed=1_234_567, counts=SUMMARY.counts, status=status())
    made.checker.delivered = 1_234_444
    for version in range(1, 21):
        made.latest.append(Arrival(1999, version, "address changed", 5, 200_000 + version, 1234.5))
    for second in range(3):
        made.committing.update(second * 1500, float(second))
        made.arriving.update(second * 1500, float(second))
    return made


def test_the_summary_fits_80_columns_with_every_number_whole() -> None:
    lines = shown(summary_page(SUMMARY))
    assert words(lines) == words(shown(summary_page(SUMMARY), width=200))
    text = "\n".join(lines)
    for number in ("1,234,567", "1,500/s", "186,419", "3.1 ms", "1,234.5 ms"):
        assert number in text
    assert "✓ Every committed event arrived in Kafka" in text


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"lost": 3}, "3 committed events never arrived"),
        ({"out_of_order": 2}, "2 events arrived after a later one"),
        ({"uncommitted": 1}, "1 events arrived that were never committed"),
        ({"committed": 0, "delivered": 0}, "Nothing was committed"),
    ],
)
def test_a_broken_promise_is_said_and_is_no_success(changed: dict[str, int], verdict: str) -> None:
    summary = replace(SUMMARY, findings=replace(GOOD, **changed))
    assert not summary.ok
    assert not summary.as_dict()["ok"]
    assert verdict in summary.verdict()
    assert "✗" in "\n".join(shown(summary_page(summary)))


def test_duplicates_are_told_and_allowed() -> None:
    summary = replace(SUMMARY, findings=replace(GOOD, duplicates=7))
    assert summary.ok
    assert "7 arrived twice" in summary.verdict()


def test_a_relay_that_did_not_end_well_is_no_success() -> None:
    summary = replace(SUMMARY, relay_exit_code=137)
    assert not summary.ok
    assert "137" in summary.verdict()


def test_the_summary_for_machines_is_json_with_all_numbers() -> None:
    told = json.loads(json.dumps(SUMMARY.as_dict()))
    assert told["ok"] is True
    assert told["committed"] == told["delivered"] == 1_234_567
    assert told["events_per_second"] == pytest.approx(1500, rel=0.001)
    assert told["latency_ms"]["p99"] == 1234.5
    assert told["transactions"]["rolled_back"] == 98_765


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
@pytest.mark.parametrize("phase", Phase)
def test_the_running_page_fits_the_terminal(width: int, height: int, phase: Phase) -> None:
    going = progress()
    going.phase = phase
    lines = shown(page.running(going, height, width), width)
    assert len(lines) <= height
    assert len(lines) == min(height, 37)
    # Nothing is cut off; the first line has the bar.
    assert words(lines)[1:] == words(shown(page.running(going, height, 500), 500))[1:]
    text = "\n".join(lines)
    for part in ("1,500/s", "123,456 waiting", "1.9 s", "0-15 owned by demo-relay", "order-1999", "address changed"):
        assert part in text


def test_the_running_page_can_be_shown_before_anything_is_known() -> None:
    assert any("relay demo" in line for line in shown(page.running(Progress(seconds=30.0), 24, 80)))


def test_the_starting_page_shows_what_is_done_and_what_takes_time() -> None:
    starting = page.Starting()
    starting.step("fetching Kafka", 0.0)
    starting.step("starting servers", 31.0)
    lines = shown(starting.page(33.5))
    assert lines[0].split() == ["✓", "fetching", "Kafka", "31.0", "s"]
    assert lines[1].split()[1:] == ["starting", "servers", "2", "s"]
    assert any("await enqueue(" in line for line in lines)


def test_the_idea_and_the_code_fit_80_columns() -> None:
    assert all(len(line) < 80 for line in page.IDEA)
    assert all(len(line) <= 74 for line in page.CODE)


def test_lanes_are_shown_by_owner_and_free_ones_last() -> None:
    assert page.owners(status()) == [("demo-relay", "0-15")]
    assert page.owners(status(free=(3, 5, 6, 15))) == [("demo-relay", "0-2 4 7-14"), ("nobody", "3 5-6 15")]
    assert page.owners(None) == []


def test_off_a_terminal_progress_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=80, force_terminal=False)
    display = display_on(console)
    assert isinstance(display, LineDisplay)
    with display:
        display.step("starting servers")
        display.show(progress())
        display.show(progress())
    lines = capsys.readouterr().out.splitlines()
    assert "starting servers" in lines
    (line,) = (line for line in lines if "committed 1,234,567" in line)
    assert "delivered 1,234,444" in line
    assert "\x1b" not in line


def test_a_terminal_that_can_gets_the_live_page() -> None:
    assert isinstance(display_on(Console(force_terminal=True, _environ={"TERM": "xterm"})), LiveDisplay)
    assert isinstance(display_on(Console(force_terminal=True, _environ={"TERM": "dumb"})), LineDisplay)
