"""Events whose outcome PostgreSQL refuses to record: found by halving and set aside, so that the others are recorded.

Nothing is lost meanwhile. The lane's position stays below such an event, its key stays closed if it was, and whoever
owns the lane next finds it again. It is tried again at a slackening pace, for whoever mends the cause.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from relay.errors import PostgresLostError, RelayError, StatementFailedError
from relay.retry import Backoff
from relay.stages.settle.outcomes import Delivered, Failed, halves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.decide.lane_scan import LaneScan
    from relay.stages.settle.outcomes import EventOutcome, Outcomes
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

MOST_SUSPECTS = 8
"""Single events refused one after the other, none being recorded between them, after which it is not the events."""


class Unrecorded:
    """Sets aside what cannot be recorded in this tenure, and has it tried again."""

    def __init__(self, outcomes: Outcomes, tenure: Tenure, telemetry: Telemetry) -> None:
        self._outcomes = outcomes
        self._tenure = tenure
        self._telemetry = telemetry
        self._backoff = Backoff(random.random, first=1.0, most=60.0)
        self._any = asyncio.Event()
        self._retrying: asyncio.Task[None] | None = None
        self._told: set[tuple[int, int]] = set()
        self._aside: dict[tuple[int, int], LaneScan] = {}
        """By lane and id: the state of the lane that does not wait for the event; the lane may have come back."""
        self._trying: dict[tuple[int, int], LaneScan] = {}
        """The same of those that are tried again."""
        self.error = ""
        """PostgreSQL's words for the last refusal."""

    def begin(self) -> None:
        """Have what is set aside tried again now and then."""
        self._retrying = asyncio.create_task(self._retry())

    def end(self) -> None:
        """End with the tenure: what Kafka acknowledged may get its receipt in the next."""
        if self._retrying is not None:
            self._retrying.cancel()
        self._take_up()

    async def record(
        self, taken: list[EventOutcome], write: Callable[[list[EventOutcome]], Awaitable[None]]
    ) -> list[EventOutcome]:
        """Write outcomes of one kind; returns those that cannot be written, of a single event each.

        Raises the error when it is not about some of the events: when the connection is lost, or all are refused.
        """
        # A failure concerns its event and key alone, whoever is at fault. Receipts and held rows are written by the
        # hundred: if not a single one can be, the rows are not to blame.
        alone = isinstance(taken[0], Failed)
        refused: list[tuple[EventOutcome, RelayError]] = []
        recorded = False
        groups = [taken]
        while groups:
            group = groups.pop()
            try:
                await write(group)
                recorded = True
            except PostgresLostError:
                raise
            except RelayError as error:
                if (parts := halves(group)) is not None:
                    groups += reversed(parts)
                    continue
                refused.append((group[0], error))
                if not (alone or recorded or _about_data(error)) and len(refused) >= MOST_SUSPECTS:
                    raise
        if refused and not (alone or recorded or _about_data(refused[0][1])):
            raise refused[0][1]
        self._note(refused)
        return [outcome for outcome, _ in refused]

    async def _retry(self) -> None:
        while True:
            await self._any.wait()
            await asyncio.sleep(self._backoff.next_delay())
            self._any.clear()
            self._take_up()

    def _take_up(self) -> None:
        self._trying, self._aside = self._aside, {}
        for state in self._trying.values():
            state.take_up_again()
        for outcome in self._outcomes.try_again(self._worth_it):
            (event,) = outcome.events
            if outcome.tenure is self._tenure:
                self._tenure.leave_room({event.lane: (1, event.size)})
        self._telemetry.gauge("unrecorded_events", 0)

    def _worth_it(self, outcome: EventOutcome) -> bool:
        """A receipt is right whoever owns the lane; the rest is for the lane's next owner to find out."""
        if isinstance(outcome, Delivered):
            return True
        owned = self._owned(outcome)
        return owned is not None and self._trying.get(_place(outcome)) is owned

    def _note(self, refused: list[tuple[EventOutcome, RelayError]]) -> None:
        for outcome, error in refused:
            (event,) = outcome.events
            place = _place(outcome)
            state = self._trying.pop(place, None) or self._owned(outcome)
            if state is not None:
                state.set_aside()
                self._aside[place] = state
            self.error = str(error)
            if place not in self._told:
                self._told.add(place)
                self._telemetry.emit("event.unrecorded", topic=event.topic, id=event.id, error=error)
        if refused:
            self._any.set()
        elif not self._outcomes.aside:
            self._backoff.reset()
        self._telemetry.gauge("unrecorded_events", len(self._outcomes.aside) + len(refused))

    def _owned(self, outcome: EventOutcome) -> LaneScan | None:
        """The lane of a single event of this tenure, while it is owned."""
        return self._tenure.lanes.get(outcome.events[0].lane) if outcome.tenure is self._tenure else None


def _place(outcome: EventOutcome) -> tuple[int, int]:
    (event,) = outcome.events
    return event.lane, event.id


def _about_data(error: RelayError) -> bool:
    return isinstance(error, StatementFailedError) and error.about_data
