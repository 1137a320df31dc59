"""Dashboard and alerts on a real Prometheus that scrapes a running relay."""

from __future__ import annotations

import asyncio
import re
import sys
from html import escape
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from tests.support.dashboard import picture, queries, without_series
from tests.support.documents import ROOT
from tests.support.kafka.topics import alter_topic
from tests.support.postgres.outbox import add_event, connected
from tests.support.relay.process import environment
from tests.support.servers.certificates import Authority
from tests.support.servers.prometheus import prometheus
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic
    from tests.support.servers.prometheus import Prometheus

SURVEY_INTERVAL = 0.2


def rules_that_wait_for_nothing(folder: Path) -> Path:
    """The alert rules without their `for`, which would make a test wait for minutes."""
    rules = (ROOT / "deploy/monitoring/alerts.yaml").read_text()
    patient = re.compile(r"^ +for: .*\n", re.MULTILINE)
    assert patient.search(rules)
    (folder / "alerts.yaml").write_text(patient.sub("", rules))
    return folder / "alerts.yaml"


async def relay_command(here: Place, *arguments: str) -> None:
    """Run one of the relay's commands as a person would."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "relay", *arguments),
        env=environment(postgres_dsn=here.dsn, kafka_bootstrap_servers=here.bootstrap_servers),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def fires_only(server: Prometheus, *alerts: str) -> None:
    """Wait until these alerts fire, and no others."""

    async def look() -> bool:
        return await server.firing() == set(alerts)

    try:
        await until(f"firing: {alerts}", look, 60.0)
    except AssertionError as error:
        raise AssertionError(f"{error}; firing: {await server.firing()}") from None


@pytest.mark.proof
async def test_every_query_of_the_dashboard_has_series_and_a_picture(here: Place, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", "right")
    here.dsn += f"?sslmode=disable&sslrootcert={authority.certificate}"
    async with (
        here.relay(survey_interval=SURVEY_INTERVAL) as relay,
        prometheus(tmp_path, [relay.http_port]) as server,
    ):
        await relay.ready()
        begin = await server.now()

        async def all_have_series() -> bool:
            await add_event(here.connection, topic=here.topic)
            return not await without_series(server)

        try:
            await until("every query has series", all_have_series, 60.0)
        except AssertionError as error:
            raise AssertionError(f"{error}; without: {await without_series(server)}") from None

        async def all_have_curves() -> bool:
            drawn = await picture(server, begin, await server.now(), {})
            return all(f">{escape(query.panel)}<" in drawn for query in queries() if query.kind == "timeseries")

        await until("every panel has a curve", all_have_curves)


@pytest.mark.proof
async def test_four_alerts_fire_when_they_should_and_end_with_the_commands_of_the_run_book(
    here: Place, make_topic: MakeTopic, tmp_path: Path
) -> None:
    small, missing = make_topic(1, **{"max.message.bytes": 2_000}), f"{here.topic}-missing"
    async with (
        here.relay(survey_interval=SURVEY_INTERVAL) as relay,
        prometheus(tmp_path, [relay.http_port], rules_that_wait_for_nothing(tmp_path)) as server,
    ):
        await relay.ready()
        await fires_only(server)

        await add_event(here.connection, topic=small, payload="x" * 5_000)
        await fires_only(server, "OutboxEventsFailed")
        await alter_topic(here.bootstrap_servers, small, max_message_bytes=1_000_000)
        await relay_command(
            here, "failed", "replay", "--topic", small, "--yes", "--wait", "--reason", "raised the limit"
        )
        await fires_only(server)

        await add_event(here.connection, topic=missing)
        await fires_only(server, "OutboxTopicTroubled")
        await create_topic(here.bootstrap_servers, missing, partitions=1)
        await fires_only(server)

        await relay_command(here, "lanes", "release", "0-15", "--for", "1h", "--reason", "a trial")
        await fires_only(server, "OutboxRelayLanesWithoutOwner")
        await relay_command(here, "lanes", "release", "0-15", "--reason", "the trial is over")
        await fires_only(server)

        await relay_command(here, "topics", "pause", here.topic, "--for", "1h", "--reason", "a trial")
        await fires_only(server, "OutboxTopicPaused")
        await relay_command(here, "topics", "resume", here.topic)
        await fires_only(server)


async def test_a_transaction_that_stays_open_holds_the_floor_and_unowned_lanes_show_their_backlog(here: Place) -> None:
    async with here.relay(survey_interval=SURVEY_INTERVAL) as relay, connected(here.dsn) as other:
        await relay.ready()

        async def shows(name: str, wanted: Callable[[float], bool]) -> None:
            async def look() -> bool:
                return wanted(await relay.metric(name))

            await until(f"{name} is as it should be", look)

        transaction = other.transaction()
        await transaction.start()
        await add_event(other, "slow", here.topic)
        for _ in range(3):
            await add_event(here.connection, topic=here.topic)
        await shows("floor_lag_ids", lambda ids: ids >= 4)
        await shows("floor_lag_seconds", lambda seconds: seconds > 0)
        await transaction.commit()
        await here.settled()
        await shows("kafka_connections", lambda connections: connections >= 1)
        await shows("floor_lag_ids", lambda ids: ids == 0)
        await shows("floor_lag_seconds", lambda seconds: seconds == 0)

        await relay_command(here, "lanes", "release", "0-15", "--for", "1h", "--reason", "a trial")
        await shows("lanes_owned", lambda lanes: lanes == 0)
        for _ in range(5):
            await add_event(here.connection, topic=here.topic)
        await shows("outbox_pending_events", lambda events: events == 5)
        await shows("outbox_pending_oldest_seconds", lambda seconds: seconds > 0)
        await relay_command(here, "lanes", "release", "0-15", "--reason", "the trial is over")
        await shows("outbox_pending_events", lambda events: events == 0)
        await relay.stop()
