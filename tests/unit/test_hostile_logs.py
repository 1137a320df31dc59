"""Whatever a happening, a library or an exception says: log lines, metrics and HTTP answers are harmless and true."""

from __future__ import annotations

import io
import json
import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given, settings
from prometheus_client import generate_latest

from relay.run.health import Health
from relay.run.http import application
from relay.settings import HealthSettings, LogSettings
from relay.telemetry import HAPPENINGS, Telemetry
from relay.telemetry.logs import configure
from tests.support.hostile import NASTY, hostile_text, unseen

if TYPE_CHECKING:
    from collections.abc import Iterator

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@contextmanager
def logged(kind: str) -> Iterator[tuple[Telemetry, io.StringIO]]:
    """A telemetry whose lines go to the stream; afterwards the process logs as before."""
    stream = Terminal() if kind == "terminal" else io.StringIO()
    named = [logging.getLogger(name) for name in (None, "aiokafka", "asyncpg", "aiohttp.access")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in named]
    try:
        format_ = "json" if kind == "json" else "console"
        yield Telemetry(configure(LogSettings.model_validate({"level": "debug", "format": format_}), stream)), stream
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers


def lines(stream: io.StringIO) -> list[str]:
    """What was written, as a terminal would divide it; without the renderer's own colours."""
    text = stream.getvalue()
    return (COLOURS.sub("", text) if isinstance(stream, Terminal) else text).removesuffix("\n").split("\n")


def fault(text: str, cause: str) -> BaseException:
    """An exception with a traceback and a cause."""

    def fail() -> None:
        raise ValueError(f"told: {text}") from RuntimeError(cause)

    try:
        fail()
    except ValueError as error:
        return error
    raise AssertionError


def as_read(text: str) -> str:
    """The text as any reader of JSON has it: two halves of a pair that meet are one character."""
    read: str = json.loads(json.dumps(text))
    return read


@pytest.mark.parametrize("kind", ["json", "console", "terminal"])
@pytest.mark.parametrize("name", [name for name, happening in HAPPENINGS.items() if happening.level])
def test_every_happening_with_every_nasty_text_is_one_harmless_line(kind: str, name: str) -> None:
    happening = HAPPENINGS[name]
    counted = {update.by for update in happening.updates}
    for nasty in NASTY:
        with logged(kind) as (telemetry, stream):
            said: dict[str, Any] = {
                field: 1 if field in counted else RuntimeError(nasty) if field == "error" else nasty
                for field in happening.fields
            }
            telemetry.emit(name, **said)
        (line,) = lines(stream)
        assert not unseen(line)
        assert len(line) < 40_000


@pytest.mark.parametrize("kind", ["json", "console", "terminal"])
@settings(max_examples=30, deadline=None)
@given(text=hostile_text(), nested=hostile_text())
@example(text=NASTY[8], nested=NASTY[3])
def test_a_librarys_record_and_its_traceback_pass_nothing_on(kind: str, text: str, nested: str) -> None:
    with logged(kind) as (telemetry, stream):
        logging.getLogger("asyncio").warning("about %s %s", text, {nested: [nested]})
        logging.getLogger("elsewhere").error(text, exc_info=fault(text, nested))
        telemetry.emit("postgres.waiting", error=text)
        telemetry.emit("replay.started", action=1, topic=text, lanes=[1])
    told = lines(stream)
    assert not unseen("".join(told))
    if kind == "json":
        assert len(told) == 4
        assert json.loads(told[0])["message"] == as_read(f"about {text} { {nested: [nested]} }")
        assert as_read(f"ValueError: told: {text}") in json.loads(told[1])["exception"]
        assert json.loads(told[2])["error"] == as_read(text)
    else:
        # Lines of a traceback are indented, so that none of them can pass for a line of the log.
        assert sum(not line.startswith("    ") for line in told) == 4


def test_a_text_without_end_makes_no_line_without_end() -> None:
    for kind in ("json", "console"):
        with logged(kind) as (telemetry, stream):
            telemetry.emit("postgres.waiting", error="x" * 10**6)
            logging.getLogger("elsewhere").error("z" * 10**6, exc_info=fault("y" * 10**6, ""))
        assert len(stream.getvalue()) < 60_000


@given(topic=hostile_text())
@example(topic=NASTY[3])
@example(topic="\ud800")
def test_metrics_can_be_read_whatever_a_topic_is_called(topic: str) -> None:
    telemetry = Telemetry()
    telemetry.emit("event.failed", topic=topic, id=1, policy="block", error="x")
    text = generate_latest(telemetry.registry).decode()
    assert not unseen(text.replace("\n", ""))
    assert text.count("\n") == sum(text.count(begin) for begin in ("\nrelay_", "\nprocess_", "\n#")) + 1


def test_hostile_text_is_hostile() -> None:
    assert all(unseen(nasty) for nasty in NASTY[3:11])


# Named in ASCII: such a name does not get through to the processes of pytest-xdist.
@pytest.mark.parametrize("nasty", [*NASTY, "\ud800", "x" * 10**6], ids=lambda text: ascii(text)[:40])
async def test_http_answers_say_it_harmlessly_and_in_bounds(nasty: str) -> None:
    health = Health(HealthSettings(), 0.0)
    health.kafka_lost(0.0, RuntimeError(nasty))
    health.topic_troubled(nasty, nasty)
    telemetry = Telemetry()
    telemetry.emit("publish.refused", topic=nasty, partition=0, events=1, error=nasty)
    app = application(health, telemetry, lambda: 0.0)
    for path in sorted({resource.canonical for resource in app.router.resources()}):
        request = make_mocked_request("GET", path, app=app)
        match = await app.router.resolve(request)
        answer = await match.handler(request)
        assert isinstance(answer, web.Response)
        assert isinstance(answer.body, bytes)
        text = answer.body.decode()
        assert not unseen(text.replace("\n", "")), path
        assert len(text) < 80_000
        if answer.content_type == "application/json":
            assert answer.text is not None
            assert json.loads(answer.text) is not None
