"""Holds what a client sends to Kafka, also when the client is killed meanwhile, and lets it arrive when told.

A kernel does so: it goes on sending what a process had written that was killed, for minutes if the network does not let
it. The clients come through the proxy because the broker advertises it: see tests/support/proxies/delayed_kafka.py.
"""

from __future__ import annotations

import asyncio
import io
import struct
from contextlib import suppress
from typing import Any, NamedTuple

from tests.support.proxies.faulty_kafka import PRODUCE, REQUESTS, read_frame
from tests.support.proxies.links import Links


class Passed(NamedTuple):
    """A request that was passed on."""

    api: int
    version: int
    held: bool


class HoldingKafka(Links):
    """Listens on `port`; the broker is at `server_port`."""

    read_limit = 1 << 20

    def __init__(self, server_port: int, port: int) -> None:
        super().__init__(server_port, port)
        self._passing = asyncio.Event()
        self._passing.set()
        self.held = 0
        """Connections of which a produce request is held."""
        self.codes: list[int] = []
        """The broker's error codes for produce requests that were held, partition by partition."""

    def hold(self) -> None:
        """Keep what clients send from now on."""
        self._passing.clear()

    def let_go(self) -> None:
        """Let it arrive, whether its sender lives or not."""
        self._passing.set()

    async def pass_between(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass requests on, and the answers. That the client is gone ends nothing."""
        passed: asyncio.Queue[Passed] = asyncio.Queue()
        async with asyncio.TaskGroup() as directions:
            directions.create_task(self._ask(client[0], server[1], passed))
            directions.create_task(self._answer(server[0], client[1], passed))

    async def _ask(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, passed: asyncio.Queue[Passed]
    ) -> None:
        with suppress(ConnectionResetError):
            while True:
                frame = await read_frame(reader)
                api, version = struct.unpack_from(">hh", frame)
                held = not self._passing.is_set()
                self.held += held and api == PRODUCE
                await self._passing.wait()
                passed.put_nowait(Passed(api, version, held))
                to_server.write(struct.pack(">i", len(frame)) + frame)
                await to_server.drain()

    async def _answer(
        self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: asyncio.Queue[Passed]
    ) -> None:
        while True:
            api, version, held = await passed.get()
            answer = await read_frame(from_server)
            if api == PRODUCE and held:
                decoded: Any = REQUESTS[api, version].RESPONSE_TYPE.decode(io.BytesIO(answer[4:]))
                self.codes += [code for _, partitions in decoded.topics for _, code, *_ in partitions]
            with suppress(OSError):
                writer.write(struct.pack(">i", len(answer)) + answer)
                await writer.drain()
