"""Where the relay's own time goes, by py-spy: while it drains a backlog, and at a steady rate."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import click

from relay.local.errors import MissingPartError
from tests.bench.command import output, run
from tests.bench.committing import by_pgbench
from tests.bench.drain import LONGEST
from tests.bench.figures import PARTS, Figures
from tests.bench.place import LOOK_INTERVAL
from tests.bench.process import Tool
from tests.bench.report import Report, interleave
from tests.bench.warming import warm_up, warmed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.bench.place import Place
    from tests.bench.process import RelayProcess

SAMPLES_PER_SECOND = 200
START_EVENTS = 0.1
"""Part of a backlog after which the profile begins."""
START_SECONDS = 30
LEAST_SECONDS = 1.0
WARM_UP = 3.0
"""Seconds at a rate before the profile begins."""


class Frame(NamedTuple):
    """One call on a stack: `ScanConnection.scan` in `relay/postgres/flow/scan.py`."""

    function: str
    file: str


# The innermost call that one of these fits says which part a sample belongs to: function (or its beginning), file (or
# its beginning).
WHERE = (
    ("part_settle", "LaneScan.settle", "relay/decide/lane_scan.py"),
    ("part_scan", "ScanConnection.", "relay/postgres/flow/scan.py"),
    ("part_scan", "", "relay/stages/scan/"),
    ("part_scan", "", "relay/decide/lane_scan.py"),
    ("part_route", "", "relay/stages/publish/topic.py"),
    ("part_route", "", "relay/decide/routing.py"),
    ("part_route", "", "relay/kafka/partitioner.py"),
    ("part_pack", "", "relay/kafka/packing.py"),
    ("part_send", "KafkaProducer.send", "relay/kafka/producer.py"),
    ("part_send", "", "relay/kafka/produce.py"),
    ("part_send", "", "relay/kafka/connection.py"),
    ("part_send", "", "relay/kafka/connections.py"),
    ("part_send", "", "aiokafka/producer/sender.py"),
    ("part_send", "", "aiokafka/client.py"),
    ("part_send", "", "aiokafka/conn.py"),
    ("part_publish", "", "relay/stages/publish/"),
    ("part_settle", "SettleConnection.", "relay/postgres/flow/settle.py"),
    ("part_settle", "", "relay/stages/settle/"),
    ("part_metrics", "", "relay/telemetry/"),
    ("part_metrics", "", "relay/run/http.py"),
    ("part_metrics", "", "prometheus_client/"),
)
ROOT_CALL = "Runner.run"
"""What all that runs in the event loop has near its root; py-spy before 0.4.3 knows it by another name."""


async def measure_profile(place: Place, events: int, rate: float, seconds: float, rounds: int) -> Report:
    """Profiles of both, in turn."""
    await warm_up(place)
    series = await interleave(
        rounds,
        {
            "draining": lambda: draining(place, events),
            f"{rate:g}/s": lambda: steady(place, rate, seconds),
        },
    )
    what = "Where the relay's time goes: percent of that in which it runs or waits for a core"
    parameters: dict[str, object] = {"events": events, "rate": rate, "seconds": seconds}
    return Report("profile", what, parameters, series, bars=tuple(PARTS), machine=place.machine)


@click.command
@click.option("--events", default=1_000_000, show_default=True, help="Backlog to drain.")
@click.option("--rate", default=1_000.0, show_default=True, help="Events per second, when there is no backlog.")
@click.option("--seconds", default=15.0, show_default=True, help="Of that rate.")
@click.option("--rounds", default=3, show_default=True)
@warmed
@output
def profile_command(
    events: int, rate: float, seconds: float, rounds: int, warm_up: float, json_file: Any, picture: Path | None
) -> None:
    """Where the relay's time goes, while draining and at a rate, by py-spy. May need to be root."""
    run(lambda place: measure_profile(place, events, rate, seconds, rounds), json_file, picture, warm_up)


async def draining(place: Place, events: int) -> Figures:
    """A profile of the relay from when a tenth of a backlog is done until all is."""
    async with place.outbox() as outbox:
        await outbox.fill(events)
        async with place.relay(outbox) as relay:
            await _settled(relay, round(events * START_EVENTS))
            with tempfile.TemporaryDirectory(prefix="bench-profile-") as folder:
                async with Profiler(Path(folder), relay.pid) as profiler:
                    if await relay.settled() >= events:
                        raise RuntimeError("the backlog was drained before py-spy looked; take more events")
                    await _settled(relay, events)
                    await profiler.enough()
                return profiler.parts()


async def steady(place: Place, rate: float, seconds: float) -> Figures:
    """A profile of the relay at a rate."""
    async with place.outbox() as outbox, place.relay(outbox) as relay:
        commit = by_pgbench(outbox.dsn, outbox.insert, rate)
        await commit(WARM_UP)
        with tempfile.TemporaryDirectory(prefix="bench-profile-") as folder:
            async with Profiler(Path(folder), relay.pid) as profiler:
                await commit(seconds)
                await profiler.enough()
            return profiler.parts()


class Profiler(Tool):
    """py-spy, from when it looks until the end of the context."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._found = folder / "stacks"
        self._said = folder / "py-spy.log"
        self._since = 0.0
        super().__init__(
            [
                *(py_spy(), "record", f"--pid={pid}", f"--rate={SAMPLES_PER_SECOND}", "--function", "--format=raw"),
                f"--output={self._found}",
            ],
            log=self._said,
            stop_with=signal.SIGINT,
        )

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        async with asyncio.timeout(START_SECONDS):
            while "Sampling process" not in self._said.read_text():
                self.check()
                await asyncio.sleep(LOOK_INTERVAL)
        self._since = time.monotonic()
        return self

    async def enough(self) -> None:
        """Wait until it has had the time for samples at all; stopped before, it may keep none."""
        await asyncio.sleep(max(0.0, self._since + LEAST_SECONDS - time.monotonic()))
        self.check()

    def parts(self) -> Figures:
        """Percent of the samples by part; after the end."""
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
    in_loop = 0
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        samples[part_of([_frame(call) for call in stack.split(";")])] += int(count)
        in_loop += int(count) * (ROOT_CALL in stack)
    total = samples.total()
    if in_loop < total / 2 or not total:
        raise RuntimeError(f"of {total} samples of py-spy only {in_loop} are in the event loop; is it 0.4.3 or later?")
    return {part: samples[part] / total * 100 for part in PARTS}


def part_of(stack: list[Frame]) -> str:
    """Which part a stack, from the outermost call on, belongs to."""
    for frame in reversed(stack):
        for part, function, file in WHERE:
            if frame.file.startswith(file) and frame.function.startswith(function):
                return part
    # Nothing of ours is being called: the loop itself, or what asyncio and uvloop do for sockets and timers.
    return "part_loop" if stack[-1].file.startswith(("asyncio/", "uvloop/")) else "part_other"


def _frame(call: str) -> Frame:
    found = re.fullmatch(r"(.*) \((.*?)(?::\d+)?\)", call)
    return Frame(found[1], found[2]) if found else Frame(call, "")


async def _settled(relay: RelayProcess, events: int) -> None:
    async with asyncio.timeout(LONGEST):
        while await relay.settled() < events:
            relay.check()
            await asyncio.sleep(LOOK_INTERVAL)
