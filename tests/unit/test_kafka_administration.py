"""The client with which topics are described and created: one per producer, however many topics ask at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from relay.kafka import administration as module
from relay.kafka.options import Security, client_options
from relay.kafka.producer import KafkaProducer
from relay.settings import KafkaSettings, TopicSettings

if TYPE_CHECKING:
    import pytest


class Clients:
    """Makes admin clients that take a moment to start, the first ones in vain if a test says so."""

    def __init__(self, failing: int = 0) -> None:
        self.failing = failing
        self.running = 0
        self.made = 0
        self.open = asyncio.Event()

    def __call__(self, **_: Any) -> Client:
        self.made += 1
        return Client(self)


class Client:
    """One of them."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._client = SimpleNamespace(_get_conn=None, bootstrap=None, _metadata_update=None)

    async def start(self) -> None:
        self._clients.running += 1
        await self._clients.open.wait()
        if self._clients.failing:
            self._clients.failing -= 1
            raise OSError("connection refused")

    async def close(self) -> None:
        self._clients.running -= 1


async def ask(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What five that ask at once get; the producer is closed again."""
    monkeypatch.setattr(module, "AIOKafkaAdminClient", clients)
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    security = Security(settings)
    options = await client_options(settings, security)
    producer = KafkaProducer(settings=settings, topics=TopicSettings(), security=security, options=options)
    try:
        asking = [asyncio.create_task(producer._administration.client()) for _ in range(5)]
        await asyncio.sleep(0)
        clients.open.set()
        return list(await asyncio.gather(*asking, return_exceptions=True))
    finally:
        await producer.close(0.1)


async def test_many_questions_at_once_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients()
    given = await ask(clients, monkeypatch)
    assert [type(each) for each in given] == [Client] * 5
    assert len(set(map(id, given))) == 1
    assert (clients.made, clients.running) == (1, 0), "some are still running after the producer was closed"


async def test_a_client_that_does_not_start_is_closed_and_the_next_question_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients = Clients(failing=1)
    refused, *given = await ask(clients, monkeypatch)
    assert isinstance(refused, OSError)
    assert [type(each) for each in given] == [Client] * 4
    assert (clients.made, clients.running) == (2, 0)
