"""Renders log lines, ours and those of libraries: for people on a terminal, else as JSON."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, TextIO

import structlog

from relay.telemetry.happenings import LEVELS
from relay.text import as_json, clip, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, ExcInfo

    from relay.settings import LogSettings
    from relay.telemetry import Logger

_OUTAGE_TALKERS = ("aiokafka", "asyncpg")

_MOST_OF_A_TRACEBACK = 20_000
_DEPTH = 4
"""Number of levels of a field's value that stay lists and tables; deeper levels are rendered as text."""


def configure(settings: LogSettings, stream: TextIO | None = None) -> Logger:
    """Send all logging of this process to `stream` (standard error if None) and return the relay's logger.

    Standard output stays free for what commands print.
    """
    stream = sys.stderr if stream is None else stream
    for_people = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(stream)
    handler.addFilter(_once_per_outage)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(for_people, stream),
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[settings.level])
    for name in _OUTAGE_TALKERS:
        # Below this they log per request; nobody who debugs the relay wants that.
        logging.getLogger(name).setLevel(logging.INFO)
    # Health checks arrive every few seconds; a line for each tells nothing.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logger: Logger = structlog.wrap_logger(
        logging.getLogger("relay"),
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.level]),
        cache_logger_on_first_use=True,
    )
    return logger


def _once_per_outage(record: logging.LogRecord) -> bool:
    """Lower aiokafka's lines about each attempt in an outage to the level debug.

    The relay itself logs outages, once per change. A record with a traceback is about a fault of a library, not about
    an outage, and keeps its level.
    """
    if record.name.split(".")[0] in _OUTAGE_TALKERS and record.exc_info is None:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return record.levelno >= logging.getLogger().level


def _renderers(for_people: bool, stream: TextIO) -> list[structlog.typing.Processor]:
    # Tracebacks without local variables: those hold DSNs and payloads.
    if for_people:
        console = structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=40, exception_formatter=_indented)
        return [_without_happening, _neutral, console]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        _best_first,
        _bounded,
        structlog.processors.JSONRenderer(serializer=_json),
    ]


def _without_happening(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Drop the happening's name, because a person reads its text."""
    event.pop("happening", None)
    return event


def _neutral(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Escape text from outside, so that no terminal obeys it and none of it looks like a line of its own."""
    return {key: value if key == "exc_info" else _shown(value, plain) for key, value in event.items()}


def _bounded(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Bound text from outside, so that no line is endless."""
    return {
        key: clip(value, _MOST_OF_A_TRACEBACK) if key == "exception" else _shown(value, clip)
        for key, value in event.items()
    }


def _shown(value: object, how: Callable[[str], str], depth: int = 0) -> object:
    match value:
        case str():
            return how(value)
        case dict() if depth < _DEPTH:
            return {how(str(key)): _shown(each, how, depth + 1) for key, each in value.items()}
        case list() | tuple() | set() | frozenset() if depth < _DEPTH:
            return [_shown(each, how, depth + 1) for each in value]
        case None | bool() | int() | float():
            return value
    return how(str(value))


def _indented(stream: TextIO, exc_info: ExcInfo) -> None:
    """Indent a traceback, so that no line of it, which may quote anybody, can be taken for a log line."""
    text = plain("".join(traceback.format_exception(*exc_info)), also="\n", most=_MOST_OF_A_TRACEBACK)
    stream.write("".join(f"\n    {line}" for line in text.rstrip("\n").split("\n")))


def _json(event: EventDict, **_: object) -> str:
    return as_json(event, only_ascii=False)


def _best_first(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Begin every JSON line with the same fields, for people who read it in a terminal."""
    first = ("timestamp", "level", "message", "happening")
    return {key: event[key] for key in (*first, *event) if key in event}
