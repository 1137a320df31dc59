"""The HTTP server for probes and Prometheus: `/livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from relay.errors import SettingsError
from relay.text import as_json, clip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from relay.health import Health
    from relay.settings import HttpSettings
    from relay.telemetry import Telemetry

_MOST_OF_A_REASON = 500
"""Characters of one reason: an answer is read by people, and kept by whoever scrapes it."""

_CLOSE_TIMEOUT = 1.0
"""Seconds a scrape under way may take at the end: a probe must not hold up the stop."""


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
    runner = web.AppRunner(application(health, telemetry, clock), access_log=None, shutdown_timeout=_CLOSE_TIMEOUT)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            raise _translated(error, settings) from error
        telemetry.emit("http.started", host=settings.host, port=settings.port)
        yield
    finally:
        await runner.cleanup()


def application(health: Health, telemetry: Telemetry, clock: Callable[[], float]) -> web.Application:
    """Make the three answers."""

    async def livez(_: web.Request) -> web.Response:
        alive = health.alive(clock())
        return _json({"alive": alive}, 200 if alive else 503)

    async def readyz(_: web.Request) -> web.Response:
        reasons = [clip(reason, _MOST_OF_A_REASON) for reason in health.ready(clock())]
        topics = {topic: clip(error, _MOST_OF_A_REASON) for topic, error in health.troubled_topics().items()}
        answer = {"ready": not reasons, "reasons": reasons, "troubled_topics": topics}
        return _json(answer, 503 if reasons else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(telemetry.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def _json(answer: dict[str, object], status: int) -> web.Response:
    return web.Response(text=as_json(answer), status=status, content_type="application/json")


def _translated(error: OSError, settings: HttpSettings) -> SettingsError:
    """Say in terms of the settings why the address cannot be listened on."""
    port, host = settings.port, settings.host
    if error.errno == errno.EADDRINUSE:
        return SettingsError(
            f"RELAY_HTTP_PORT is {port}, which another program uses; set another port, or 0 for no server"
        )
    if error.errno == errno.EACCES:
        return SettingsError(f"RELAY_HTTP_PORT is {port}, which this user may not use; set one above 1023")
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return SettingsError(f"RELAY_HTTP_HOST is {host!r}, which is no address of this machine; set one that is")
    return SettingsError(f"RELAY_HTTP_HOST {host!r} with RELAY_HTTP_PORT {port} cannot be listened on ({error})")
