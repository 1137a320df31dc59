"""Log lines: ours and those of libraries through one renderer; for people on a terminal, else as JSON."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO

import structlog

from relay.telemetry.happenings import LEVELS

if TYPE_CHECKING:
    from structlog.typing import EventDict

    from relay.settings import LogSettings
    from relay.telemetry import Logger

_OUTAGE_TALKERS = ("aiokafka", "asyncpg")


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
    """Keep what aiokafka says about each attempt of an outage for the level debug.

    The relay tells about outages itself, once per change. A record with a traceback is a fault of a library,
    not an outage, and stays.
    """
    if record.name.split(".")[0] in _OUTAGE_TALKERS and record.exc_info is None:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return record.levelno >= logging.getLogger().level


def _renderers(for_people: bool, stream: TextIO) -> list[structlog.typing.Processor]:
    # Tracebacks without local variables: those hold DSNs and payloads.
    if for_people:
        console = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), pad_event_to=40, exception_formatter=structlog.dev.plain_traceback
        )
        return [_without_happening, console]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        _best_first,
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]


def _without_happening(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Drop the happening's name: a person reads its text."""
    event.pop("happening", None)
    return event


def _best_first(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Begin every JSON line alike, for those who read it in a terminal."""
    first = ("timestamp", "level", "message", "happening")
    return {key: event[key] for key in (*first, *event) if key in event}
