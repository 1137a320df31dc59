"""Each test of a port's contract runs twice: against the shared fake, and against the real adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.clusters import RealCluster, SimulatedCluster
from tests.contract.outboxes import SimulatedOutbox, real_outbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeTopic
    from tests.contract.clusters import Cluster
    from tests.contract.outboxes import Outbox
    from tests.support.servers import shared as servers


@pytest.fixture
def real_database(request: pytest.FixtureRequest, with_outbox: None) -> str | None:
    """The DSN of a database with an outbox, for tests that run against the real adapters."""
    if request.node.callspec.params["outbox"] == "fake":
        return None
    dsn: str = request.getfixturevalue("database")
    return dsn


@pytest.fixture(params=["fake", "real"])
async def outbox(real_database: str | None) -> AsyncIterator[Outbox]:
    """An empty outbox."""
    if real_database is None:
        yield SimulatedOutbox()
    else:
        async with real_outbox(real_database) as outbox:
            yield outbox


@pytest.fixture
def real_kafka(request: pytest.FixtureRequest) -> tuple[servers.Kafka, MakeTopic] | None:
    """The session's Kafka, for tests that run against the real producer."""
    if request.node.callspec.params["cluster"] == "fake":
        return None
    return request.getfixturevalue("kafka"), request.getfixturevalue("make_topic")


@pytest.fixture(params=["fake", "real"])
async def cluster(real_kafka: tuple[servers.Kafka, MakeTopic] | None) -> AsyncIterator[Cluster]:
    """A cluster with a producer."""
    cluster: Cluster = SimulatedCluster() if real_kafka is None else await RealCluster.connect(*real_kafka)
    yield cluster
    await cluster.producer.close(2.0)
