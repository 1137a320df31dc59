"""Stands between aiokafka's clients and the network, because the clients swallow what a person needs to know.

* A connection is made with the certificates and the password that are on disk then.
* Why one could not be made is noted: aiokafka logs it and says no more than that Kafka cannot be reached.
* When no broker of the last metadata answers, the bootstrap list is looked at again: the brokers may all have moved.
* A connection that failed, or whose client is closed, is closed before anybody hears of it. aiokafka only begins to
  close it: until the broker answers that, which takes 30 s inside TLS if it does not, the socket stays open, and a
  login that is refused again and again leaves one more with each try.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiokafka.client
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from relay.kafka.diagnose import Address, ClosedUnaskedError, cause, summary
from relay.kafka.frames import bound_answers
from relay.kafka.options import Security

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relay.settings import KafkaSettings

BOOTSTRAP_INTERVAL = 1.0
"""Seconds between looks at the bootstrap list while no known broker answers. aiokafka asks the known brokers up to ten
times a second."""

CLOSE_TIMEOUT = 1.0
"""Seconds that closing a connection may take before it is cut."""

TURNS = 3
"""Turns of the event loop that a socket needs to be closed whose TLS handshake has failed; uvloop closes it after it
has said so."""

_of_this_client: ContextVar[Connections | None] = ContextVar("connections", default=None)


class Connection(AIOKafkaConnection):
    """A connection of aiokafka that can be cut."""

    _transport: asyncio.WriteTransport | None = None

    @classmethod
    async def open(cls, host: str, port: int, options: Mapping[str, Any]) -> Connection:
        """Open a connection as aiokafka's `create_conn` does, but close it before raising if it cannot be made."""
        connection = cls(host, port, **options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.cut()
            raise
        return connection

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> asyncio.Future[None] | None:
        """Begin to close the connection as aiokafka does, without waiting again for a broker that was too slow."""
        if self._writer is not None:
            # aiokafka forgets it now.
            self._transport = self._writer.transport
        closed: asyncio.Future[None] | None = super().close(reason, exc)  # type: ignore[no-untyped-call]
        if self._transport is not None and reason is CloseReason.CONNECTION_TIMEOUT:
            self._transport.abort()
        return closed

    def is_over(self) -> bool:
        """Return whether the connection's socket is closed."""
        return self._closed_fut is not None and self._closed_fut.done()

    async def finish(self) -> None:
        """Close the connection, and cut it if the broker takes longer than CLOSE_TIMEOUT to agree."""
        closed = self.close()
        if closed is not None and not closed.done():
            await asyncio.wait([closed], timeout=CLOSE_TIMEOUT)
        await self.cut()

    async def cut(self) -> None:
        """Close the connection whatever the broker says, even if it was never open."""
        closed = self.close()
        if self._transport is None:
            for _ in range(TURNS):
                await asyncio.sleep(0)
        elif closed is not None and not closed.done():
            self._transport.abort()
            await asyncio.wait([closed], timeout=CLOSE_TIMEOUT)


class Connections:
    """The connections of one AIOKafkaClient: makes them, and remembers those that could not be made."""

    def __init__(self, client: Any, settings: KafkaSettings) -> None:
        self._client = client
        self._settings = settings
        self._security = Security(settings)
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

    async def open(self, host: str, port: int, options: dict[str, Any]) -> Any:
        """Open a connection, secured by the files as they are now."""
        address = (host, port)
        try:
            connection = await Connection.open(host, port, {**options, **self._security.options()})
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
        self._open = {each for each in self._open if not each.is_over()} | {connection}
        return connection

    async def cut(self) -> None:
        """Cut the connections that a closed client has left open; nothing on its way there is of interest."""
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
                        metadata = await connection.send(MetadataRequest(list(topics) if topics else None))
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
            connection: Any = await Connection.open(host, port, {**options, **Security(settings).options()})
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
