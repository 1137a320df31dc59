"""A PostgreSQL that streams from another one, and can be promoted in its place."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

from relay.local import PostgresServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


def make_standby(primary: PostgresServer, folder: Path) -> PostgresServer:
    """A copy of a stopped primary, made to follow it; not started yet."""
    (folder / "standby").mkdir()
    data = folder / "standby" / "data"
    source = primary.folder / "data"
    shutil.copytree(source, data)
    (data / "standby.signal").touch()
    shutil.copy2(primary.folder / "password", folder / "standby" / "password")
    if os.geteuid() == 0:
        owner = source.stat()
        for path in (data, *data.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
    place = urlsplit(primary.dsn)
    follow = f"host={place.hostname} port={place.port} user={place.username} password={place.password}"
    programs = primary._programs
    return PostgresServer(
        folder / "standby", settings={**primary.settings, "primary_conninfo": follow}, programs=programs
    )


async def stop_streaming(primary: PostgresServer) -> None:
    """From now on the standby gets nothing more, though it believes to be connected: it lags."""
    connection = await asyncpg.connect(primary.dsn)
    try:

        async def senders() -> list[int]:
            return [row[0] for row in await connection.fetch("SELECT pid FROM pg_stat_replication")]

        for sender in await until("the standby streams", senders):
            os.kill(sender, signal.SIGSTOP)
    finally:
        await connection.close()


async def promote(standby: PostgresServer) -> None:
    """Make it the primary; returns when it is."""
    connection = await asyncpg.connect(standby.dsn)
    try:
        assert await asyncio.wait_for(connection.fetchval("SELECT pg_promote()"), 60)
    finally:
        await connection.close()
