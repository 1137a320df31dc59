"""The HTTP server, over a real socket."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest

from relay.errors import SettingsError
from relay.run.health import MAX_LOOP_STALL, Health
from relay.run.http import serving
from relay.settings import HealthSettings, HttpSettings
from relay.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    health = Health(HealthSettings(), clock())
    health.postgres_ok()
    health.kafka_ok()
    return health


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def settings() -> HttpSettings:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return HttpSettings(host="127.0.0.1", port=server.getsockname()[1])


async def get(settings: HttpSettings, path: str) -> tuple[int, str, str]:
    """Return status, content type and body."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
        session.get(f"http://{settings.host}:{settings.port}{path}") as response,
    ):
        return response.status, response.headers["Content-Type"], await response.text()


async def test_readyz_gives_reasons(settings: HttpSettings, health: Health, telemetry: Telemetry, clock: Clock) -> None:
    async with serving(settings, health, telemetry, clock):
        # With a newline, or a shell's prompt would stand behind it.
        assert (await get(settings, "/readyz"))[::2] == (200, '{"ready": true, "reasons": [], "troubled_topics": {}}\n')

        health.kafka_lost(clock(), "refused")
        clock.now += 61
        status, content_type, body = await get(settings, "/readyz")
        assert status == 503
        assert content_type.startswith("application/json")
        assert body == '{"ready": false, "reasons": ["Kafka has been away for 61 s: refused"], "troubled_topics": {}}\n'


async def test_livez_says_whether_the_event_loop_turns_and_ignores_outages(
    settings: HttpSettings, health: Health, telemetry: Telemetry, clock: Clock
) -> None:
    health.kafka_lost(clock(), "refused")
    async with serving(settings, health, telemetry, clock):
        assert (await get(settings, "/livez"))[::2] == (200, '{"alive": true}\n')
        clock.now += MAX_LOOP_STALL
        assert (await get(settings, "/livez"))[0] == 503


async def test_metrics_are_in_the_format_of_prometheus(
    settings: HttpSettings, health: Health, telemetry: Telemetry, clock: Clock
) -> None:
    telemetry.emit("settle.done", events=3, seconds=0.01)
    telemetry.emit("settle.duplicates", events=1)
    async with serving(settings, health, telemetry, clock):
        status, content_type, body = await get(settings, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")
    assert "relay_settled_events_total 3.0\n" in body
    assert "relay_duplicate_events_total 1.0\n" in body


async def test_the_port_is_free_again_afterwards(
    settings: HttpSettings, health: Health, telemetry: Telemetry, clock: Clock
) -> None:
    for _ in range(2):
        async with serving(settings, health, telemetry, clock):
            assert (await get(settings, "/livez"))[0] == 200
    with pytest.raises(aiohttp.ClientConnectionError):
        await get(settings, "/livez")


async def test_port_0_means_no_server(health: Health, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a server was made")

    monkeypatch.setattr("relay.run.http.web.AppRunner", refuse)
    async with serving(HttpSettings(port=0), health, telemetry):
        pass


async def test_a_taken_port_is_an_error_that_names_the_setting(
    taken: int, health: Health, telemetry: Telemetry
) -> None:
    with pytest.raises(SettingsError, match=f"RELAY_HTTP_PORT is {taken}, which another program uses"):
        async with serving(HttpSettings(host="127.0.0.1", port=taken), health, telemetry):
            pass


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a\x00b", "a" * 70, "."])
async def test_a_host_that_is_not_ours_is_an_error_that_names_the_setting(
    settings: HttpSettings, health: Health, telemetry: Telemetry, host: str
) -> None:
    with pytest.raises(SettingsError, match="RELAY_HTTP_HOST"):
        async with serving(HttpSettings(host=host, port=settings.port), health, telemetry):
            pass
