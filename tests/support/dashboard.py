"""The Grafana dashboard: its panels, their queries as Prometheus gets them, and a picture of what they show.

`python -m tests.support.dashboard FILE` runs the relay beside writers for a minute and draws the panels into FILE.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from relay.admin.connection import Outbox
from relay.admin.topics import pause_topics, resume_topics
from relay.local import create_topic
from tests.bench.committing import by_pgbench
from tests.bench.place import PARTITIONS, Place
from tests.support.documents import ROOT
from tests.support.panels import Panel, draw
from tests.support.postgres.outbox import connected
from tests.support.servers.prometheus import Prometheus, prometheus

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = ROOT / "deploy/monitoring/dashboard.json"
RATE_INTERVAL = "5s"
"""What Grafana would put in for `$__rate_interval`: at least four scrapes."""
SECONDS = 60.0
RATE = 500
STEP = 1.0
TOPIC = "orders"
REFUSED = (
    "INSERT INTO outbox.event (topic, key, payload)"
    " SELECT '__not_allowed', convert_to('key-' || i % 7, 'UTF8'), convert_to('x', 'UTF8')"
    " FROM generate_series(1, $1) AS i"
)
"""Events for a topic to which no event may go: they fail, or are held behind those."""


class Query(NamedTuple):
    """One query of a panel."""

    panel: str
    kind: str
    """Of the panel: stat or timeseries."""
    row: str
    unit: str
    expression: str
    legend: str

    def label(self, metric: Mapping[str, str]) -> str:
        """The name of a series in the legend."""
        text = self.legend
        for name, value in metric.items():
            text = text.replace("{{" + name + "}}", value)
        return text or self.panel


def queries() -> list[Query]:
    """All queries of the dashboard, with its variables as Grafana puts them in for all outboxes."""
    found = []
    row = ""
    for panel in json.loads(FILE.read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            expression = target["expr"].replace("$job", ".*").replace("$__rate_interval", RATE_INTERVAL)
            found.append(Query(panel["title"], panel["type"], row, unit, expression, target["legendFormat"]))
    return found


async def without_series(server: Prometheus) -> list[Query]:
    """The queries that have no series now."""
    return [query for query in queries() if not await server.query(query.expression)]


async def picture(server: Prometheus, begin: float, end: float, names: Mapping[str, str]) -> str:
    """The panels between two unix times, as SVG: the numbers at the end, and the curves.

    `names` has other words for some of the legends.
    """
    shown: dict[str, Panel] = {}
    for query in queries():
        curves: dict[str, list[tuple[float, float]]] = {}
        for series in await server.query_range(query.expression, begin, end, STEP):
            points = [(at - begin, float(value)) for at, value in series["values"] if value != "NaN"]
            label = query.label(series["metric"])
            for word, other in names.items():
                label = label.replace(word, other)
            if points:
                curves[label] = points
        if not curves:
            continue
        tile = max(line[-1][1] for line in curves.values()) if query.kind == "stat" else None
        before = shown.get(query.panel)
        both = {**before.curves, **curves} if before is not None else curves
        shown[query.panel] = Panel(query.row, query.panel, query.unit, tile, both)
    note = "what the queries of deploy/monitoring/dashboard.json return"
    return draw("Panels of the dashboard", list(shown.values()), end - begin, note)


async def of_a_trial(place: Place, folder: Path) -> str:
    """Run the relay beside writers, with what an on-call may meet; returns a picture of the panels.

    Some events fail after a third of the time, a transaction stays open in the second third, and a person pauses the
    topic for a while in the last one.
    """
    await create_topic(place.kafka.bootstrap_servers, TOPIC, partitions=PARTITIONS)
    async with (
        place.outbox(TOPIC) as outbox,
        place.relay(outbox, RELAY_SURVEY_INTERVAL="1") as relay,
        prometheus(folder, [relay.port]) as server,
        connected(outbox.dsn) as other,
    ):

        async def trouble() -> None:
            # A counter that appears with its first rise shows none.
            await outbox.connection.execute(REFUSED, 1)
            await asyncio.sleep(SECONDS / 3)
            await outbox.connection.execute(REFUSED, 20)
            async with other.transaction():
                await other.execute("INSERT INTO outbox.event (topic, key) VALUES ($1, 'slow')", TOPIC)
                await asyncio.sleep(SECONDS / 4)
            paused = Outbox(outbox.connection, "outbox")
            await asyncio.sleep(SECONDS / 12)
            await pause_topics(paused, [TOPIC], seconds=SECONDS, reason="a trial", who="tests")
            await asyncio.sleep(SECONDS / 12)
            await resume_topics(paused, [TOPIC], reason="the trial is over", who="tests")

        begin = await server.now()
        await asyncio.gather(by_pgbench(outbox.dsn, outbox.insert, RATE)(SECONDS), trouble())
        return await picture(server, begin, await server.now(), {f"127.0.0.1:{relay.port}": "relay-1"})


if __name__ == "__main__":
    with Place() as place, tempfile.TemporaryDirectory() as folder:
        Path(sys.argv[1]).write_text(asyncio.run(of_a_trial(place, Path(folder))))
