"""Transactional outbox relay: PostgreSQL to Kafka, in per-key commit order.

To enqueue events from a service, import `relay.enqueue`; it pulls in neither aiokafka nor the relay.
"""

__version__ = "0.1.0"
