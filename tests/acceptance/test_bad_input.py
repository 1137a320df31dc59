"""What a person gets wrong when starting `relay run`: said in one line, with what to do, and nothing half-done."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest

from relay.local.ports import HOST
from relay.postgres.admin.migrate import make_roles
from tests.acceptance.conftest import place
from tests.support.postgres.writers import fill
from tests.support.relay.process import relay_run

if TYPE_CHECKING:
    from pathlib import Path

    from relay.local import PostgresServer
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers

SECRET = "geheim-7f3a"
NOBODY = f"postgresql://relay:{SECRET}@{HOST}:1/shop"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"postgres_dsn": None}, ["RELAY_POSTGRES_DSN"]),
        ({"postgres_dsn": f"mysql://relay:{SECRET}@db/shop"}, ["RELAY_POSTGRES_DSN", "must begin with postgresql://"]),
        ({"kafka_bootstrap_servers": None}, ["RELAY_KAFKA_BOOTSTRAP_SERVERS"]),
        ({"postgres_dns": NOBODY}, ["RELAY_POSTGRES_DNS", "did you mean RELAY_POSTGRES_DSN?"]),
        ({"scan_batch_events": -1}, ["RELAY_SCAN_BATCH_EVENTS", "greater than 0"]),
        ({"stop_grace": "soon"}, ["RELAY_STOP_GRACE", "number"]),
        ({"replica_lease": 5}, ["RELAY_REPLICA_LEASE", "must be more than RELAY_KAFKA_REQUEST_TIMEOUT"]),
        ({"buffer_max_events": 10}, ["RELAY_BUFFER_MAX_EVENTS", "RELAY_SCAN_BATCH_EVENTS"]),
    ],
)
async def test_settings_that_cannot_work_end_it_with_2(settings: dict[str, object], says: list[str]) -> None:
    code, text = await outcome(**settings)
    assert code == 2
    assert text.startswith("relay: ")
    for each in says:
        assert each in text
    assert SECRET not in text


async def test_a_half_written_certificate_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nMIIB")
    code, text = await outcome(
        postgres_dsn=NOBODY,
        kafka_bootstrap_servers=f"{HOST}:1",
        kafka_security_protocol="SSL",
        kafka_ssl_cafile=file,
    )
    assert code == 2
    assert text.startswith(
        f"relay: RELAY_KAFKA_SSL_CAFILE names {file}, which does not contain a complete certificate (PEM)"
    )


async def test_a_port_that_is_taken_is_named(here: Place) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        code, text = await outcome(
            postgres_dsn=here.dsn, kafka_bootstrap_servers=here.bootstrap_servers, http_port=port
        )
    assert (code, text) == (
        2,
        f"relay: RELAY_HTTP_PORT is {port}, which another program uses; set another port, or 0 for no server",
    )


async def test_a_wrong_password_ends_it_with_3_and_is_not_shown(here: Place) -> None:
    parts = urlsplit(here.dsn)
    wrong = parts._replace(netloc=f"{parts.username}:{SECRET}@{parts.hostname}:{parts.port}").geturl()
    code, text = await outcome(postgres_dsn=wrong, kafka_bootstrap_servers=here.bootstrap_servers)
    assert code == 3
    assert text.startswith("relay: PostgreSQL refused the connection: password authentication failed")
    assert text.endswith("check user and password in RELAY_POSTGRES_DSN, or RELAY_POSTGRES_PASSWORD")
    assert SECRET not in text
    assert (parts.password or "") not in text


async def test_a_database_that_does_not_exist_ends_it_with_3(here: Place) -> None:
    missing = urlsplit(here.dsn)._replace(path=f"/{quote('no such')}").geturl()
    code, text = await outcome(postgres_dsn=missing, kafka_bootstrap_servers=here.bootstrap_servers)
    assert code == 3
    assert 'database "no such" does not exist' in text


async def test_a_relay_without_an_outbox_ends_with_1_and_says_what_to_run(database: str, kafka: servers.Kafka) -> None:
    code, text = await outcome(postgres_dsn=database, kafka_bootstrap_servers=kafka.bootstrap_servers)
    assert code == 1
    assert text.startswith("relay: there is no outbox in the schema outbox of this database; run `relay migrate`")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "INSERT INTO outbox.migration VALUES (999, 'later', repeat('0', 64), now(), 999)",
            "is at version 999 and needs a program that knows version 999 or later",
        ),
        ("UPDATE outbox.migration SET checksum = repeat('0', 64)", "was applied with a different text"),
        (
            "ALTER SEQUENCE outbox.event_id CACHE 20",
            "run ALTER SEQUENCE outbox.event_id INCREMENT BY 1 CACHE 1 NO CYCLE",
        ),
    ],
)
async def test_an_outbox_that_does_not_fit_is_refused_with_1(here: Place, change: str, says: str) -> None:
    await here.connection.execute(change)
    await fill(here.connection, here.topic, 10)
    code, text = await outcome(postgres_dsn=here.dsn, kafka_bootstrap_servers=here.bootstrap_servers)
    assert code == 1
    assert text.startswith("relay: ")
    assert says in text
    assert (await here.records(), await here.receipts()) == (0, 0)


async def test_row_level_security_that_would_hide_events_is_named(here: Place) -> None:
    await make_roles(here.connection)
    await fill(here.connection, here.topic, 10)
    await here.connection.execute(
        "ALTER TABLE outbox.event ENABLE ROW LEVEL SECURITY;"
        "CREATE ROLE hidden_from LOGIN PASSWORD 'x' IN ROLE outbox_relay"
    )
    try:
        parts = urlsplit(here.dsn)
        dsn = parts._replace(netloc=f"hidden_from:x@{parts.hostname}:{parts.port}").geturl()
        code, text = await outcome(postgres_dsn=dsn, kafka_bootstrap_servers=here.bootstrap_servers)
    finally:
        await here.connection.execute("DROP ROLE hidden_from")
    assert code == 1
    assert text.startswith("relay: row level security applies to the role hidden_from on outbox.event")
    assert await here.receipts() == 0


async def test_a_server_in_recovery_is_waited_for_until_it_is_promoted(
    own_postgres: PostgresServer, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    async with place(own_postgres.dsn, kafka.bootstrap_servers, topic) as here:
        await fill(here.connection, topic, 100)
        await asyncio.to_thread(own_postgres.stop)
        (own_postgres.folder / "data" / "standby.signal").touch()
        await asyncio.to_thread(own_postgres.start)
        await here.reconnect()
        assert await here.connection.fetchval("SELECT pg_is_in_recovery()")

        async with here.relay() as relay:
            line = await relay.logged("postgres.waiting")
            assert line["error"].startswith("the server is in recovery")
            assert any("the server is in recovery" in reason for reason in await relay.unready_because())
            assert await here.connection.fetchval("SELECT pg_promote()")
            await here.settled()
            await relay.stop()
            assert len(relay.happened("postgres.waiting")) == 1
        assert await here.check_everything() == []


async def outcome(
    *, postgres_dsn: object = NOBODY, kafka_bootstrap_servers: object = f"{HOST}:1", **settings: object
) -> tuple[int, str]:
    """Run it to its end; returns its exit code and what it wrote that is no log line."""
    given = {"postgres_dsn": postgres_dsn, "kafka_bootstrap_servers": kafka_bootstrap_servers, **settings}
    async with relay_run("", "", **given) as relay:
        code = await relay.exit_code(30)
        return code, "\n".join(relay.texts())
