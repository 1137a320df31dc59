"""Stands between aiokafka's clients and the network, because the clients swallow what a person needs to know.

* A connection is made with the certificates and the password that are on disk then.
* Why one could not be made is noted: aiokafka logs it and says no more than that Kafka cannot be reached.
* When no broker of the last metadata answers, the bootstrap list is looked at again: the brokers may all have moved.
* A connection is replaced before the broker ends its session (`connections.max.reauth.ms`, or the end of a token).
* A connection that failed, or whose client is closed, is closed before anybody hears of it. aiokafka only begins to
  close it: until the broker answers that, which takes 30 s inside TLS if it does not, the socket stays open, and a
  login that is refused again and again leaves one more with each try.
* Record batches are written as they are, and not copied into their request.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiokafka.client
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from relay.kafka.connection import LOGIN_ERRORS, Connection
from relay.kafka.diagnose import Address, ClosedUnaskedError, cause, summary
from relay.kafka.frames import bound_answers
from relay.kafka.options import Security
from relay.kafka.renewals import Renewals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.settings import KafkaSettings

BOOTSTRAP_INTERVAL = 1.0
"""Seconds between looks at the bootstrap list while no known broker answers. aiokafka asks the known brokers up to ten
times a second."""

_of_this_client: ContextVar[Connections | None] = ContextVar("connections", default=None)


class Connections:
    """The connections of one AIOKafkaClient: makes them, and remembers those that could not be made."""

    def __init__(self, client: Any, settings: KafkaSettings, security: Security) -> None:
        self._client = client
        self._settings = settings
        self._security = security
        self._renewals = Renewals(client, self._open_next)
        self._failures: dict[Address, BaseException] = {}
        self._bootstrapped_at = float("-inf")
        self._open: set[Connection] = set()
        # There is no public way in.
        self._get_conn, self._bootstrap = self._client._get_conn, self._client.bootstrap  # noqa: SLF001
        self._update = self._client._metadata_update  # noqa: SLF001
        self._client._get_conn = self._got_conn  # noqa: SLF001
        self._client.bootstrap = self._bootstrapped
        self._client._metadata_update = self._updated  # noqa: SLF001

    def trouble(self) -> str | None:
        """Return in one line why brokers cannot be reached; None if nothing but silence is known."""
        told = {address: error for address, error in self._failures.items() if not isinstance(error, TimeoutError)}
        return summary(told, self._settings) if told else None

    def causes(self) -> str:
        """Return in one line why brokers cannot be reached, silence included; empty if no connection failed."""
        return summary(self._failures, self._settings) if self._failures else ""

    async def open(self, host: str, port: int, options: dict[str, Any]) -> Connection:
        """Open a connection, secured by the files as they are now."""
        address = (host, port)
        secured: dict[str, Any] = {}
        try:
            secured = await self._security.options()
            connection = await Connection.open(host, port, {**options, **secured})
        except asyncio.CancelledError:
            # Whoever waited for it lost patience.
            self._failures.setdefault(address, TimeoutError())
            raise
        except (OSError, KafkaError) as error:
            if isinstance(error, LOGIN_ERRORS):
                self._security.refused(secured)
            self._failures[address] = error
            raise
        except Exception as error:
            # aiokafka expects none of these here: the task that keeps its metadata would end without a word.
            self._failures[address] = error
            raise KafkaConnectionError(f"no connection to {host}:{port}: {error!r}") from error
        self._failures.pop(address, None)
        self._open = {each for each in self._open if not each.is_over()} | {connection}
        self._renewals.watch(connection, options)
        return connection

    async def _open_next(self, connection: Connection, options: dict[str, Any]) -> Connection:
        """Open the connection that is to take the place of one whose session is about to end."""
        self._security.outlive(connection.bearer)
        return await self.open(connection.host, connection.port, options)

    async def cut(self) -> None:
        """Cut the connections that a closed client has left open; nothing on its way there is of interest."""
        await self._renewals.end()
        await asyncio.gather(*(connection.cut() for connection in self._open))
        self._open.clear()

    @contextmanager
    def _these(self) -> Iterator[None]:
        token = _of_this_client.set(self)
        try:
            yield
        finally:
            _of_this_client.reset(token)

    async def _got_conn(self, *arguments: Any, **options: Any) -> Any:
        with self._these():
            return await self._get_conn(*arguments, **options)

    async def _bootstrapped(self) -> None:
        with self._these():
            try:
                await self._bootstrap()
            except KafkaConnectionError:
                for host, port, _ in self._client.hosts:
                    # Connected, then: it was the first request that failed.
                    self._failures.setdefault((host, port), ClosedUnaskedError())
                raise

    async def _updated(self, cluster: Any, topics: Any) -> bool:
        """Update the metadata, from the bootstrap list if no known broker answers.

        The client stays, so that the producer keeps its id. Batches in flight are sent to the brokers' new addresses
        and are not repeated.
        """
        if await self._update(cluster, topics):
            self._forget_others(cluster)
            return True
        now = time.monotonic()
        if now - self._bootstrapped_at < BOOTSTRAP_INTERVAL:
            return False
        self._bootstrapped_at = now
        for host, port, _ in self._client.hosts:
            try:
                async with asyncio.timeout(self._settings.request_timeout):
                    connection = await self.open(host, port, self._options())
                    try:
                        metadata: Any = await connection.send(MetadataRequest(list(topics) if topics else None))
                    finally:
                        await connection.finish()
            except (OSError, KafkaError):
                continue
            if metadata.brokers:
                cluster.update_metadata(metadata)
                self._forget_others(cluster)
                return True
        return False

    def _forget_others(self, cluster: Any) -> None:
        """Forget the errors of brokers that no longer belong to the cluster."""
        brokers = {(broker.host, broker.port) for broker in cluster.brokers()}
        self._failures = {address: error for address, error in self._failures.items() if address in brokers}

    def _options(self) -> dict[str, Any]:
        return {
            "client_id": self._settings.client_id,
            "request_timeout_ms": int(self._settings.request_timeout * 1000),
        }


async def probe(host: str, port: int, settings: KafkaSettings) -> str | None:
    """Try one connection, within the request timeout; returns why it fails, None if it works."""
    try:
        async with asyncio.timeout(settings.request_timeout):
            options = {"client_id": settings.client_id, "request_timeout_ms": int(settings.request_timeout * 1000)}
            secured = await Security(settings).options()
            connection: Any = await Connection.open(host, port, {**options, **secured})
            try:
                await connection.send(MetadataRequest([]))
            except (KafkaError, OSError) as error:
                raise ClosedUnaskedError from error
            finally:
                await connection.finish()
    except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
        return cause(error, (host, port), settings)
    return None


async def _create_conn(host: str, port: int, **options: Any) -> Any:
    connections = _of_this_client.get()
    if connections is None:
        return await Connection.open(host, port, options)
    return await connections.open(host, port, options)


aiokafka.client.create_conn = _create_conn  # type: ignore[attr-defined]
bound_answers()
