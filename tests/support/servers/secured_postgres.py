"""A PostgreSQL with TLS, certificates that are right and wrong, and entries in pg_hba.conf to be changed."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from tests.support.postgres.outbox import connected
from tests.support.servers import shared as servers
from tests.support.servers.certificates import Authority
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from relay.local import PostgresServer

VERSION_WITH_TLS = "18.1.0"
"""From Maven Central, for where the version that is being tested was built without: that of the wheel was."""


class SecuredPostgres:
    """A server with TLS, what clients of it need, and a connection that stays whatever is asked of new ones."""

    def __init__(self, server: PostgresServer, connection: asyncpg.Connection, folder: Path) -> None:
        self.server = server
        self.connection = connection
        self.folder = folder
        self.ours = Authority(folder / "ours", "ours")
        self.others = Authority(folder / "others", "others")
        self.data = server.folder / "data"

    async def use(self, certificate: Path, key: Path) -> None:
        """Have the server show this certificate, and trust clients of our own authority."""
        self._give(certificate, "server.crt")
        self._give(key, "server.key")
        await self.trust_clients_of(self.ours)

    async def trust_clients_of(self, authority: Authority) -> None:
        """Have the server take client certificates of this authority alone."""
        self._give(authority.certificate, "ca.crt")
        await self.configure(ssl="on", ssl_ca_file="ca.crt")

    def _give(self, source: Path, name: str) -> None:
        """Put a file into the server's folder, which is its owner's alone."""
        owner, target = self.data.stat(), self.data / name
        shutil.copy(source, target)
        target.chmod(0o600)
        shutil.chown(target, owner.st_uid, owner.st_gid)

    async def configure(self, **settings: str) -> None:
        for name, value in settings.items():
            await self.connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        before = await self.connection.fetchval("SELECT pg_conf_load_time()")
        await self.connection.execute("SELECT pg_reload_conf()")

        async def loaded() -> bool:
            return bool(await self.connection.fetchval("SELECT pg_conf_load_time() > $1", before))

        await until("the server has read its settings", loaded)

    async def entries(self, *lines: str) -> None:
        """Put these first in pg_hba.conf."""
        file = self.data / "pg_hba.conf"
        kept = [line for line in file.read_text().splitlines() if not line.endswith("# test")]
        file.write_text("\n".join([*(f"{line} # test" for line in lines), *kept]) + "\n")
        await self.configure()

    def dsn(self, *, user: str = "", password: str = "", database: str = "postgres", **more: object) -> str:
        parts = urlsplit(self.server.dsn)
        credentials = f"{user or parts.username}:{password or parts.password}"
        query = "&".join(f"{name}={value}" for name, value in more.items())
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{parts.port}", path=database, query=query))


@asynccontextmanager
async def secured_postgres(folder: Path) -> AsyncIterator[SecuredPostgres]:
    """One that runs meanwhile, of a build that knows TLS, which is off until `use`."""
    for version in ("", VERSION_WITH_TLS):
        own = folder / (version or "own")
        own.mkdir(mode=0o755)
        with servers.own_postgres_server(own, version=version) as server:
            async with connected(server.dsn) as connection:
                if "openssl" in str(await connection.fetchval("SHOW ssl_library")).lower():
                    yield SecuredPostgres(server, connection, folder)
                    return
    raise AssertionError(f"PostgreSQL {VERSION_WITH_TLS} was built without TLS")
