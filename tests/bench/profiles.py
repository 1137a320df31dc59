"""Where the relay's own time goes, by py-spy: while it drains a backlog, and at a steady rate."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from relay.local.errors import MissingPartError
from tests.bench.command import output, run
from tests.bench.committing import by_pgbench
from tests.bench.figures import PARTS, Figures
from tests.bench.place import LOOK_INTERVAL
from tests.bench.process import Tool
from tests.bench.report import Report, interleave

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.bench.place import Place
    from tests.bench.process import RelayProcess

SAMPLES_PER_SECOND = 200
START_EVENTS = 0.1
"""Part of a backlog after which the profile begins."""


class Frame(NamedTuple):
    """One call on a stack: `ScanConnection.scan` in `relay/postgres/outbox.py`."""

    function: str
    file: str


# The innermost call that one of these fits says which part a sample belongs to: function (or its beginning), file.
WHERE = (
    ("part_scan", "ScanConnection.", "relay/postgres/outbox.py"),
    ("part_scan", "", "relay/stages/scan.py"),
    ("part_scan", "", "relay/decide/lane_scan.py"),
    ("part_route", "", "relay/stages/topic.py"),
    ("part_route", "", "relay/decide/routing.py"),
    ("part_route", "", "relay/kafka/partitioner.py"),
    ("part_pack", "KafkaProducer.pack", "relay/kafka/producer.py"),
    ("part_send", "KafkaProducer.send", "relay/kafka/producer.py"),
    ("part_send", "", "aiokafka/producer/sender.py"),
    ("part_send", "", "aiokafka/client.py"),
    ("part_send", "", "aiokafka/conn.py"),
    ("part_publish", "", "relay/stages/publish.py"),
    ("part_publish", "", "relay/stages/partition.py"),
    ("part_settle", "SettleConnection.", "relay/postgres/outbox.py"),
    ("part_settle", "", "relay/stages/settle.py"),
    ("part_metrics", "", "relay/telemetry/"),
    ("part_loop", "Runner.run", "asyncio/runners.py"),
)


async def measure_profile(place: Place, events: int, rate: float, seconds: float, rounds: int) -> Report:
    """Profiles of both, in turn."""
    await place.warm_up(events)
    series = await interleave(
        rounds,
        {
            "draining": lambda: draining(place, events),
            f"{rate:g}/s": lambda: steady(place, rate, seconds),
        },
    )
    what = "Where the relay's own CPU time goes, percent"
    parameters: dict[str, object] = {"events": events, "rate": rate, "seconds": seconds}
    notes = [f"{PARTS['part_loop']}: what runs below the event loop without a call in Python"]
    return Report("profile", what, parameters, series, [], notes, bars=tuple(PARTS), machine=place.machine)


@click.command
@click.option("--events", default=1_000_000, show_default=True, help="Backlog to drain.")
@click.option("--rate", default=1_000.0, show_default=True, help="Events per second, when there is no backlog.")
@click.option("--seconds", default=15.0, show_default=True, help="Of that rate.")
@click.option("--rounds", default=3, show_default=True)
@output
def profile_command(
    events: int, rate: float, seconds: float, rounds: int, json_file: Any, picture: Path | None
) -> None:
    """Where the relay's own CPU time goes, while draining and at a rate, by py-spy."""
    run(lambda place: measure_profile(place, events, rate, seconds, rounds), json_file, picture)


async def draining(place: Place, events: int) -> Figures:
    """A profile of the relay from when a tenth of a backlog is done until all is."""
    async with place.outbox() as outbox:
        await outbox.fill(events)
        async with place.relay(outbox) as relay:
            await _settled(relay, round(events * START_EVENTS))
            with tempfile.TemporaryDirectory(prefix="bench-profile-") as folder:
                async with Profiler(Path(folder), relay.pid) as profiler:
                    await _settled(relay, events)
                return profiler.parts()


async def steady(place: Place, rate: float, seconds: float) -> Figures:
    """A profile of the relay at a rate."""
    async with place.outbox() as outbox, place.relay(outbox) as relay:
        with tempfile.TemporaryDirectory(prefix="bench-profile-") as folder:
            async with Profiler(Path(folder), relay.pid) as profiler:
                await by_pgbench(outbox.dsn, outbox.insert, rate)(seconds)
            return profiler.parts()


class Profiler(Tool):
    """py-spy, from the start until the end of the context."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._found = folder / "stacks"
        super().__init__(
            [
                *(py_spy(), "record", f"--pid={pid}", f"--rate={SAMPLES_PER_SECOND}", "--function", "--format=raw"),
                f"--output={self._found}",
            ],
            log=folder / "py-spy.log",
            stop_with=signal.SIGINT,
        )

    def parts(self) -> Figures:
        """Percent of the samples by part; after the end."""
        if not self._found.exists():
            raise RuntimeError(f"py-spy found nothing{self._end_of_log()}")
        return parts_of(self._found.read_text().splitlines())


def py_spy() -> str:
    """The program; it comes with the extra `dev`.

    Raises:
        MissingPartError: if it is not there.
    """
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise MissingPartError("there is no py-spy; install this project's extra `dev`")
    return found


def parts_of(stacks: Iterable[str]) -> Figures:
    """Percent by part, of py-spy's raw format: a line per stack, its calls from the outermost, and its samples."""
    samples: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        samples[part_of([_frame(call) for call in stack.split(";")])] += int(count)
    total = samples.total()
    if not total:
        raise RuntimeError("py-spy has no samples")
    return {part: samples[part] / total * 100 for part in PARTS}


def part_of(stack: list[Frame]) -> str:
    """Which part a stack, from the outermost call on, belongs to."""
    for frame in reversed(stack):
        for part, function, file in WHERE:
            if frame.file.startswith(file) and frame.function.startswith(function):
                # All that runs in the loop has this at its root.
                return part if part != "part_loop" or frame is stack[-1] else "part_other"
    return "part_other"


def _frame(call: str) -> Frame:
    found = re.fullmatch(r"(.*) \((.*?)(?::\d+)?\)", call)
    return Frame(found[1], found[2]) if found else Frame(call, "")


async def _settled(relay: RelayProcess, events: int) -> None:
    while await relay.settled() < events:
        relay.check()
        await asyncio.sleep(LOOK_INTERVAL)
