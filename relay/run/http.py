"""The HTTP server for probes and Prometheus: `/livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from relay.errors import SettingsError
from relay.run import front
from relay.text import as_json, clip, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from relay.run.health import Health
    from relay.settings import HttpSettings
    from relay.telemetry import Telemetry

_MOST_OF_A_REASON = 500
"""Maximum characters of one reason: people read the answer, and scrapers store it."""

_MOST_OF_A_LINE = 8_190
"""Maximum bytes of a request's first line, and of a header."""

_LINGER = 0.5
"""Seconds for which a client's further data are read and dropped, so that the client can read the answer."""

_TELL_INTERVAL = 60.0
"""Seconds between two lines about bad requests."""

_CLOSE_TIMEOUT = 1.0
"""Maximum seconds for a request under way at a stop: a probe must not delay the stop."""


@contextlib.asynccontextmanager
async def serving(
    settings: HttpSettings, health: Health, telemetry: Telemetry, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[None]:
    """Serve while the context is open; do nothing if the port is 0.

    Raises SettingsError, which names the variable to change, if the address cannot be listened on.
    """
    if settings.port == 0:
        yield
        return
    refused, cut = _SeldomTold(clock), _SeldomTold(clock)

    def note_refused(peer: str, error: str) -> None:
        telemetry.emit("http.refused", peer=peer, error=error, requests=refused.number())

    def note_cut(why: str) -> None:
        telemetry.emit("http.cut", reason=why, connections=cut.number())

    runner = web.AppRunner(
        application(health, telemetry, clock),
        access_log=None,
        logger=_quiet_logger(note_refused),
        shutdown_timeout=_CLOSE_TIMEOUT,
        lingering_time=_LINGER,
        max_line_size=_MOST_OF_A_LINE,
        max_field_size=_MOST_OF_A_LINE,
    )
    await runner.setup()
    try:
        try:
            listeners = await front.listen(settings.host, settings.port)
        except (OSError, ValueError) as error:
            # ValueError is what Python says of a name that is none: one with a null byte, or too long a part.
            raise _translated(error, settings) from error
        assert runner.server is not None  # noqa: S101 it is set up
        most = front.most_connections()
        async with front.taking_in(listeners, runner.server, most=most, lifetime=front.LIFETIME, cut=note_cut):
            telemetry.emit("http.started", host=settings.host, port=settings.port)
            yield
    finally:
        await runner.cleanup()


def application(health: Health, telemetry: Telemetry, clock: Callable[[], float]) -> web.Application:
    """Return the application that answers `/livez`, `/readyz` and `/metrics`."""

    async def livez(_: web.Request) -> web.Response:
        alive = health.alive(clock())
        return _json({"alive": alive}, 200 if alive else 503)

    async def readyz(_: web.Request) -> web.Response:
        reasons = [clip(reason, _MOST_OF_A_REASON) for reason in health.ready(clock())]
        troubled = _clipped(health.troubled_topics())
        answer: dict[str, object] = {"ready": not reasons, "reasons": reasons, "troubled_topics": troubled}
        if more := health.more_troubled_topics():
            answer["more_troubled_topics"] = more
        if paused := health.paused_topics():
            answer["paused_topics"] = _clipped(paused)
        if waits := health.lanes_wait():
            answer["lanes_wait"] = clip(waits, _MOST_OF_A_REASON)
        return _json(answer, 503 if reasons else 200)

    async def metrics(_: web.Request) -> web.Response:
        telemetry.gauge("ready", not health.ready(clock()))
        return web.Response(body=generate_latest(telemetry.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(middlewares=[_one_request])
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


@web.middleware
async def _one_request(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """End each connection with its answer, so that its whole life can be bounded."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.force_close()
        raise
    response.force_close()
    return response


class _SeldomTold:
    """Counts events that any client can cause at will, so that they are told once a minute at most."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = 0
        self._told = -_TELL_INTERVAL

    def number(self) -> int:
        """Count one; return the number since the last time they were told if they are to be told now, else 0."""
        self._since += 1
        now = self._clock()
        if now - self._told < _TELL_INTERVAL:
            return 0
        number, self._since, self._told = self._since, 0, now
        return number


def _quiet_logger(refused: Callable[[str, str], None]) -> logging.Logger:
    """Return a logger for the web server that reports bad requests to `refused` instead of logging tracebacks."""

    def look(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            peer = record.args[0] if isinstance(record.args, tuple) and record.args else "somebody"
            refused(one_line(peer), clip(one_line(error.message), _MOST_OF_A_REASON))
            return False
        # Connections that end amid a request. What is left are faults of ours.
        return record.levelno >= logging.WARNING and not isinstance(error, OSError)

    # Not one of the process's: each server tells its own telemetry.
    logger = logging.Logger("relay.run.http", logging.DEBUG)  # noqa: LOG001
    logger.parent = logging.getLogger()
    logger.addFilter(look)
    return logger


def _clipped(topics: dict[str, str]) -> dict[str, str]:
    return {clip(topic, _MOST_OF_A_REASON): clip(told, _MOST_OF_A_REASON) for topic, told in topics.items()}


def _json(answer: dict[str, object], status: int) -> web.Response:
    return web.Response(text=as_json(answer) + "\n", status=status, content_type="application/json")


def _translated(error: OSError | ValueError, settings: HttpSettings) -> SettingsError:
    """Return, in terms of the settings, why the relay cannot listen on the address."""
    port, host = settings.port, settings.host
    if not isinstance(error, OSError):
        return SettingsError(
            f"RELAY_HTTP_HOST is {host!r}, which is not an address; set one of this machine's addresses"
        )
    if error.errno == errno.EADDRINUSE:
        return SettingsError(
            f"RELAY_HTTP_PORT is {port}, which another program uses; set another port, or 0 for no server"
        )
    if error.errno == errno.EACCES:
        return SettingsError(f"RELAY_HTTP_PORT is {port}, which this user may not use; set a port above 1023")
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return SettingsError(
            f"RELAY_HTTP_HOST is {host!r}, which is not an address of this machine; set one of its addresses"
        )
    return SettingsError(
        f"RELAY_HTTP_HOST {host!r} with RELAY_HTTP_PORT {port} cannot be listened on ({error}); "
        "set another address or port"
    )
