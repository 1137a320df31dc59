"""What the scan and the long sweeps of one tenure tell each other, and how both take what they read.

The scan reads all lanes but those in a long sweep, and sends a lane there when its sweep is too long for one statement.
The sweeps give it back when they are through. Each reads on a connection of its own; here is all that they share.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relay.decide.lane_scan import LaneScan
    from relay.event import PendingEvent
    from relay.stages.tenure import Tenure


class LaneReads:
    """What each of the two tells the other.

    Both call `take`. The sweeps call `look_at_once`, `found_quiet`, `sweeping` and `lane_sent`, the scan all else; the
    session, too, has the scan look at once, and claim sends lanes to the sweeps.
    """

    def __init__(
        self,
        tenure: Tenure,
        pass_on: Callable[[list[PendingEvent]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`pass_on` gets the events of one lane, in order."""
        self.tenure = tenure
        self._pass_on = pass_on
        self._clock = clock
        self._known_at = clock()
        self._quiet: dict[int, int] = {}
        self._wanted_at_once = False
        self._sweeps = asyncio.Event()

    def take(self, state: LaneScan, events: list[PendingEvent]) -> int:
        """Count events of a lane in and pass them on; returns the bytes of their keys, payloads and headers."""
        taken_bytes = self.tenure.room.add(state.lane, events)
        self._pass_on(events)
        return taken_bytes

    def look_at_once(self) -> None:
        """Have the scan look at once instead of at its next poll: a writer may have committed, or a sweep is over."""
        self._wanted_at_once = True
        self.tenure.scan_wake_up.set()

    def found_quiet(self, xids: Iterable[int], value: int) -> None:
        """Leave the scan transactions found without an event id, and the sequence's value before that look."""
        # Into what is there now: the scan may have taken what was there when the look began.
        self._quiet.update(dict.fromkeys(xids, value))

    @property
    def wanted_at_once(self) -> bool:
        """Whether the scan is to look at once."""
        return self._wanted_at_once

    def looking(self) -> None:
        """Note that the scan looks now: what comes from now on wants another look."""
        self._wanted_at_once = False

    @property
    def any_quiet(self) -> bool:
        """Whether quiet transactions are known that no scan has looked at."""
        return bool(self._quiet)

    def take_quiet(self) -> dict[int, int]:
        """Take the transactions that were found without an event id (SCAN.md, rule 8)."""
        quiet, self._quiet = self._quiet, {}
        return quiet

    def looked(self) -> None:
        """Note that the scan has just seen all there is in its lanes."""
        self._known_at = self._clock()

    def since_look(self) -> float:
        """Seconds since the scan last saw all there was."""
        return self._clock() - self._known_at

    def lane_needs_sweep(self) -> None:
        """Have the sweeps begin: a lane was claimed, or its sweep is too long for a scan."""
        self._sweeps.set()

    def sweeping(self) -> None:
        """Note that the sweeps look at all lanes now: a lane that is sent from now on wants another look."""
        self._sweeps.clear()

    async def lane_sent(self, seconds: float) -> None:
        """Wait until a lane is sent to the sweeps, for `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._sweeps.wait()
        except TimeoutError:
            return
