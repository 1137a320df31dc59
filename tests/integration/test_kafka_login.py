"""Each way to log in to Kafka, on a real broker: it works, its sessions are renewed, and what is wrong is said."""

from __future__ import annotations

import asyncio
import shlex
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.conn import CloseReason
from pydantic import SecretStr

from relay.kafka.connection import Connection
from relay.kafka.options import Security
from relay.kafka.producer import KafkaProducer
from relay.local import create_topic
from relay.outcome import Acknowledged, BatchOutcome, PublishError
from relay.settings import KafkaSettings, TopicSettings
from relay.settings.command import Command
from relay.settings.secret import CommandSecret, FileSecret
from tests.integration.test_kafka_producer import ALL, always, event
from tests.support.servers import shared as servers
from tests.support.servers.secured_kafka import PASSWORD, USER, SecuredKafka
from tests.support.servers.tokens import CLIENT, CLIENT_SECRET, Issuer, TokenServer, token_server, unsecured
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


TOPIC = "logins"


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredKafka]:
    with servers.server_folder() as folder, SecuredKafka(folder) as server:
        server.authority.issue("client")
        server.authority.issue("endpoint")
        asyncio.run(create_topic(server.bootstrap_servers, TOPIC, partitions=1))
        server.allow("--operation", "Write", "--topic", TOPIC, principals=(f"User:{USER}", "User:CN=client"))
        yield server


@pytest.fixture
async def tokens(secured: SecuredKafka) -> AsyncIterator[TokenServer]:
    folder = secured.authority.folder
    async with token_server(secured.issuer, (folder / "endpoint.crt", folder / "endpoint.key")) as server:
        yield server


def settings(secured: SecuredKafka, listener: str, **given: Any) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {
            "bootstrap_servers": secured.address(listener),
            "security_protocol": "SASL_SSL",
            "ssl_cafile": secured.authority.certificate,
            "request_timeout": 5.0,
            **given,
        }
    )


def oidc(secured: SecuredKafka, tokens: TokenServer, **more: Any) -> KafkaSettings:
    given = {
        "sasl_mechanism": "OAUTHBEARER",
        "oauth_provider": "oidc",
        "oauth_token_endpoint": tokens.url,
        "oauth_client_id": CLIENT,
        "oauth_client_secret": CLIENT_SECRET,
        "oauth_scope": "kafka",
        "oauth_cafile": secured.authority.certificate,
    }
    return settings(secured, "TOKEN", **given | more)


def given_token(secured: SecuredKafka, secret: SecretStr, listener: str = "TOKEN") -> KafkaSettings:
    given = settings(secured, listener, sasl_mechanism="OAUTHBEARER", oauth_provider="token")
    return given.model_copy(update={"oauth_token": secret})


@asynccontextmanager
async def connected(given: KafkaSettings) -> AsyncIterator[KafkaProducer]:
    producer = await KafkaProducer.connect(given, TopicSettings())
    try:
        yield producer
    finally:
        await producer.close(2)


async def published(producer: KafkaProducer, number: int = 1) -> BatchOutcome:
    """What becomes of one event."""
    async with asyncio.timeout(30):
        assert await producer.partition_count(TOPIC)
        answered: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
        await producer.send(producer.pack([event(number)], ALL, None), TOPIC, 0, always, answered.set_result)
        return await answered


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_logs_in(secured: SecuredKafka, mechanism: str) -> None:
    given = settings(secured, "SHORT", sasl_mechanism=mechanism, sasl_username=USER, sasl_password=PASSWORD)
    async with connected(given) as producer:
        assert isinstance(await published(producer), Acknowledged)


async def test_a_client_certificate_logs_in(secured: SecuredKafka) -> None:
    folder = secured.authority.folder
    certificate = {"ssl_certfile": folder / "client.crt", "ssl_keyfile": folder / "client.key"}
    async with connected(settings(secured, "MUTUAL", security_protocol="SSL", **certificate)) as producer:
        assert isinstance(await published(producer), Acknowledged)


async def test_a_token_of_a_token_endpoint_logs_in_and_serves_all_connections(
    secured: SecuredKafka, tokens: TokenServer
) -> None:
    async with connected(oidc(secured, tokens)) as producer:
        assert isinstance(await published(producer), Acknowledged)
        await producer.limits(TOPIC)
        assert tokens.given == 1


async def test_a_token_in_a_file_or_of_a_command_logs_in(secured: SecuredKafka, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(secured.issuer.token() + "\n")
    command = Command(shlex.join(["cat", str(file)]))
    for secret in (
        FileSecret("RELAY_KAFKA_OAUTH_TOKEN", str(file)),
        CommandSecret("RELAY_KAFKA_OAUTH_TOKEN", command),
    ):
        async with connected(given_token(secured, secret)) as producer:
            assert isinstance(await published(producer), Acknowledged)


async def test_no_password_and_no_token_is_logged_at_any_level(
    secured: SecuredKafka, caplog: pytest.LogCaptureFixture
) -> None:
    token = secured.issuer.token()
    password = settings(secured, "SHORT", sasl_mechanism="PLAIN", sasl_username=USER, sasl_password=PASSWORD)
    # Another test may have configured the logs of this process.
    with caplog.at_level("DEBUG"), caplog.at_level("DEBUG", "aiokafka"):
        for given in (password, given_token(secured, SecretStr(token))):
            async with connected(given) as producer:
                assert isinstance(await published(producer), Acknowledged)
    assert "Request to 127.0.0.1" in caplog.text, "requests are logged"
    assert PASSWORD not in caplog.text
    assert token not in caplog.text


async def refusal(given: KafkaSettings) -> str:
    """What is said about a login that fails."""
    with pytest.raises(PublishError) as raised:
        await KafkaProducer.connect(given, TopicSettings())
    text = str(raised.value)
    assert "\n" not in text
    assert not any(secret in text for secret in (PASSWORD, CLIENT_SECRET, "wrong-2c1d"))
    return text


async def test_each_thing_that_is_wrong_with_a_token_is_said(secured: SecuredKafka, tmp_path: Path) -> None:
    issuer = secured.issuer
    strange = Issuer(tmp_path / "strange")
    wrong = {
        "signature": (strange.token(), "the broker refuses the token (invalid_token; issuer https://login.example"),
        "audience": (issuer.token(aud="billing"), "(invalid_token; issuer https://login.example, audience billing"),
        "issuer": (issuer.token(iss="https://else"), "(invalid_token; issuer https://else, audience kafka"),
        "nobody signed": (unsecured(), "(invalid_token; issuer https://login.example"),
        "opaque": ("not-a-jwt", "the broker refuses the token (invalid_token); compare issuer, audience and scope"),
        "expired": (issuer.token(-10), "the token for Kafka is of no use any more (issuer https://login.example"),
        "empty": ("", "RELAY_KAFKA_OAUTH_TOKEN (from file"),
        "two words": ("a b", "RELAY_KAFKA_OAUTH_TOKEN is not a token"),
    }
    file = tmp_path / "token"
    secret = FileSecret("RELAY_KAFKA_OAUTH_TOKEN", str(file))
    for name, (token, said) in wrong.items():
        file.write_text(token)
        text = await refusal(given_token(secured, secret))
        assert said in text, name
        assert not token or token not in text, name
        assert "\\x" not in text, name
    file.write_text(issuer.token())
    text = await refusal(given_token(secured, secret, "LOGIN"))
    assert "the broker does not offer the mechanism OAUTHBEARER" in text
    assert "to one it offers (SCRAM-SHA-512)" in text
    file.write_text(issuer.token(sub="somebody"))
    assert "grant the relay IDEMPOTENT_WRITE on the cluster, or WRITE on a topic" in await refusal(
        given_token(secured, secret)
    )


async def test_each_thing_that_is_wrong_with_a_token_endpoint_is_said(
    secured: SecuredKafka, tokens: TokenServer, tmp_path: Path
) -> None:
    strange = secured.stranger.certificate
    hanging = CommandSecret("RELAY_KAFKA_OAUTH_CLIENT_SECRET", Command("sleep 600", timeout=0.2))
    for given, said in (
        (oidc(secured, tokens, oauth_client_secret="wrong-2c1d"), "refuses the client 'relay-client' (invalid_client)"),
        (oidc(secured, tokens, oauth_scope="other"), "(invalid_scope); correct RELAY_KAFKA_OAUTH_SCOPE"),
        (
            oidc(secured, tokens, oauth_cafile=strange),
            "is from an authority that is not trusted; set RELAY",
        ),
        (oidc(secured, tokens, oauth_token_endpoint="https://127.0.0.1:1/"), "cannot be reached: connection refused"),
        (
            oidc(secured, tokens).model_copy(update={"oauth_client_secret": hanging}),
            "RELAY_KAFKA_OAUTH_CLIENT_SECRET_COMMAND (sleep) did not end within 0.2 s and was killed",
        ),
    ):
        assert said in await refusal(given)
    tokens.away = True
    assert "cannot be reached: it answers with status 503" in await refusal(oidc(secured, tokens))
    assert tokens.given == 0


class Watched:
    """The connections that are opened meanwhile, and why they are closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = 0
        self.closed: list[CloseReason | None] = []
        open_, close = Connection.open.__func__, Connection.close  # type: ignore[attr-defined]

        async def opening(cls: type[Connection], *arguments: Any) -> Connection:
            connection: Connection = await open_(cls, *arguments)
            self.opened += 1
            return connection

        def closing(connection: Connection, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:
            if connection._reader is not None:
                self.closed.append(reason)
            return close(connection, reason, exc)

        monkeypatch.setattr(Connection, "open", classmethod(opening))
        monkeypatch.setattr(Connection, "close", closing)


async def publish_over_sessions(
    secured: SecuredKafka, given: KafkaSettings, monkeypatch: pytest.MonkeyPatch, sessions: int = 3
) -> None:
    """Publish one event after the other, over several sessions: each is there once, and no request met a closed one."""
    async with connected(given) as producer:
        watched = Watched(monkeypatch)
        first = await published(producer)
        assert isinstance(first, Acknowledged)
        offset = first.base_offset
        number = 1
        while watched.opened < sessions:
            number += 1
            outcome = await published(producer, number)
            assert isinstance(outcome, Acknowledged)
            offset += 1
            assert outcome.base_offset == offset, "an event is there twice, or not at all"
        assert number > 100, "it has paused"
        assert set(watched.closed) <= {CloseReason.SHUTDOWN, None}, "the broker closed a connection"
        assert producer.trouble() is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_sessions_that_end_cost_no_event_no_repeat_and_no_pause(
    secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    given = settings(secured, "SHORT", sasl_mechanism=mechanism, sasl_username=USER, sasl_password=PASSWORD)
    await publish_over_sessions(secured, given, monkeypatch)


async def test_tokens_that_expire_cost_no_event_no_repeat_and_no_pause(
    secured: SecuredKafka, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.seconds = 4
    await publish_over_sessions(secured, oidc(secured, tokens), monkeypatch)
    assert tokens.given >= 3


async def test_a_password_that_is_wrong_when_a_session_ends_is_told_and_its_correction_taken_up(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    given = settings(secured, "SHORT", sasl_mechanism="PLAIN", sasl_username=USER, sasl_password="x")
    given = given.model_copy(update={"sasl_password": FileSecret("RELAY_KAFKA_SASL_PASSWORD", str(file))})
    async with connected(given) as producer:
        assert isinstance(await published(producer), Acknowledged)
        file.write_text("wrong-2c1d")

        async def told() -> bool:
            return "refuses the login of 'relay': wrong user name or password" in (producer.trouble() or "")

        await until("the renewal is refused", told)
        sending = [asyncio.create_task(published(producer, number)) for number in range(2, 5)]
        file.write_text(PASSWORD)
        offsets = [
            outcome.base_offset for outcome in await asyncio.gather(*sending) if isinstance(outcome, Acknowledged)
        ]
        assert len(offsets) == 3
        assert len(set(offsets)) == 3

        async def forgotten() -> bool:
            return producer.trouble() is None

        await until("the next renewal works", forgotten)
        assert not producer.died.done()


async def test_a_token_that_the_broker_refuses_is_replaced_at_the_next_try(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(secured.issuer.token(aud="billing"))
    given = given_token(secured, FileSecret("RELAY_KAFKA_OAUTH_TOKEN", str(file)))
    security = Security(given)
    with pytest.raises(PublishError, match="audience billing"):
        await KafkaProducer.connect(given, TopicSettings(), security)
    file.write_text(secured.issuer.token())
    producer = await KafkaProducer.connect(given, TopicSettings(), security)
    await producer.close(2)
