"""A tenure that was lost: whose lease may still run, and of which Kafka may still have to answer for batches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.stages.tenure import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from relay.stages.tenure import Tenure


class FormerTenure:
    """Watches the lease until it ends, or until this process is registered anew.

    With the one or the other, others may own the lanes: what Kafka does not have yet must not be sent any more.
    """

    def __init__(self, tenure: Tenure, reason: Exception, on_lease_lost: Callable[[Tenure, str], None]) -> None:
        """`reason` is why it was lost; `on_lease_lost` hears of the lease's end and why, once at most."""
        self._tenure = tenure
        why = "the lease ran out while PostgreSQL was away"
        if isinstance(reason, LeaseLostError):
            tenure.end_lease()
            why = str(reason)
        self._watching = asyncio.ensure_future(self._watch(why, on_lease_lost))

    @property
    def replica(self) -> UUID:
        """What this process was on the list."""
        return self._tenure.replica

    def replaced(self) -> None:
        """This process is registered anew."""
        self._watching.cancel()
        self._tenure.end_lease()

    def forget(self) -> None:
        """The process ends."""
        self._watching.cancel()

    async def _watch(self, why: str, on_lease_lost: Callable[[Tenure, str], None]) -> None:
        await self._tenure.wait_lease_over()
        on_lease_lost(self._tenure, why)
