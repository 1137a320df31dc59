"""Goes between aiokafka's clients and the network, where they swallow what a person needs to know.

* A connection is made with the certificates and the password that are on disk then.
* Why one could not be made is noted: aiokafka logs it and says no more than that Kafka cannot be reached.
* When no broker of the last metadata answers, the bootstrap list is looked at again: the brokers may all have moved.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiokafka.client
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from relay.kafka.diagnose import Address, ClosedUnaskedError, cause, summary
from relay.kafka.frames import bound_answers
from relay.kafka.options import Security

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.settings import KafkaSettings

BOOTSTRAP_INTERVAL = 1.0
"""Seconds between looks at the bootstrap list while no known broker answers. aiokafka asks those up to 10 times a
second."""

CLOSE_TIMEOUT = 1.0
"""Seconds that closing a connection may take."""

_of_this_client: ContextVar[Connections | None] = ContextVar("connections", default=None)


class Connections:
    """The connections of one AIOKafkaClient: how they are made, and which could not be."""

    def __init__(self, client: Any, settings: KafkaSettings) -> None:
        self._client = client
        self._settings = settings
        self._security = Security(settings)
        self._failures: dict[Address, BaseException] = {}
        self._bootstrapped_at = float("-inf")
        # There is no public way in.
        self._get_conn, self._bootstrap = self._client._get_conn, self._client.bootstrap  # noqa: SLF001
        self._update = self._client._metadata_update  # noqa: SLF001
        self._client._get_conn = self._got_conn  # noqa: SLF001
        self._client.bootstrap = self._bootstrapped
        self._client._metadata_update = self._updated  # noqa: SLF001

    def trouble(self) -> str | None:
        """Why brokers that were tried cannot be reached, in one line; None when nothing is known beyond silence."""
        told = {address: error for address, error in self._failures.items() if not isinstance(error, TimeoutError)}
        return summary(told, self._settings) if told else None

    def causes(self) -> str:
        """The same, silence included; empty if no connection failed."""
        return summary(self._failures, self._settings) if self._failures else ""

    async def open(self, host: str, port: int, options: dict[str, Any]) -> Any:
        """A connection, secured by what is on disk now."""
        address = (host, port)
        try:
            connection = await create_conn(host, port, **{**options, **self._security.options()})
        except asyncio.CancelledError:
            # Whoever waited for it lost patience.
            self._failures.setdefault(address, TimeoutError())
            raise
        except (OSError, KafkaError) as error:
            self._failures[address] = error
            raise
        except Exception as error:
            # aiokafka expects none of these here: the task that keeps its metadata would end without a word.
            self._failures[address] = error
            raise KafkaConnectionError(f"no connection to {host}:{port}: {error!r}") from error
        self._failures.pop(address, None)
        return connection

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

        In place, so that the producer keeps its id, and what is in flight is sent to where the brokers are now and
        not repeated.
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
                        metadata = await connection.send(MetadataRequest(list(topics) if topics else None))
                    finally:
                        await _close(connection)
            except (OSError, KafkaError):
                continue
            if metadata.brokers:
                cluster.update_metadata(metadata)
                self._forget_others(cluster)
                return True
        return False

    def _forget_others(self, cluster: Any) -> None:
        """What was wrong with a broker that is none any more is of no interest."""
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
            connection = await create_conn(
                host,
                port,
                client_id=settings.client_id,
                request_timeout_ms=int(settings.request_timeout * 1000),
                **Security(settings).options(),
            )
            try:
                await connection.send(MetadataRequest([]))
            except (KafkaError, OSError) as error:
                raise ClosedUnaskedError from error
            finally:
                await _close(connection)
    except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
        return cause(error, (host, port), settings)
    return None


async def _close(connection: Any) -> None:
    closed = connection.close()
    if closed is not None:
        await asyncio.wait([closed], timeout=CLOSE_TIMEOUT)


async def _create_conn(host: str, port: int, **options: Any) -> Any:
    connections = _of_this_client.get()
    if connections is None:
        return await create_conn(host, port, **options)
    return await connections.open(host, port, options)


aiokafka.client.create_conn = _create_conn  # type: ignore[attr-defined]
bound_answers()
