"""The proxy that other tests rely on to break the network."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from relay.local.ports import HOST
from tests.support.proxies.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def echo_behind_proxy(delay: float = 0.0) -> AsyncIterator[Proxy]:
    """A server that answers with what it got."""
    server = await asyncio.start_server(_echo, HOST, 0)
    async with server, Proxy(server.sockets[0].getsockname()[1], delay) as proxy:
        yield proxy


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that has had an answer."""
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    try:
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), 10) == b"hello"
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_delay_counts_each_way_and_for_all_that_is_on_the_way_at_once() -> None:
    async with echo_behind_proxy(0.1) as proxy, connected(proxy) as (reader, writer):
        began = time.monotonic()
        for _ in range(50):
            writer.write(b"12345")
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(reader.readexactly(250), 10) == b"12345" * 50
        # Once there and back after the last one; 5 s or more, had each waited for the one before.
        assert 0.2 <= time.monotonic() - began < 4


async def test_a_line_that_hangs_says_nothing_and_passes_everything_on_afterwards() -> None:
    async def another(proxy: Proxy) -> None:
        async with connected(proxy):
            pass

    async with echo_behind_proxy() as proxy, connected(proxy) as (reader, writer):
        proxy.hang()
        writer.write(b"later")
        waiting = {asyncio.create_task(reader.readexactly(5)), asyncio.create_task(another(proxy))}
        assert not (await asyncio.wait(waiting, timeout=0.1))[0]
        proxy.pass_on()
        assert b"later" in await asyncio.wait_for(asyncio.gather(*waiting), 10)


async def test_connections_are_cut_and_new_ones_refused_until_they_are_accepted_again() -> None:
    async with echo_behind_proxy() as proxy:
        async with connected(proxy) as (reader, _):
            await proxy.cut()
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 10)
        async with connected(proxy):
            pass
        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            async with connected(proxy):
                pass
        await proxy.accept()
        async with connected(proxy):
            pass


async def test_the_end_of_one_side_is_the_end_of_the_other() -> None:
    async with echo_behind_proxy() as proxy, connected(proxy) as (reader, writer):
        writer.write_eof()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
