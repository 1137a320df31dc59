"""Every reason for which PostgreSQL lets nobody in has a text of its own, on a real server with TLS."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from relay.errors import RelayError
from relay.local.ports import free_port
from relay.postgres.connect import open_connection
from tests.support.postgres.outbox import connected
from tests.support.servers import shared as servers
from tests.support.servers.certificates import EXPIRED, Authority
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from relay.local import PostgresServer

SECRET = "geheim"


class Secured:
    """A server with TLS, what clients of it need, and a connection that stays whatever is asked of new ones."""

    def __init__(self, server: PostgresServer, connection: asyncpg.Connection, folder: Path) -> None:
        self.server = server
        self.connection = connection
        self.folder = folder
        self.ours = Authority(folder / "ours", "ours")
        self.others = Authority(folder / "others", "others")
        self.data = server.folder / "data"

    async def use(self, certificate: Path, key: Path) -> None:
        """Have the server show this certificate."""
        owner = self.data.stat()
        for source, name in ((certificate, "server.crt"), (key, "server.key"), (self.ours.certificate, "ca.crt")):
            target = self.data / name
            shutil.copy(source, target)
            target.chmod(0o600)
            shutil.chown(target, owner.st_uid, owner.st_gid)
        await self.configure(ssl="on", ssl_ca_file="ca.crt")

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


@pytest.fixture
async def secured(own_folder: Path) -> AsyncIterator[Secured]:
    with servers.own_postgres_server(own_folder) as server:
        async with connected(server.dsn) as connection:
            if "openssl" not in str(await connection.fetchval("SHOW ssl_library")).lower():
                pytest.skip("this build of PostgreSQL knows no TLS")
            yield Secured(server, connection, own_folder)


async def said(dsn: str) -> str:
    """What the relay says about a connection that it does not get."""
    with pytest.raises(RelayError) as raised:
        await open_connection(dsn, 10, "a test")
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


async def test_each_cause_has_a_text_of_its_own(secured: Secured) -> None:
    texts: dict[str, str] = {}
    texts["TLS switched off"] = await said(secured.dsn(sslmode="require"))
    await secured.use(*secured.ours.issue("server"))
    root = secured.ours.certificate
    connection = await open_connection(secured.dsn(sslmode="verify-full", sslrootcert=root), 10, "a test")
    connection.terminate()

    texts["wrong password"] = await said(secured.dsn(password=SECRET))
    texts["unknown user"] = await said(secured.dsn(user="nobody", password=SECRET))
    texts["unknown database"] = await said(secured.dsn(database="nowhere"))
    texts["unknown authority"] = await said(secured.dsn(sslmode="verify-ca", sslrootcert=secured.others.certificate))
    texts["missing file"] = await said(secured.dsn(sslmode="verify-ca", sslrootcert=secured.folder / "none.pem"))
    (secured.folder / "text.pem").write_text("no certificate")
    texts["no certificate in the file"] = await said(
        secured.dsn(sslmode="verify-ca", sslrootcert=secured.folder / "text.pem")
    )
    nobody = urlsplit(secured.dsn())
    texts["closed port"] = await said(urlunsplit(nobody._replace(netloc=f"postgres:x@127.0.0.1:{free_port()}")))

    await secured.entries("host all all all reject")
    texts["rejected by pg_hba"] = await said(secured.dsn(sslmode="require"))
    await secured.entries("hostssl all all all scram-sha-256", "host all all all reject")
    texts["plaintext where TLS is asked for"] = await said(secured.dsn(sslmode="disable"))
    await secured.entries("hostssl all all all cert")
    texts["no client certificate"] = await said(secured.dsn(sslmode="require"))
    certificate, key = secured.ours.issue("somebody")
    texts["another user's client certificate"] = await said(
        secured.dsn(sslmode="require", sslcert=certificate, sslkey=key)
    )
    certificate, key = secured.others.issue("stranger")
    texts["a client certificate of another authority"] = await said(
        secured.dsn(sslmode="require", sslcert=certificate, sslkey=key)
    )
    await secured.entries()

    await secured.use(*secured.ours.issue("elsewhere", names="DNS:elsewhere"))
    texts["host name"] = await said(secured.dsn(sslmode="verify-full", sslrootcert=root))
    await secured.use(*secured.ours.issue("old", valid=EXPIRED))
    texts["expired"] = await said(secured.dsn(sslmode="verify-ca", sslrootcert=root))

    assert len(set(texts.values())) == len(texts), texts
    for cause, part in EXPECTED.items():
        assert part in texts[cause], f"{cause}: {texts[cause]}"


EXPECTED = {
    "TLS switched off": "TLS switched off",
    "wrong password": "check user and password",
    "unknown database": "check the database",
    "unknown authority": "sslrootcert",
    "missing file": "none.pem, which cannot be read: no such file or directory",
    "no certificate in the file": "the file is not a certificate",
    "closed port": "connection refused",
    "rejected by pg_hba": "pg_hba.conf",
    "plaintext where TLS is asked for": "sslmode",
    "no client certificate": "set sslcert and sslkey",
    "another user's client certificate": "sslcert",
    "a client certificate of another authority": "sslcert",
    "host name": "name the host as the certificate does",
    "expired": "expired",
}
