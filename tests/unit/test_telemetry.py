"""Telemetry: one table; lines once per change; metrics; the libraries' records through the same renderer."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import relay
from relay.settings import LogSettings
from relay.telemetry import HAPPENINGS, METRICS, MOST_SERIES, OTHERS, Telemetry, Told
from relay.telemetry.describe import happenings_reference, metrics_reference
from relay.telemetry.logs import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.telemetry import Logger


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def configured() -> Iterator[Callable[[LogSettings, io.StringIO], Logger]]:
    """Configures logging; afterwards the process logs as before."""
    root = logging.getLogger()
    named = [root, *(logging.getLogger(name) for name in ("aiokafka", "asyncpg", "aiohttp.access"))]
    before = [(logger, logger.level, logger.handlers[:]) for logger in named]
    yield configure
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


class Log:
    """A telemetry and what it wrote."""

    def __init__(self, configured: Callable[[LogSettings, io.StringIO], Logger], level: str = "info") -> None:
        self.stream = io.StringIO()
        settings = LogSettings.model_validate({"level": level, "format": "json"})
        self.telemetry = Telemetry(configured(settings, self.stream))

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def told(self) -> list[object]:
        return [line.get("happening") for line in self.lines]


@pytest.fixture
def log(configured: Callable[[LogSettings, io.StringIO], Logger]) -> Log:
    return Log(configured)


def test_an_unknown_happening_is_a_bug() -> None:
    with pytest.raises(LookupError, match=r"no\.such"):
        Telemetry().emit("no.such")


@pytest.mark.parametrize("fields", [{}, {"lane": 1}, {"lane": 1, "ids": 2, "more": 3}])
def test_fields_that_are_not_those_of_the_table_are_a_bug(fields: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"sweep\.started"):
        Telemetry().emit("sweep.started", **fields)


def test_a_listener_hears_each_emission_also_one_that_changes_no_state() -> None:
    telemetry = Telemetry(clock=lambda: 7.5)
    heard: list[Told] = []
    telemetry.listen("kafka.lost", heard.append)
    for _ in range(2):
        telemetry.emit("kafka.lost", error="refused")
        telemetry.emit("kafka.waiting", error="refused")
    assert heard == [Told("kafka.lost", 7.5, {"error": "refused"})] * 2
    assert telemetry.value("kafka_lost_total") == 1


def test_a_listener_hears_all_happenings_of_a_prefix_and_no_others() -> None:
    telemetry = Telemetry()
    heard: list[str] = []
    telemetry.listen("kafka.", lambda told: heard.append(told.happening))
    telemetry.listen("topic.paused", lambda told: heard.append(told.happening))
    telemetry.emit("kafka.waiting", error="refused")
    telemetry.emit("kafka.connected")
    telemetry.emit("topic.paused", topic="orders", error="no leader")
    telemetry.emit("topic.paused_too", topic="bills", error="no leader")
    assert heard == ["kafka.waiting", "kafka.connected", "topic.paused"]


def test_listeners_hear_in_the_order_of_listening_and_before_a_line_is_written() -> None:
    order: list[str] = []

    class Noting:
        def log(self, level: int, event: str, /, **fields: object) -> None:
            order.append("line")

    telemetry = Telemetry(Noting())
    telemetry.listen("lease.lost", lambda _: order.append("first"))
    telemetry.listen("lease.", lambda _: order.append("second"))
    telemetry.emit("lease.lost", reason="expired")
    assert order == ["first", "second", "line"]


@pytest.mark.parametrize("name", ["kafka.gone", "kafka", "kaf", "", ".", "no.such."])
def test_to_listen_to_what_cannot_happen_is_a_bug(name: str) -> None:
    with pytest.raises(LookupError, match="table of happenings"):
        Telemetry().listen(name, lambda _: None)


def test_every_happening_can_be_emitted_and_every_update_names_a_metric_and_fields_that_exist() -> None:
    telemetry = Telemetry(logger=None)
    for name, happening in HAPPENINGS.items():
        telemetry.emit(name, **dict.fromkeys(happening.fields, 1))
        for update in happening.updates:
            assert METRICS[update.metric].labels == update.labels
            assert not isinstance(update.by, str) or update.by in happening.fields


def test_every_registered_metric_is_in_the_table_and_follows_the_conventions() -> None:
    telemetry = Telemetry()
    registered = {family.name for family in telemetry.registry.collect()}

    own = {name for name in registered if not name.startswith("process_")}
    assert own == {f"relay_{name.removesuffix('_total')}" for name in METRICS}
    for name, metric in METRICS.items():
        assert (metric.kind == "counter") == name.endswith("_total"), name
        assert metric.kind != "histogram" or name.endswith("_seconds"), name
        assert metric.help.endswith("."), name


def test_the_references_have_every_metric_and_every_logged_happening() -> None:
    for name in METRICS:
        assert f"| `relay_{name}` |" in metrics_reference()
    for name, happening in HAPPENINGS.items():
        assert (f"| `{name}` |" in happenings_reference()) == (happening.level is not None)


def calls_in_the_code(method: str) -> Iterator[tuple[str, str, set[str | None]]]:
    """Yield place, first argument and names of the other arguments of each call of `method` with a literal name."""
    for path in Path(relay.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
                match node.args:
                    case [ast.Constant(value=str(name)), *_]:
                        yield f"{path}:{node.lineno}", name, {keyword.arg for keyword in node.keywords}


def test_the_code_emits_what_is_in_the_table_and_the_table_has_nothing_that_is_not_emitted() -> None:
    emitted = set()
    for place, name, fields in calls_in_the_code("emit"):
        assert name in HAPPENINGS, place
        assert fields == set(HAPPENINGS[name].fields), place
        emitted.add(name)
    assert emitted == HAPPENINGS.keys()


def test_every_metric_is_moved_by_something() -> None:
    """A metric that stays 0 because nobody measures it tells people that all is well."""
    moved = {update.metric for happening in HAPPENINGS.values() for update in happening.updates}
    for place, name, _ in (*calls_in_the_code("gauge"), *calls_in_the_code("gauges")):
        assert METRICS[name].kind == "gauge", place
        moved.add(name)
    assert moved == METRICS.keys()


def test_two_telemetries_share_nothing() -> None:
    one, other = Telemetry(), Telemetry()
    one.emit("lease.lost", reason="expired")
    assert (one.value("leases_lost_total"), other.value("leases_lost_total")) == (1, 0)


def test_a_batch_is_counted_with_its_events_bytes_and_topic() -> None:
    telemetry = Telemetry()
    telemetry.emit("publish.acknowledged", topic="orders", events=3, bytes=500, seconds=0.02)
    telemetry.emit("publish.acknowledged", topic="orders", events=4, bytes=500, seconds=0.02)

    assert telemetry.value("published_events_total", topic="orders") == 7
    assert telemetry.value("published_bytes_total", topic="orders") == 1000
    assert telemetry.value("publish_seconds_count") == 2
    assert b'relay_published_events_total{topic="orders"} 7.0' in generate_latest(telemetry.registry)


def test_a_field_that_is_a_collection_counts_its_elements() -> None:
    telemetry = Telemetry()
    telemetry.emit("lanes.claimed", lanes=[3, 5, 8])
    assert telemetry.value("lanes_claimed_total") == 3


def test_gauges_are_set_and_nothing_else_is() -> None:
    telemetry = Telemetry()
    telemetry.gauge("buffer_events", 12)
    assert telemetry.value("buffer_events") == 12
    with pytest.raises(TypeError):
        telemetry.gauge("settled_events_total", 1)


def test_an_outage_is_told_once_however_many_attempts_it_takes(log: Log) -> None:
    log.telemetry.emit("kafka.connected")
    log.telemetry.emit("kafka.lost", error="connection reset")
    for _ in range(100):
        log.telemetry.emit("kafka.waiting", error="connection refused")
        log.telemetry.emit("kafka.lost", error="connection reset")
    log.telemetry.emit("kafka.connected")
    log.telemetry.emit("kafka.connected")

    assert log.told == ["kafka.connected", "kafka.lost", "kafka.waiting", "kafka.connected"]
    assert log.telemetry.value("kafka_lost_total") == 1
    assert log.telemetry.value("kafka_up") == 1


def test_a_second_outage_is_told_again(log: Log) -> None:
    for _ in range(2):
        log.telemetry.emit("kafka.lost", error="connection reset")
        log.telemetry.emit("kafka.waiting", error="connection refused")
        log.telemetry.emit("kafka.connected")

    assert log.told == ["kafka.lost", "kafka.waiting", "kafka.connected"] * 2
    assert log.telemetry.value("kafka_lost_total") == 2


def test_outages_of_two_servers_are_told_apart(log: Log) -> None:
    log.telemetry.emit("kafka.waiting", error="refused")
    log.telemetry.emit("postgres.waiting", error="refused")
    assert log.told == ["kafka.waiting", "postgres.waiting"]


def test_a_new_error_of_an_outage_is_told_but_errors_that_always_differ_do_not_flood(log: Log) -> None:
    log.telemetry.emit("postgres.waiting", error=OSError("refused"))
    log.telemetry.emit("postgres.waiting", error=OSError("the database system is starting up"))
    assert [line["error"] for line in log.lines] == ["refused", "the database system is starting up"]

    for number in range(1000):
        log.telemetry.emit("postgres.waiting", error=f"no route, attempt {number}")
    assert len(log.lines) < 20


def test_attempts_are_told_at_debug(configured: Callable[[LogSettings, io.StringIO], Logger]) -> None:
    log = Log(configured, level="debug")
    for _ in range(3):
        log.telemetry.emit("postgres.waiting", error="refused")
    assert [line["level"] for line in log.lines] == ["warning", "debug", "debug"]


def test_batches_are_not_logged_at_any_level(
    configured: Callable[[LogSettings, io.StringIO], Logger],
) -> None:
    log = Log(configured, level="debug")
    log.telemetry.emit("scan.done", events=1, bytes=1, seconds=0.1)
    log.telemetry.emit("publish.acknowledged", topic="t", events=1, bytes=1, seconds=0.1)
    log.telemetry.emit("settle.done", events=1, seconds=0.1)
    assert log.lines == []


def test_a_stop_that_abandons_events_is_a_warning(log: Log) -> None:
    log.telemetry.emit("service.stopped", abandoned_events=0)
    log.telemetry.emit("service.stopped", abandoned_events=7)

    assert [line["level"] for line in log.lines] == ["info", "warning"]
    assert log.telemetry.value("abandoned_events_total") == 7


def test_a_line_has_text_name_fields_and_a_utc_timestamp(log: Log) -> None:
    log.telemetry.emit("postgres.connected", version="18.4", connections=4)

    (line,) = log.lines
    assert (line["message"], line["happening"]) == ("PostgreSQL connected", "postgres.connected")
    assert (line["version"], line["connections"], line["level"]) == ("18.4", 4, "info")
    stamp = str(line["timestamp"])
    assert stamp.endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()) < 60


def test_libraries_are_logged_in_the_same_form(log: Log) -> None:
    logging.getLogger("asyncio").warning("took %.1f seconds", 1.5)

    (line,) = log.lines
    assert (line["message"], line["level"], line["logger"]) == ("took 1.5 seconds", "warning", "asyncio")
    assert "timestamp" in line


def test_what_aiokafka_says_per_attempt_is_not_logged_at_info(log: Log) -> None:
    for _ in range(50):
        logging.getLogger("aiokafka").error("Unable connect to node with id %s: %s", 1, "refused")
        logging.getLogger("aiokafka.producer.sender").warning("Could not send")
    assert log.lines == []


def test_what_aiokafka_says_per_attempt_is_there_at_debug(
    configured: Callable[[LogSettings, io.StringIO], Logger],
) -> None:
    log = Log(configured, level="debug")
    logging.getLogger("aiokafka").error("Unable connect to node")
    logging.getLogger("aiokafka.conn").debug("one line per request")
    assert [(line["message"], line["level"]) for line in log.lines] == [("Unable connect to node", "debug")]


def fail_with(secret: str) -> None:
    """Raise while a local variable holds the secret."""
    dsn = secret  # noqa: F841 what a traceback must not show
    raise RuntimeError("broken")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_fault_inside_a_library_is_logged_with_its_traceback_and_without_local_variables(
    configured: Callable[[LogSettings, io.StringIO], Logger], form: str
) -> None:
    stream = io.StringIO()
    configured(LogSettings.model_validate({"format": form}), stream)
    secret = "".join(["geheim", "-7f3a"])
    try:
        fail_with(secret)
    except RuntimeError:
        logging.getLogger("aiokafka.producer.sender").exception("Unexpected error in sender routine")

    assert "RuntimeError: broken" in stream.getvalue()
    assert secret not in stream.getvalue()


def test_a_terminal_gets_lines_for_people_and_a_pipe_json(
    configured: Callable[[LogSettings, io.StringIO], Logger],
) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    Telemetry(configured(LogSettings(), terminal)).emit("lanes.claimed", lanes=[1])
    Telemetry(configured(LogSettings(), pipe)).emit("lanes.claimed", lanes=[1])

    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert re.search(r"info +\] Lanes claimed +lanes=\[1\]\n", plain)
    assert json.loads(pipe.getvalue())["lanes"] == [1]


def test_the_level_holds_for_the_relay_and_the_libraries(
    configured: Callable[[LogSettings, io.StringIO], Logger],
) -> None:
    log = Log(configured, level="warning")
    log.telemetry.emit("lanes.claimed", lanes=[1])
    logging.getLogger("asyncio").info("using selector")
    log.telemetry.emit("lease.lost", reason="expired")
    assert log.told == ["lease.lost"]


def test_configuring_twice_does_not_double_the_lines(
    configured: Callable[[LogSettings, io.StringIO], Logger],
) -> None:
    first, second = Log(configured), Log(configured)
    second.telemetry.emit("lanes.claimed", lanes=[1])
    assert (len(first.lines), len(second.lines)) == (0, 1)


class TestWhatComesAndGoes:
    def flap(self, telemetry: Telemetry, times: int) -> None:
        for _ in range(times):
            telemetry.emit("postgres.lost", error="the server ended it")
            telemetry.emit("postgres.connected", version="18.4", connections=6)

    def test_it_is_told_as_one_lasting_state_and_once_more_when_it_holds(self) -> None:
        now = [0.0]
        logger = Loud()
        telemetry = Telemetry(logger, lambda: now[0])
        self.flap(telemetry, 50)
        assert logger.happenings == [*["postgres.lost", "postgres.connected"] * 4, "postgres.lost", "state.unsteady"]
        assert telemetry.value("postgres_lost_total") == 50
        for now[0] in (10.0, 29.0):
            telemetry.tell_what_lasts()
        assert len(logger.happenings) == 10
        for now[0] in (30.0, 31.0):
            telemetry.tell_what_lasts()
        assert logger.happenings[10:] == ["postgres.connected"]
        telemetry.emit("postgres.lost", error="the server ended it")
        assert logger.happenings[11:] == ["postgres.lost"]

    def test_changes_that_are_far_apart_are_told_each(self) -> None:
        now = [0.0]
        logger = Loud()
        telemetry = Telemetry(logger, lambda: now[0])
        for _ in range(20):
            now[0] += 30
            self.flap(telemetry, 1)
        assert logger.happenings == ["postgres.lost", "postgres.connected"] * 20


class Loud:
    """Keeps what is told at a level that is shown."""

    def __init__(self) -> None:
        self.happenings: list[object] = []

    def log(self, level: int, event: str, /, **fields: object) -> None:
        if level > 10:
            self.happenings.append(fields["happening"])


def samples(telemetry: Telemetry) -> dict[tuple[str, str], float]:
    """What /metrics shows, by name and topic."""
    text = generate_latest(telemetry.registry).decode()
    return {
        (sample.name, sample.labels.get("topic", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_of_a_topic_is_there_at_zero_once_the_topic_is_known() -> None:
    telemetry = Telemetry()
    telemetry.expect("topic", "orders")
    by_topic = {name for name, metric in METRICS.items() if metric.labels == ("topic",)}
    assert {"failed_events_total", "outbox_failed_events"} <= by_topic
    shown = samples(telemetry)
    assert {name: shown[f"relay_{name}", "orders"] for name in by_topic} == dict.fromkeys(by_topic, 0.0)
    telemetry.emit("publish.refused", topic="bills", partition=0, events=2, error="no")
    assert telemetry.value("failed_events_total", topic="bills") == 0.0


def test_no_more_topics_than_allowed_have_series_whatever_metric_sees_them_first() -> None:
    telemetry = Telemetry()
    for number in range(MOST_SERIES):
        telemetry.expect("topic", f"topic-{number}")
    telemetry.emit("publish.refused", topic="late", partition=0, events=2, error="no")
    telemetry.emit("publish.refused", topic="later", partition=0, events=3, error="no")
    telemetry.gauges("outbox_held_events", "topic", {"late": 4, "later": 5, "topic-7": 6})
    assert telemetry.value("refused_events_total", topic="late") is None
    assert telemetry.value("refused_events_total", topic=OTHERS) == 5.0
    assert telemetry.value("outbox_held_events", topic=OTHERS) == 9.0
    assert telemetry.value("outbox_held_events", topic="topic-7") == 6.0


def test_a_gauge_of_topics_falls_to_zero_where_there_is_nothing_any_more() -> None:
    telemetry = Telemetry()
    telemetry.gauges("outbox_failed_events", "topic", {"orders": 3, "bills": 1})
    telemetry.gauges("outbox_failed_events", "topic", {"bills": 2})
    assert telemetry.value("outbox_failed_events", topic="orders") == 0.0
    assert telemetry.value("outbox_failed_events", topic="bills") == 2.0


def test_the_process_is_measured_and_nothing_says_when_a_series_was_created() -> None:
    names = {name for name, _ in samples(Telemetry())}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= names
    assert not [name for name in names if name.endswith("_created")]
