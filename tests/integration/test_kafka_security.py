"""Kafka's ways to be secured, on a real broker: each thing that can be wrong says so itself, and what lies in files is
read when it is needed."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import warnings
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import uvloop
from aiokafka.conn import CloseReason

from relay.errors import SettingsError
from relay.kafka.administration import Administration
from relay.kafka.connect import check_files, wait_for_producer
from relay.kafka.connection import Connection
from relay.kafka.connections import probe
from relay.kafka.producer import KafkaProducer
from relay.local import create_topic
from relay.local.ports import free_port
from relay.outcome import Acknowledged, BatchOutcome, FailureKind, PublishError, Refused
from relay.settings.flow import TopicSettings
from relay.settings.secret import FileSecret
from relay.settings.servers import KafkaSettings
from tests.integration.test_kafka_producer import ALL, always, event
from tests.support.proxies.faulty_kafka import SASL_AUTHENTICATE, SASL_HANDSHAKE, FaultyKafka
from tests.support.servers import shared as servers
from tests.support.servers.certificates import EXPIRED, encrypted
from tests.support.servers.secured_kafka import NEWCOMER, PASSWORD, USER, SecuredKafka
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


LOGIN = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": USER, "sasl_password": PASSWORD}
PLAIN_LOGIN = {"security_protocol": "SASL_PLAINTEXT", **LOGIN}
TLS = {"security_protocol": "SSL", "ssl_cafile": "right/right.pem"}
TLS_LOGIN = {"security_protocol": "SASL_SSL", "ssl_cafile": "right/right.pem", **LOGIN}
MUTUAL = {**TLS, "ssl_certfile": "right/client.crt", "ssl_keyfile": "right/client.key"}
STRANGE = {"ssl_certfile": "stranger/client.crt", "ssl_keyfile": "stranger/client.key"}
OLD = {"ssl_certfile": "right/old.crt", "ssl_keyfile": "right/old.key"}

UNKNOWN_AUTHORITY = "the broker's certificate is from an authority that is not"
REFUSED_CERTIFICATE = "the broker refuses the client certificate"
NO_TLS = "this listener does not speak TLS"
SPEAKS_TLS = "this listener speaks TLS; set RELAY_KAFKA_SECURITY_PROTOCOL="
WANTS_LOGIN = "this listener wants a login; set RELAY_KAFKA_SECURITY_PROTOCOL="

MAY_WRITE = "open-"
"""What the topics begin with to which all but the newcomer may write."""

WRONG: dict[str, tuple[str, dict[str, str], str]] = {
    "password": (
        "LOGIN",
        {**TLS_LOGIN, "sasl_password": "wrong-2c1d"},
        "refuses the login of 'relay': wrong user name or",
    ),
    "user": ("LOGIN", {**TLS_LOGIN, "sasl_username": "nobody"}, "refuses the login of 'nobody': wrong user name or"),
    "mechanism": ("LOGIN", {**TLS_LOGIN, "sasl_mechanism": "PLAIN"}, "the broker does not offer the mechanism PLAIN"),
    "authority": ("LOGIN", {**TLS_LOGIN, "ssl_cafile": "stranger/stranger.pem"}, f"{UNKNOWN_AUTHORITY} in "),
    "no authority": ("TLS", {"security_protocol": "SSL"}, f"{UNKNOWN_AUTHORITY} one of the system's"),
    "expired": ("EXPIRED", TLS, "the broker's certificate has expired"),
    "not yet valid": ("EARLY", TLS, "the broker's certificate is not valid yet"),
    "host name": ("OTHERNAME", TLS, "the broker's certificate is not for the name 127.0.0.1"),
    "no client certificate": ("MUTUAL", TLS, "the broker asks for a client certificate and none is set"),
    "strange client certificate": ("MUTUAL", {**MUTUAL, **STRANGE}, REFUSED_CERTIFICATE),
    "expired client certificate": ("MUTUAL", {**MUTUAL, **OLD}, REFUSED_CERTIFICATE),
    "plaintext to TLS": ("TLS", {}, f"{SPEAKS_TLS}SSL"),
    "plaintext to login": ("OPENLOGIN", {}, f"{WANTS_LOGIN}SASL_PLAINTEXT"),
    "TLS to login inside TLS": ("LOGIN", TLS, f"{WANTS_LOGIN}SASL_SSL"),
    "TLS to plaintext": ("PLAINTEXT", TLS, NO_TLS),
    "login inside TLS to plaintext": ("OPENLOGIN", TLS_LOGIN, NO_TLS),
    "login to none": (
        "PLAINTEXT",
        PLAIN_LOGIN,
        "this listener does not want a login; set RELAY_KAFKA_SECURITY_PROTOCOL=PLAINTEXT",
    ),
    "login to login inside TLS": ("LOGIN", PLAIN_LOGIN, f"{SPEAKS_TLS}SASL_SSL"),
    "closed port": ("127.0.0.1:1", {}, "nothing listens on this port"),
    "unknown host": ("not-there.invalid:9092", {}, "the host name cannot be resolved"),
    "no ACL": (
        "LOGIN",
        {**TLS_LOGIN, "sasl_username": NEWCOMER},
        "grant the relay IDEMPOTENT_WRITE on the cluster, or WRITE on a topic",
    ),
}
"""Listener or address, settings (paths below the server's folder), and what is said."""


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredKafka]:
    with servers.server_folder() as folder, SecuredKafka(folder) as server:
        server.authority.issue("client")
        server.authority.issue("old", valid=EXPIRED)
        server.stranger.issue("client")
        server.allow(
            *("--producer", "--idempotent", "--topic", MAY_WRITE, "--resource-pattern-type", "prefixed"),
            principals=(f"User:{USER}", "User:CN=client"),
        )
        yield server


def settings_for(secured: SecuredKafka, listener: str, given: dict[str, Any]) -> KafkaSettings:
    """Settings for a listener; paths are below the server's folder."""
    folder = secured.authority.folder.parent
    paths = {
        name: folder / value for name, value in given.items() if name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
    }
    address = listener if ":" in listener else secured.address(listener)
    return KafkaSettings.model_validate(
        {"bootstrap_servers": address, "request_timeout": 5.0, **given, **paths},
    )


on_both_loops = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@on_both_loops
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_and_nothing_else(
    secured: SecuredKafka, wrong: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    listener, given, said = WRONG[wrong]
    settings = settings_for(secured, listener, given)
    with asyncio.Runner(loop_factory=loop) as runner:
        with pytest.raises(PublishError) as raised:
            runner.run(KafkaProducer.connect(settings, TopicSettings()))
        probed = runner.run(probe(*_host_and_port(settings), settings))
    text = str(raised.value)
    assert said in text
    assert raised.value.kind is FailureKind.CLUSTER
    assert [other for *_, other in WRONG.values() if other in text and other != said] == []
    assert not any(secret in text + str(probed) for secret in (PASSWORD, "wrong-2c1d"))
    assert "\n" not in text
    # A right to do something is asked for later than a connection.
    assert (probed is None) if wrong == "no ACL" else probed is not None and said in probed


@on_both_loops
@pytest.mark.parametrize("wrong", WRONG)
def test_a_failed_connection_leaves_no_socket_open(
    secured: SecuredKafka, wrong: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Not for the moment that a broker takes to close a refused one, either: the next try may come before that."""
    listener, given, _ = WRONG[wrong]
    settings = settings_for(secured, listener, given)
    address = _host_and_port(settings)

    async def connect() -> None:
        with pytest.raises(PublishError):
            await KafkaProducer.connect(settings, TopicSettings())

    async def administrate() -> None:
        administration = Administration(settings, TopicSettings())
        with suppress(PublishError):
            await administration.limits("any")
        await administration.close(2)

    async def try_each() -> dict[str, set[str]]:
        tried: dict[str, Callable[[], Awaitable[object]]] = {
            "connect": connect,
            "administrate": administrate,
            "probe": partial(probe, *address, settings),
        }
        left: dict[str, set[str]] = {}
        for name, attempt in tried.items():
            before = _sockets()
            await attempt()
            left[name] = _sockets() - before
        return left

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=loop) as runner:
            left = runner.run(try_each())
        gc.collect()
    assert left == {"connect": set(), "administrate": set(), "probe": set()}
    assert [str(each.message) for each in warned if issubclass(each.category, ResourceWarning)] == []


@on_both_loops
@pytest.mark.parametrize("wrong", ["password", "mechanism"])
def test_a_wrong_login_tried_again_and_again_takes_no_more_descriptors(
    secured: SecuredKafka, wrong: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    listener, given, _ = WRONG[wrong]
    settings = settings_for(secured, listener, given)

    async def try_often() -> list[int]:
        opened: list[int] = []
        for _ in range(20):
            with pytest.raises(PublishError):
                await KafkaProducer.connect(settings, TopicSettings())
            opened.append(psutil.Process().num_fds())
        return opened

    with asyncio.Runner(loop_factory=loop) as runner:
        opened = runner.run(try_often())
    assert opened == opened[:1] * 20


@on_both_loops
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_client_that_gives_up_a_silent_broker_leaves_no_socket_open(
    secured: SecuredKafka, protocol: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """It takes connections and says nothing, not even that it is about to close them."""

    async def try_it(port: int) -> set[str]:
        settings = settings_for(secured, f"127.0.0.1:{port}", {**TLS, "security_protocol": protocol})
        settings = settings.model_copy(update={"request_timeout": 0.3})
        before = _sockets()
        with pytest.raises(PublishError):
            await KafkaProducer.connect(settings, TopicSettings())
        assert await probe("127.0.0.1", port, settings) is not None
        trying = asyncio.create_task(probe("127.0.0.1", port, settings.model_copy(update={"request_timeout": 30.0})))
        await until("a connection", lambda: _differ(before))
        trying.cancel()
        await asyncio.wait([trying])
        return _sockets() - before

    with socket.create_server(("127.0.0.1", 0)) as silent, asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(try_it(silent.getsockname()[1])) == set()


@on_both_loops
def test_a_request_that_is_not_answered_leaves_no_socket_open(
    monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Its connection is closed, and what was not sent yet would keep the socket for as long as TCP tries."""

    async def greeted(_: Connection) -> None:
        """As if the broker had answered so far."""

    monkeypatch.setattr(Connection, "_do_version_lookup", greeted)

    async def try_it(port: int) -> set[str]:
        before = _sockets()
        connection = await Connection.open("127.0.0.1", port, {})
        assert connection._writer is not None
        connection._writer.write(bytes(1 << 26))
        closed = connection.close(CloseReason.CONNECTION_TIMEOUT)
        assert closed is not None
        async with asyncio.timeout(20):
            await closed
        return _sockets() - before

    with socket.create_server(("127.0.0.1", 0)) as silent, asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(try_it(silent.getsockname()[1])) == set()


async def _differ(before: set[str]) -> bool:
    return _sockets() != before


def _sockets() -> set[str]:
    """This process's open sockets."""
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("open sockets are counted on Linux")
    found: set[str] = set()
    for descriptor in folder.iterdir():
        with suppress(OSError):  # the one that reads the folder
            if (name := str(descriptor.readlink())).startswith("socket:"):
                found.add(name)
    return found


def _host_and_port(settings: KafkaSettings) -> tuple[str, int]:
    host, _, port = settings.bootstrap_servers.rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("api", [SASL_HANDSHAKE, SASL_AUTHENTICATE])
async def test_every_answer_to_a_login_is_said(secured: SecuredKafka, api: int) -> None:
    """No code, known or not, is anything else than an error of publishing."""
    login = settings_for(secured, "OPENLOGIN", PLAIN_LOGIN)
    port = free_port()
    async with FaultyKafka(_host_and_port(login)[1], port) as proxy:
        settings = login.model_copy(update={"bootstrap_servers": f"127.0.0.1:{port}"})
        for code in (-1, 7, 29, 31, 33, 34, 35, 58, 76, 93, 999):
            fault = proxy.fault(api, code)
            with pytest.raises(PublishError) as raised:
                await KafkaProducer.connect(settings, TopicSettings())
            assert fault.given == 1
            assert f"127.0.0.1:{port}: " in str(raised.value)
            proxy.end_faults()


async def test_what_is_not_kafka_at_all_is_said_and_not_read_into_memory() -> None:
    sent = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n" + b"x" * 1_000_000)
        sent.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}", request_timeout=5)
        with pytest.raises(PublishError, match=r"the server that listens there is not Kafka \(it answers b'HTTP'\)"):
            await KafkaProducer.connect(settings, TopicSettings())
        assert sent.is_set()


async def test_causes_of_several_brokers_are_told_together(secured: SecuredKafka) -> None:
    nobody = "127.0.0.1:1,127.0.0.1:2"
    settings = KafkaSettings(bootstrap_servers=f"{nobody},{secured.address('TLS')}")
    with pytest.raises(PublishError) as raised:
        await KafkaProducer.connect(settings, TopicSettings())
    assert str(raised.value).startswith("127.0.0.1:1, 127.0.0.1:2: nothing listens on this port; start the broker")
    assert f"{secured.address('TLS')}: {SPEAKS_TLS}" in str(raised.value)


async def test_a_missing_acl_says_which_one(secured: SecuredKafka) -> None:
    for topic in ("acl-none", "acl-describe"):
        await create_topic(secured.bootstrap_servers, topic)
    await asyncio.to_thread(secured.allow, "--operation", "Describe", "--topic", "acl-describe")
    async with connected(settings_for(secured, "LOGIN", TLS_LOGIN)) as producer:
        with pytest.raises(PublishError, match="not authorized for topic acl-none; grant the relay WRITE and DESCRIBE"):
            await producer.partition_count("acl-none")
        refused = await published(producer, "acl-describe")
        assert isinstance(refused, Refused)
        assert refused.error.kind is FailureKind.TOPIC
        assert "acl-describe" in str(refused.error)
        assert "grant the relay WRITE" in str(refused.error)


HALF = {
    "ssl_cafile": "RELAY_KAFKA_SSL_CAFILE names {}, which does not contain a complete certificate",
    "ssl_certfile": "RELAY_KAFKA_SSL_CERTFILE names {}, which does not contain a complete certificate",
    "ssl_keyfile": "RELAY_KAFKA_SSL_KEYFILE names {}, which does not contain a complete private key",
}


@pytest.mark.parametrize("half", HALF)
async def test_a_half_written_file_is_waited_out_and_at_the_start_refused(
    secured: SecuredKafka, tmp_path: Path, half: str
) -> None:
    settings = settings_for(secured, "MUTUAL", _copies(secured, tmp_path))
    file: Path = getattr(settings, half)
    _halve(file)
    with pytest.raises(SettingsError, match=HALF[half].format(file)):
        check_files(settings)

    told: list[PublishError] = []
    heard = asyncio.Event()

    def hear(error: PublishError) -> None:
        told.append(error)
        heard.set()

    connecting = asyncio.create_task(wait_for_producer(settings, TopicSettings(), hear))
    async with asyncio.timeout(20):
        await heard.wait()
        _copies(secured, tmp_path)
        producer = await connecting
    await producer.close(2)
    assert {error.kind for error in told} == {FailureKind.CLUSTER}
    assert all(HALF[half].format(file) in str(error) for error in told)


async def test_keys_that_cannot_be_used_say_why(secured: SecuredKafka, tmp_path: Path) -> None:
    files = _copies(secured, tmp_path)
    locked = encrypted(tmp_path / "client.key", "geheim")
    wrong = {
        "is encrypted; set RELAY_KAFKA_SSL_KEY_PASSWORD": {"ssl_keyfile": str(locked)},
        "or RELAY_KAFKA_SSL_KEY_PASSWORD is not its password": {
            "ssl_keyfile": str(locked),
            "ssl_key_password": "other",
        },
        "does not belong to the certificate": {"ssl_keyfile": str(secured.stranger.folder / "client.key")},
    }
    for said, given in wrong.items():
        with pytest.raises(SettingsError) as raised:
            check_files(settings_for(secured, "MUTUAL", {**files, **given}))
        assert said in str(raised.value)
    check_files(settings_for(secured, "MUTUAL", {**files, "ssl_keyfile": str(locked), "ssl_key_password": "geheim"}))


async def test_an_unforeseen_error_of_making_a_producer_is_waited_out(
    secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [OSError(24, "Too many open files"), ValueError("bad"), KeyError("x"), RuntimeError("odd")]
    raised = list(errors)
    start = KafkaProducer.connect

    async def connect(*arguments: Any, **options: Any) -> KafkaProducer:
        if raised:
            raise raised.pop(0)
        return await start(*arguments, **options)

    monkeypatch.setattr(KafkaProducer, "connect", connect)
    told: list[PublishError] = []
    settings = KafkaSettings(bootstrap_servers=secured.bootstrap_servers)
    async with asyncio.timeout(20):
        producer = await wait_for_producer(settings, TopicSettings(), told.append)
    await producer.close(2)
    assert [error.name for error in told] == [type(error).__name__ for error in errors]


async def test_a_rotated_certificate_is_used_by_the_next_connection_of_the_same_producer(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    files = _copies(secured, tmp_path)
    topic = f"{MAY_WRITE}certificate"
    await create_topic(secured.bootstrap_servers, topic)
    settings = settings_for(secured, "MUTUAL", files)
    async with connected(settings) as producer:
        assert await published(producer, topic) == Acknowledged(0)

        shutil.copy(secured.authority.folder / "old.crt", tmp_path / "client.crt")
        shutil.copy(secured.authority.folder / "old.key", tmp_path / "client.key")
        break_connections(producer)
        sending = asyncio.create_task(published(producer, topic))

        async def refused() -> bool:
            return REFUSED_CERTIFICATE in (producer.trouble() or "")

        await until("the broker refuses the old certificate", refused)

        _copies(secured, tmp_path)
        assert await sending == Acknowledged(1)
        assert producer.trouble() is None
        assert not producer.died.done()


async def test_a_rotated_password_is_used_by_the_next_connection_of_the_same_producer(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    topic, file = f"{MAY_WRITE}password", tmp_path / "password"
    await create_topic(secured.bootstrap_servers, topic)
    file.write_text(PASSWORD + "\n")
    secret = FileSecret("RELAY_KAFKA_SASL_PASSWORD", str(file))
    settings = settings_for(secured, "LOGIN", TLS_LOGIN).model_copy(update={"sasl_password": secret})
    async with connected(settings) as producer:
        assert await published(producer, topic) == Acknowledged(0)
        for content, said in (
            ("", f"RELAY_KAFKA_SASL_PASSWORD (from file {file}) is empty"),
            ("old", "wrong user name or"),
        ):
            file.write_text(content)
            break_connections(producer)
            sending = asyncio.create_task(published(producer, topic))

            async def told(said: str = said) -> bool:
                return said in (producer.trouble() or "")

            await until(said, told)
            file.write_text(PASSWORD)
            assert isinstance(await sending, Acknowledged)


def _copies(secured: SecuredKafka, folder: Path) -> dict[str, Any]:
    """Settings with files of this test's own, to be overwritten."""
    for name in ("right.pem", "client.crt", "client.key"):
        shutil.copy(secured.authority.folder / name, folder / name)
    return {
        "security_protocol": "SSL",
        "ssl_cafile": folder / "right.pem",
        "ssl_certfile": folder / "client.crt",
        "ssl_keyfile": folder / "client.key",
    }


def _halve(file: Path) -> None:
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])


def break_connections(producer: KafkaProducer) -> None:
    """As if the network had: aiokafka makes new ones."""
    for connection in list(producer._producer.client._conns.values()):
        connection._writer.transport.abort()


async def published(producer: KafkaProducer, topic: str) -> BatchOutcome:
    """What becomes of one event."""
    async with asyncio.timeout(30):
        assert await producer.partition_count(topic)
        answered: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
        batch = producer.pack([event(1)], ALL, None)
        await producer.send(batch, topic, 0, always, partial(_answer, answered))
        return await answered


def _answer(answered: asyncio.Future[BatchOutcome], outcome: BatchOutcome) -> None:
    if not answered.done():
        answered.set_result(outcome)


@asynccontextmanager
async def connected(settings: KafkaSettings) -> AsyncIterator[KafkaProducer]:
    """A producer, closed at the end."""
    producer = await KafkaProducer.connect(settings, TopicSettings())
    try:
        yield producer
    finally:
        await producer.close(2)
