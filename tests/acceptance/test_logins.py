"""Logins that change under load: passwords, certificates and tokens. No event is lost or repeated."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import shutil
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from relay.postgres.admin.migrate import make_roles
from tests.acceptance.conftest import place
from tests.support.postgres.load import Load
from tests.support.relay.process import check_repeats
from tests.support.servers import shared as servers
from tests.support.servers.secured_kafka import USER, SecuredKafka
from tests.support.servers.secured_postgres import SecuredPostgres, secured_postgres
from tests.support.servers.tokens import CLIENT, CLIENT_SECRET, token_server
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from relay.local import PostgresServer
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic
    from tests.support.relay.process import RelayProcess

TOPICS = "login-"


@pytest.fixture
async def secured(own_folder: Path) -> AsyncIterator[SecuredPostgres]:
    async with secured_postgres(own_folder) as server:
        await server.use(*server.ours.issue("server"))
        await server.entries("hostssl all all all scram-sha-256", "host all all all reject")
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "command"])
async def test_a_password_of_postgres_that_changes_under_load_costs_no_event(
    own_postgres: PostgresServer, kafka: servers.Kafka, make_topic: MakeTopic, tmp_path: Path, way: str
) -> None:
    async with place(own_postgres.dsn, kafka.bootstrap_servers, make_topic(4)) as here:
        dsn = f"postgresql://rotating@127.0.0.1:{own_postgres.port()}/postgres"
        await change_password(here, dsn, tmp_path / "password", way)


@pytest.mark.slow
async def test_a_password_of_postgres_that_changes_inside_tls_costs_no_event(
    secured: SecuredPostgres, kafka: servers.Kafka, make_topic: MakeTopic, tmp_path: Path
) -> None:
    async with place(secured.dsn(sslmode="require"), kafka.bootstrap_servers, make_topic(4)) as here:
        dsn = f"postgresql://rotating@127.0.0.1:{secured.server.port()}/postgres?sslmode=verify-full"
        dsn += f"&sslrootcert={secured.ours.certificate}"
        await change_password(here, dsn, tmp_path / "password", "file")


@pytest.mark.slow
async def test_a_client_certificate_of_postgres_that_is_replaced_costs_no_event(
    secured: SecuredPostgres, kafka: servers.Kafka, make_topic: MakeTopic, tmp_path: Path
) -> None:
    """The authority of the clients changes, and the relay gets a certificate of the new one a while later."""
    files = tmp_path / "client.crt", tmp_path / "client.key"
    replace(files, secured.ours.issue("rotating"))
    async with place(secured.dsn(sslmode="require"), kafka.bootstrap_servers, make_topic(4)) as here:
        await make_roles(here.connection)
        await here.connection.execute("CREATE ROLE rotating LOGIN IN ROLE outbox_relay")
        await secured.entries("hostssl all rotating all cert", "hostssl all all all scram-sha-256")
        dsn = f"postgresql://rotating@127.0.0.1:{secured.server.port()}/postgres?sslmode=verify-full"
        dsn += f"&sslrootcert={secured.ours.certificate}&sslcert={files[0]}&sslkey={files[1]}"
        async with Load(here.dsn, here.topic, rate=500) as load, here.relay(postgres_dsn=dsn) as relay:
            await here.receipts_reach(500)

            await secured.trust_clients_of(secured.others)
            await end_sessions(here)
            refused = await relay.logged("postgres.waiting")
            assert "sslcert" in refused["error"]

            replace(files, secured.others.issue("rotating"))
            await goes_on(here, relay)
            await load.end()
            await here.settled()
            check_repeats(relay, await here.check_everything())
            await relay.stop()


def replace(files: tuple[Path, Path], issued: tuple[Path, Path]) -> None:
    """Put a certificate and its key where the relay reads them, as those who renew certificates do."""
    for file, source in zip(files, issued, strict=True):
        new = file.with_suffix(".new")
        shutil.copy(source, new)
        new.chmod(0o600)
        new.rename(file)


async def end_sessions(here: Place) -> None:
    """End all sessions of the relay's role: the next ones need the login that is right from now on."""
    await here.connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'")


async def goes_on(here: Place, relay: RelayProcess) -> None:
    """Wait until the relay is connected once more, and delivers."""
    await relay.logged("postgres.connected", 2)
    before = await here.receipts()
    await here.receipts_reach(before + 500)


def write(file: Path, secret: str) -> None:
    """Write a secret that only this user may read."""
    file.touch(0o600)
    file.write_text(secret)


async def change_password(here: Place, dsn: str, file: Path, way: str) -> None:
    """Change the password of the relay's role under load, and give the relay the new one a while later."""
    write(file, "first-5e1c\n")
    given: dict[str, object] = {f"postgres_password_{way}": file if way == "file" else f"cat {file}"}
    await make_roles(here.connection)
    await here.connection.execute("CREATE ROLE rotating LOGIN PASSWORD 'first-5e1c' IN ROLE outbox_relay")
    async with Load(here.dsn, here.topic, rate=500) as load, here.relay(postgres_dsn=dsn, **given) as relay:
        await here.receipts_reach(500)

        await here.connection.execute("ALTER ROLE rotating PASSWORD 'second-77aa'")
        await end_sessions(here)
        refused = await relay.logged("postgres.waiting")
        assert "password authentication failed" in refused["error"]
        assert "or RELAY_POSTGRES_PASSWORD" in refused["error"]

        write(file, "second-77aa\n")
        await goes_on(here, relay)
        await load.end()
        await here.settled()
        check_repeats(relay, await here.check_everything())
        assert not any("first-5e1c" in str(line) or "second-77aa" in str(line) for line in relay.lines)
        await relay.stop()


@pytest.fixture(scope="module")
def secured_kafka() -> Iterator[SecuredKafka]:
    with servers.server_folder() as folder, SecuredKafka(folder) as server:
        server.authority.issue("endpoint")
        pattern = ("--topic", TOPICS, "--resource-pattern-type", "prefixed")
        server.allow("--operation", "Write", *pattern, principals=(f"User:{USER}",))
        yield server


@pytest.mark.slow
async def test_tokens_that_expire_and_a_token_endpoint_that_is_away_cost_no_event(
    secured_kafka: SecuredKafka, database: str
) -> None:
    kafka, folder = secured_kafka, secured_kafka.authority.folder
    topic = f"{TOPICS}{secrets.token_hex(6)}"
    await create_topic(kafka.bootstrap_servers, topic, partitions=4)
    async with (
        token_server(kafka.issuer, (folder / "endpoint.crt", folder / "endpoint.key")) as tokens,
        place(database, kafka.bootstrap_servers, topic) as here,
    ):
        tokens.seconds = 4
        login = here.relay(
            kafka_bootstrap_servers=kafka.address("TOKEN"),
            kafka_security_protocol="SASL_SSL",
            kafka_ssl_cafile=kafka.authority.certificate,
            kafka_sasl_mechanism="OAUTHBEARER",
            kafka_oauth_provider="oidc",
            kafka_oauth_token_endpoint=tokens.url,
            kafka_oauth_client_id=CLIENT,
            kafka_oauth_client_secret_command=shlex.join(["printf", "%s", CLIENT_SECRET]),
            kafka_oauth_scope="kafka",
            kafka_oauth_cafile=kafka.authority.certificate,
            kafka_request_timeout=3,
        )
        async with Load(here.dsn, topic, rate=500) as load, login as relay:

            async def renewed() -> bool:
                return tokens.given >= 4

            await until("the fourth token", renewed)
            await here.receipts_reach(500)
            assert _troubles(relay) == []

            tokens.away = True
            lost = await relay.logged("kafka.lost")
            assert f"the token endpoint {tokens.url} cannot be reached: it answers with status 503" in lost["error"]

            tokens.away = False
            await relay.logged("kafka.connected", 2)
            await load.end()
            await here.settled()
            assert await here.check_everything() == []
            assert not any(CLIENT_SECRET in str(line) for line in relay.lines)
            await relay.stop()


@pytest.mark.slow
async def test_a_password_of_kafka_that_is_changed_by_hand_costs_no_event(
    secured_kafka: SecuredKafka, database: str, tmp_path: Path
) -> None:
    """The broker takes another password from now on, and the relay gets that one a while later."""
    topic, file = f"{TOPICS}{secrets.token_hex(6)}", tmp_path / "password"
    await create_topic(secured_kafka.bootstrap_servers, topic, partitions=4)
    first, second = f"first-{secrets.token_hex(6)}", f"second-{secrets.token_hex(6)}"
    await asyncio.to_thread(secured_kafka.change_password, USER, first)
    write(file, f"{first}\n")
    async with place(database, secured_kafka.bootstrap_servers, topic) as here:
        login = here.relay(
            kafka_bootstrap_servers=secured_kafka.address("SHORT"),
            kafka_security_protocol="SASL_SSL",
            kafka_ssl_cafile=secured_kafka.authority.certificate,
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username=USER,
            kafka_sasl_password_file=file,
            kafka_request_timeout=3,
        )
        async with Load(here.dsn, topic, rate=500) as load, login as relay:
            await here.receipts_reach(500)
            assert _troubles(relay) == []

            await asyncio.to_thread(secured_kafka.change_password, USER, second)
            lost = await relay.logged("kafka.lost")
            assert f"refuses the login of '{USER}': wrong user name or password" in lost["error"]

            write(file, f"{second}\n")
            await relay.logged("kafka.connected", 2)
            before = await here.receipts()
            await here.receipts_reach(before + 500)
            await load.end()
            await here.settled()
            assert await here.check_everything() == []
            assert not any(first in str(line) or second in str(line) for line in relay.lines)
            await relay.stop()


def _troubles(relay: RelayProcess) -> list[object]:
    """Log lines about Kafka that is not as it should be."""
    names = ("kafka.lost", "kafka.waiting", "producer.replaced", "topic.troubled")
    return [line for name in names for line in relay.happened(name)]
