"""Every benchmark runs, with tiny sizes, and reports what it is there to report; the values mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from relay.local.errors import MissingPartError
from relay.run.connections import CONNECTIONS
from tests.bench import compare, connect, debezium, warming
from tests.bench.contenders import STREAMING, what_is_missing
from tests.bench.drain import measure_held_snapshot
from tests.bench.everything import markdown
from tests.bench.failures import measure_bad_event, measure_missing_topic
from tests.bench.figures import PARTS
from tests.bench.idle import measure_idle
from tests.bench.late import measure_late_commit
from tests.bench.latency import measure_latency
from tests.bench.memory import measure_memory
from tests.bench.outage import measure_outage
from tests.bench.place import Place
from tests.bench.profiles import measure_profile
from tests.bench.report import Report
from tests.bench.scale import measure_scale
from tests.bench.soak import measure_soak
from tests.bench.writers import measure_writers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

USAGE = {
    *("relay_cpu_us", "postgres_cpu_us", "kafka_cpu_us", "rss_mb", "postgres_rss_mb", "kafka_rss_mb"),
    *("all_cpu_us", "wal_bytes", "disk_bytes", "commits", "wal_fsyncs"),
}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    # Debezium needs the setting, the others do not mind.
    with Place(wal_level="logical") as place:
        yield place


def check(report: Report, figures: set[str]) -> None:
    """Every series has these figures in every round, every finding has values, and all of it can be written."""
    found = json.loads(json.dumps(report.as_json()))
    assert found["series"]
    for name, rounds in found["series"].items():
        for each in rounds:
            assert figures <= each.keys(), name
    assert found["findings"]
    for finding in found["findings"]:
        assert finding["values"], finding["what"]
    assert found["machine"].keys() >= {"cores", "Python", "interpreter", "PostgreSQL", "Kafka", "aiokafka"}
    assert len(report.markdown()) == len(report.findings)


@pytest.mark.proof
def test_the_command_prints_json_with_the_figures_and_draws_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "drain.svg"
    command = ["drain", "--events", "2000", "--rounds", "2", "--warm-up", "1", "--json", "-", "--picture", str(picture)]
    answer = subprocess.run(
        [sys.executable, "-m", "tests.bench", *command], capture_output=True, text=True, check=False, timeout=400
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["benchmark"] == "drain"
    report = Report.from_json(found)
    check(report, {"events_per_second", "last_to_second", "loop_delay_ms", *USAGE})
    assert [each["events"] for each in report.series["drain"]] == [2000, 2000]
    assert all(each["events_per_second"] > 0 for each in report.series["drain"])
    assert "Where the time goes" in markdown([report])
    assert report.machine["broker warmed up for"] == "1 s"
    rows = {finding.what for finding in report.findings}
    assert {"CPU of all processes per event while draining", "WAL per event while draining"} < rows
    texts = [element.text for element in ElementTree.parse(picture).iter() if element.tag.endswith("text")]
    assert "events/s" in texts


@pytest.mark.proof
async def test_held_snapshot(place: Place) -> None:
    check(await measure_held_snapshot(place, events=1_000, rounds=1), {"events_per_second", *USAGE})


@pytest.mark.proof
async def test_latency(place: Place) -> None:
    check(
        await measure_latency(place, rate=50, seconds=2, rounds=1),
        {"p50_ms", "p99_ms", "max_ms", "before_commit_returned"},
    )


def untraceable() -> str:
    """Why py-spy cannot look into a process that is not its child; empty if it can."""
    if sys.version_info >= (3, 14):
        return "py-spy does not know every Python 3.14"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() != 0 and (sys.platform != "linux" or (scope.exists() and scope.read_text().strip() != "0")):
        return "looking into other processes takes root here"
    return ""


@pytest.mark.proof
@pytest.mark.skipif(untraceable() != "", reason=untraceable())
async def test_profile(place: Place) -> None:
    report = await measure_profile(place, events=600_000, rate=100, seconds=2, rounds=1)
    assert report.series.keys() == {"draining", "100/s"}
    for (parts,) in report.series.values():
        assert parts.keys() == PARTS.keys()
        assert sum(parts.values()) == pytest.approx(100)
        assert parts["part_scan"] > 0
        assert parts["part_other"] < 50


@pytest.mark.proof
async def test_bad_event(place: Place) -> None:
    check(await measure_bad_event(place, events=1_000, rounds=1), {"events_per_second"})


@pytest.mark.proof
async def test_missing_topic_compares_the_same_events(place: Place) -> None:
    report = await measure_missing_topic(place, events=1_100, rounds=1)
    check(report, {"events_per_second"})
    assert [each["events"] for rounds in report.series.values() for each in rounds] == [1_000, 1_000]


@pytest.mark.proof
async def test_compare_says_clearly_which_contenders_cannot_be_had(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_maven(*, fetch: bool) -> Path:
        raise MissingPartError("there is no mvn; install it")

    def no_network(*, fetch: bool) -> Path:
        raise MissingPartError("check the network")

    monkeypatch.setattr(debezium, "distribution", no_maven)
    monkeypatch.setattr(connect, "plugin", no_network)
    report = await compare.measure_compare(place, events=2_000, rate=50, seconds=1, rounds=1)
    assert list(report.series) == ["this relay", "naive relay"]
    check(report, {"events_per_second", *USAGE})
    (ours,) = report.series["this relay"]
    assert ours["p50_ms"] > 0
    assert ours["all_cpu_us"] == pytest.approx(sum(ours[f"{one}_cpu_us"] for one in ("relay", "postgres", "kafka")))
    rows = {finding.what for finding in report.findings}
    assert rows >= {
        f"This relay: {what} per event" for what in ("CPU of all processes", "CPU of PostgreSQL", "WAL", "disk")
    }
    assert "WITHOUT Debezium Server: there is no mvn; install it" in report.notes
    for name in ("Kafka Connect", "Kafka Connect, exactly once"):
        assert f"WITHOUT {name}: check the network" in report.notes


def streaming(names: Sequence[str] = STREAMING) -> list[object]:
    """Those of Debezium, each skipped with what is missing if it cannot run without a download."""
    missing = {name: what_is_missing(name, fetch=False) for name in names}
    return [
        pytest.param(name, marks=pytest.mark.skipif(why != "", reason=why), id=name) for name, why in missing.items()
    ]


@pytest.mark.proof
@pytest.mark.parametrize("name", streaming())
async def test_debezium_streams_a_backlog(place: Place, name: str) -> None:
    drained = await compare.drain(place, name, 2_000)
    assert drained.keys() >= {"events_per_second", *USAGE}
    assert drained["events"] == 2_000


@pytest.mark.proof
@pytest.mark.parametrize("name", streaming())
async def test_debezium_moves_events_at_a_rate(place: Place, name: str) -> None:
    waited = await compare.wait(place, name, rate=50, seconds=1)
    assert waited.keys() == set(compare.AT_A_RATE)
    assert waited["p50_ms"] > 0


@pytest.mark.proof
async def test_the_broker_is_warmed_up_by_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "BACKLOG", 500)
    monkeypatch.setattr(place, "warm_up_seconds", 3.0)
    begin = time.monotonic()
    await warming.warm_up(place)
    assert time.monotonic() - begin >= 3
    monkeypatch.setattr(place, "warm_up_seconds", 0.0)
    monkeypatch.setattr(place, "topic", None)
    await warming.warm_up(place)


@pytest.mark.proof
async def test_writers(place: Place) -> None:
    report = await measure_writers(place, seconds=2, rate=50, rounds=1)
    check(report, {"transactions_per_second", "average_ms", "postgres_cpu_percent", "wal_fsyncs_per_second"})
    assert report.series["relay, 50/s"][0]["lag_events"] >= 0
    rows = {finding.what for finding in report.findings}
    assert "Writers at 50/s: CPU of PostgreSQL that the relay adds" in rows


@pytest.mark.proof
async def test_memory(place: Place) -> None:
    check(await measure_memory(place, small=500, large=1_000, rounds=1), {"rss_mb"})


@pytest.mark.proof
async def test_late_commit(place: Place) -> None:
    report = await measure_late_commit(place, passed=1_000, own=1_000, seconds=5, rounds=1)
    check(report, {"events", "p50_ms", "p99_ms", "max_ms"})


@pytest.mark.proof
async def test_idle(place: Place) -> None:
    report = await measure_idle(place, seconds=1, history=200, rounds=1, settle=0)
    check(report, {"commits_per_second", "relay_cpu_percent", "postgres_cpu_percent", "wal_bytes_per_second"})


@pytest.mark.proof
async def test_outage(place: Place) -> None:
    report = await measure_outage(place, rate=50, seconds=1, before=3, rounds=1)
    check(report, {"writers_before", "writers_during", "rss_growth_mb", "catch_up_per_second", "drain_per_second"})
    check(
        report,
        {"outage_seconds", "first_receipt_seconds", "cold_drain_per_second", "cold_drain_beside_writers_per_second"},
    )
    (found,) = report.series["outage"]
    assert (found["lost"], found["out_of_order"]) == (0, 0)
    assert found["writers_before"] > 0
    (curves,) = report.curves.values()
    assert curves["written"]
    assert curves["delivered"]


@pytest.mark.proof
async def test_soak(place: Place) -> None:
    report = await measure_soak(place, rate=50, seconds=1)
    check(report, {"rss_growth_mb", "connections", "file_handles", "threads", "tasks", "lag_events", *USAGE})
    assert report.series["soak"][0]["connections"] >= len(CONNECTIONS)


@pytest.mark.proof
async def test_scale(place: Place) -> None:
    report = await measure_scale(place, events=1_000, rounds=1)
    check(report, {"events_per_second", "relay_cpu_us"})
    assert list(report.series) == ["1", "2", "8", "1, far", "2, far", "1, far, 1 partition", "2, far, 1 partition"]
