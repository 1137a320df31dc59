"""When records arrive at a consumer, which is a process of its own: the load's work does not keep it waiting.

`python -m tests.bench.arrivals BOOTSTRAP_SERVERS TOPIC FILE` writes a line for each record: the first word of its value
and the time (Unix, seconds) at which the consumer had it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aiokafka import AIOKafkaConsumer

from tests.bench.process import ROOT, Tool

if TYPE_CHECKING:
    from tests.bench.place import Place

START_SECONDS = 30
WAIT_SECONDS = 60
LOOK_INTERVAL = 0.1


class Arrivals(Tool):
    """The consumer of a topic, from its beginning on; `folder` is for its files."""

    def __init__(self, place: Place, topic: str, folder: Path) -> None:
        self._found = folder / "arrivals"
        command = [sys.executable, "-m", "tests.bench.arrivals", place.kafka.bootstrap_servers, topic, str(self._found)]
        super().__init__(command, folder=ROOT, log=folder / "consumer.log")

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        async with asyncio.timeout(START_SECONDS):
            while not self._found.exists():
                self.check()
                await asyncio.sleep(LOOK_INTERVAL)
        return self

    async def of(self, names: set[str]) -> dict[str, float]:
        """When the events with these names arrived first; waits until all have. Raises RuntimeError if some do not."""
        deadline = time.monotonic() + WAIT_SECONDS
        while missing := names - (arrived := self._read()).keys():
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(missing)} of {len(names)} events have not arrived after {WAIT_SECONDS} s")
            await asyncio.sleep(LOOK_INTERVAL)
        return arrived

    def _read(self) -> dict[str, float]:
        arrived: dict[str, float] = {}
        for line in self._found.read_text().splitlines(keepends=True):
            name, _, at = line.rpartition(" ")
            # The last line may be half written.
            if at.endswith("\n"):
                arrived.setdefault(name, float(at))
        return arrived


async def consume(bootstrap_servers: str, topic: str, path: Path) -> None:
    """Write down what arrives, until cancelled; the file is there from when the consumer is ready."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        auto_offset_reset="earliest",
        # For who delivers in transactions; to others it makes no difference.
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        with path.open("w") as file:
            while True:
                found = await consumer.getmany(timeout_ms=1000)
                now = time.time()
                values = [record.value or b"-" for records in found.values() for record in records]
                names = [value.split(maxsplit=1)[0].decode() for value in values]
                file.write("".join(f"{name} {now:.6f}\n" for name in names))
                file.flush()
    finally:
        await consumer.stop()


async def main(bootstrap_servers: str, topic: str, path: Path) -> None:
    """Until SIGTERM."""
    consuming = asyncio.create_task(consume(bootstrap_servers, topic, path))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consuming.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await consuming


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
