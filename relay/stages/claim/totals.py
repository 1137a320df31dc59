"""What a replica counts of itself since its process began, and shows to people with every heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.telemetry import Telemetry, Told


class Totals:
    """Duplicates and lost leases of this process. Outlives tenures."""

    def __init__(self) -> None:
        self.duplicates = 0
        """Events that were found to be in Kafka more than once."""
        self.leases_lost = 0
        """Leases that ended before they were given back."""

    def listen_to(self, telemetry: Telemetry) -> None:
        """Count what happens from now on."""
        telemetry.listen("settle.done", self._settled)
        telemetry.listen("lease.lost", self._lease_lost)

    def _settled(self, told: Told) -> None:
        match told.fields:
            case {"duplicates": int(duplicates)}:
                self.duplicates += duplicates

    def _lease_lost(self, _: Told) -> None:
        self.leases_lost += 1
