"""Starts a producer whose id can be fenced: the id is that of a transactional id.

The producer itself stays a plain idempotent one. Nothing that it sends belongs to a transaction, so consumers of any
isolation level see it immediately. But whoever ends an empty transaction of the transactional id raises the epoch of
the producer id, and Kafka refuses what this producer sends from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relay.kafka.reconcile.asking import Asking
from relay.kafka.reconcile.transactions import new_producer_id
from relay.stages.reconcile.ports import ProducerId, UnfenceableError

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from relay.stages.reconcile.ports import Enlistment

COORDINATOR_TIMEOUT = 2.5
"""Seconds for the coordinator to give the id. It takes milliseconds; some clusters never have a coordinator, and a
replica is to publish there within three seconds."""


async def start(producer: AIOKafkaProducer, enlistment: Enlistment | None, request_timeout: float) -> str | None:
    """Connect the producer, and have the enlistment take note of its id before anything can be sent.

    Returns the name under which the id was noted, None if nobody takes note. Raises PublishError if the producer must
    not be used, and errors of aiokafka.
    """
    name = enlistment.name() if enlistment is not None else None
    manager: Any = producer._txn_manager  # noqa: SLF001 aiokafka has no public way to be given an id
    if enlistment is not None and name is not None:
        await producer.client.bootstrap()
        try:
            given = await new_producer_id(Asking(producer.client), name, min(COORDINATOR_TIMEOUT, request_timeout))
        except UnfenceableError as error:
            enlistment.cannot_fence(error.trouble)
            name = None
        else:
            manager.set_pid_and_epoch(*given)
    await producer.start()
    if enlistment is None:
        return None
    await enlistment.enlist(name, ProducerId(manager.producer_id, manager.producer_epoch))
    return name or unnamed(manager.producer_id)


def unnamed(producer: int) -> str:
    """Return what stands for the name of a producer without a transactional id."""
    return f"producer-{producer}"
