"""A tenure that was lost. Its lease may still run, and Kafka may still have to answer for its batches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.stages.tenure import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from relay.stages.tenure import Tenure


class FormerTenure:
    """Watches the lease until it ends, or until this process is registered again.

    Either way, others may own the lanes from then on: nothing that Kafka does not have yet may be sent any more.
    """

    def __init__(self, tenure: Tenure, reason: Exception, on_lease_lost: Callable[[Tenure, str], None]) -> None:
        """`reason` is why the tenure was lost. `on_lease_lost` is told, once at most, that the lease ended, and why."""
        self._tenure = tenure
        why = "the lease ran out while PostgreSQL was away"
        if isinstance(reason, LeaseLostError):
            tenure.end_lease()
            why = str(reason)
        self._watching = asyncio.ensure_future(self._watch(why, on_lease_lost))

    @property
    def replica(self) -> UUID:
        """The id under which this process was on the list of replicas."""
        return self._tenure.replica

    def replaced(self) -> None:
        """Stop watching, and end the lease: this process is registered again."""
        self._watching.cancel()
        self._tenure.end_lease()

    def forget(self) -> None:
        """Stop watching: the process ends."""
        self._watching.cancel()

    async def _watch(self, why: str, on_lease_lost: Callable[[Tenure, str], None]) -> None:
        await self._tenure.wait_lease_over()
        on_lease_lost(self._tenure, why)
