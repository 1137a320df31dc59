"""Looks, a few ids at a time, for events that the relay has passed and that nothing is recorded of.

There must be none: below its lane's position each event has a receipt, a failure or a held row. An event without any
was hidden from the relay, or somebody took its receipt away. It would never be published, and never be missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Collection

    from relay.decide.check_sample import Coverage
    from relay.stages.housekeeping.ports import CheckPort
    from relay.telemetry import Telemetry

SLICE_IDS = 10_000
"""Ids in a slice: about 20 ms of index probes. Two slices a minute go round through 14 million ids a day."""

MOST_FOUND = 100
"""Maximum number of events that are remembered; more say nothing new."""

MOST_NAMED = 5
"""Ids that the error names."""


class UnseenEventsError(RelayError):
    """Events below their lane's position have neither receipt nor failure nor held row."""

    def __init__(self, events: Collection[tuple[int, int]]) -> None:
        ids = ", ".join(str(id_) for _, id_ in sorted(events, key=lambda event: event[1])[:MOST_NAMED])
        more = ", ..." if len(events) > MOST_NAMED else ""
        at_least = "at least " if len(events) >= MOST_FOUND else ""
        number = f"{at_least}{len(events):,} event{'' if len(events) == 1 else 's'}"
        super().__init__(
            f"{number} below the lane's position without a receipt, failure or held row: id {ids}{more}; the relay "
            'will not publish them; see "Events that the relay has passed" in the run book'
        )


class Check:
    """A chore that fails while there are such events, so that they are shown wherever failing chores are.

    Outlives tenures: what was found is looked at until it is settled.
    """

    def __init__(self, coverage: Coverage, telemetry: Telemetry) -> None:
        self._coverage = coverage
        self._telemetry = telemetry
        self._found: set[tuple[int, int]] = set()
        self._looks = 0

    async def look(self, port: CheckPort) -> None:
        """Look at the next ids, and again at what was found. Raises UnseenEventsError while there is any."""
        known = self._found
        found = set(await port.check_again(sorted(known))) if known else set()
        slices: list[tuple[int, int]] = [*self._coverage.next(*await port.check_range(), SLICE_IDS)]
        # What was kept of older segments: few events among many ids, one such segment each time.
        if kept := await port.check_kept(SLICE_IDS):
            self._looks += 1
            slices.append(kept[self._looks % len(kept)])
        for above, up_to in slices:
            for event in await port.check_slice(above, up_to):
                if len(found) < MOST_FOUND:
                    found.add(event)
        self._found = found
        error = UnseenEventsError(found) if found else None
        self._telemetry.emit("receipts.checked", events=len(found), error=error)
        if error is not None:
            if not found <= known:
                self._telemetry.emit("events.unseen", events=len(found), error=error)
            raise error
