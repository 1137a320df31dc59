"""Segments made ahead and dropped when their time is over, beside the flow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from relay.errors import StatementGivenUpError

if TYPE_CHECKING:
    from relay.settings import SegmentSettings
    from relay.telemetry import Telemetry


class HousekeepingPort(Protocol):
    """What housekeeping needs of PostgreSQL."""

    async def ensure_segments(self, ids_per_segment: int, ahead: int) -> list[str]:
        """Make segments ahead; returns the names of the new ones."""

    async def prune(self, retention: float) -> list[str]:
        """Drop segments that are settled and older than `retention` seconds; returns their names."""

    async def forget_replayed(self, retention: float) -> bool:
        """Drop receipts of replays that were over `retention` seconds ago; returns whether more may be left."""


class Housekeeping:
    """The loop; any number of replicas may run it at once."""

    def __init__(self, port: HousekeepingPort, settings: SegmentSettings, telemetry: Telemetry) -> None:
        self._port = port
        self._settings = settings
        self._telemetry = telemetry

    async def run(self) -> None:
        """Keep house until cancelled."""
        while True:
            for chore in (self._make_segments, self._drop_segments, self._forget_replayed):
                try:
                    await chore()
                except StatementGivenUpError as error:
                    # Nothing of the flow depends on it soon: no reason to give up the tenure.
                    self._telemetry.emit("housekeeping.put_off", error=error)
            await asyncio.sleep(self._settings.check_interval)

    async def _make_segments(self) -> None:
        for name in await self._port.ensure_segments(self._settings.ids, self._settings.ahead):
            self._telemetry.emit("segment.created", segment=name)

    async def _drop_segments(self) -> None:
        for name in await self._port.prune(self._settings.retention):
            self._telemetry.emit("segment.dropped", segment=name)

    async def _forget_replayed(self) -> None:
        while await self._port.forget_replayed(self._settings.retention):
            pass
