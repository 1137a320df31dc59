"""Notices when producers can be fenced again: one that cannot be is to be replaced then, and not only after a day.

A coordinator that did not answer in time, or a right that was missing, is a matter of minutes as a rule. Meanwhile a
crash may repeat what arrives at Kafka late.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from relay.outcome import PublishError

if TYPE_CHECKING:
    from relay.stages.reconcile.ports import KafkaReconcilePort

AGAIN_AFTER = 60.0
"""Seconds between tries. Some clusters never have a coordinator."""

ANSWER_SECONDS = 1.0
"""Seconds for the coordinator to give an id: less than connecting a producer waits for one."""


class Names(Protocol):
    """What this process has noted of itself."""

    def name(self) -> str | None:
        """Return a transactional id that was never used before."""

    def is_fenceable(self, name: str) -> bool:
        """Return whether the producer has a transactional id."""


async def until_fenceable(kafka: KafkaReconcilePort, names: Names, producer: str | None) -> None:
    """Return when a producer that cannot be fenced, noted as `producer`, could be replaced by one that can.

    Never, if it can be fenced, or nobody has noted it.
    """
    while True:
        await asyncio.sleep(AGAIN_AFTER)
        if producer is not None and not names.is_fenceable(producer) and await _can_fence(kafka, names):
            return


async def _can_fence(kafka: KafkaReconcilePort, names: Names) -> bool:
    name = names.name()
    try:
        return name is not None and await kafka.can_fence(name, ANSWER_SECONDS)
    except PublishError:
        return False
