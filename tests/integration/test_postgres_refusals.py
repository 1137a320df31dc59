"""Every reason for which PostgreSQL lets nobody in has a text of its own, on a real server with TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from relay.errors import RelayError
from relay.local.ports import free_port
from relay.postgres.connect import open_connection
from tests.support.servers.certificates import EXPIRED
from tests.support.servers.secured_postgres import SecuredPostgres, secured_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "geheim"


@pytest.fixture
async def secured(own_folder: Path) -> AsyncIterator[SecuredPostgres]:
    async with secured_postgres(own_folder) as server:
        yield server


async def said(dsn: str) -> str:
    """What the relay says about a connection that it does not get."""
    with pytest.raises(RelayError) as raised:
        await open_connection(dsn, 10, "a test")
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


async def test_each_cause_has_a_text_of_its_own(secured: SecuredPostgres) -> None:
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
