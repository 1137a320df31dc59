"""2,000 connections to the HTTP port that say nothing, and a relay with few descriptors."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from relay.local.ports import HOST
from relay.run.front import MOST
from tests.support.postgres.writers import fill
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Place
    from tests.support.relay.process import RelayProcess

HALF_OPEN = 2_000
DESCRIPTORS = 160
"""Of the relay: less than a tenth of those who knock, and hardly more than it needs besides."""


@contextmanager
def descriptors_for(number: int) -> Iterator[None]:
    """Let this process have so many more than it usually may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        pytest.skip(f"this process may have {hard} descriptors only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def knock(relay: RelayProcess) -> list[socket.socket]:
    """Connect 2,000 times, say half a word each time, and stay."""
    loop, opened = asyncio.get_running_loop(), []
    for n in range(HALF_OPEN):
        client = socket.socket()
        client.setblocking(False)
        opened.append(client)
        try:
            await asyncio.wait_for(loop.sock_connect(client, (HOST, relay.http_port)), 10)
            if n % 2:
                await loop.sock_sendall(client, b"GET /livez HT")
        except ConnectionError:
            continue
    return opened


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process's descriptors")
async def test_half_open_connections_take_neither_probes_nor_servers_away(here: Place) -> None:
    with descriptors_for(HALF_OPEN + 500):
        async with here.relay(segment_check_interval=1) as relay:
            await relay.ready()
            process = psutil.Process(relay.pid)
            before = process.num_fds()
            assert before + MOST < DESCRIPTORS
            process.rlimit(psutil.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

            most = 0
            clients = await knock(relay)
            try:
                for _ in range(5):
                    status, answer = await relay.get("/livez")
                    assert (status, answer) == (200, {"alive": True})
                    most = max(most, process.num_fds())

                # It needs new descriptors now: every connection to PostgreSQL is gone.
                await here.connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name LIKE 'outbox-relay%'"
                )
                await relay.logged("postgres.connected", 2)
                await fill(here.connection, here.topic, 500)
                await here.settled()
                await until("it is ready", lambda: _ready(relay))
                most = max(most, process.num_fds())
            finally:
                for client in clients:
                    client.close()
            assert most <= before + MOST + 10
            assert 1 <= len(relay.happened("http.cut")) <= 5
            await relay.stop()
            assert not relay.texts()
    assert not await here.check_everything()


async def _ready(relay: RelayProcess) -> bool:
    return not await relay.unready_because()
