"""What follows when a tenure ends that should not have: how long to wait, and what is told of it.

Any error in a stage ends the tenure and not the process: a restarted process would meet the same error, having
forgotten what is in Kafka's hands. What only a person mends ends it as long as nothing has worked yet: a mistake in a
deployment is seen best where it was made. A relay that has worked waits for whoever took its table or its rights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import PostgresLostError, RelayError, StatementFailedError, UnreachableError, describe
from relay.retry import Backoff
from relay.run.health import Reason
from relay.stages.tenure import LanesCededError, TenureLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.run.health import Health
    from relay.telemetry import Telemetry

WORKED_AFTER = 10.0
"""Seconds for which a tenure lasts that counts as one that worked: two heartbeats, longer than it takes to claim lanes,
publish and settle. The pauses begin anew after it."""


class Restarts:
    """Counts the tenures that ended one after the other without having worked."""

    def __init__(self, random: Callable[[], float], health: Health, telemetry: Telemetry) -> None:
        self._health = health
        self._telemetry = telemetry
        self._lost = Backoff(random, first=0.2, most=5.0)
        self._failed = Backoff(random, first=0.5, most=30.0)
        self._in_a_row = 0
        self._told = False
        self._ever_registered = False

    def registered(self) -> None:
        """A tenure has begun: settings, schema and rights were right."""
        self._ever_registered = True

    def worked(self) -> None:
        """The tenure has lasted. Told as often as one likes."""
        if self._in_a_row:
            self._in_a_row = 0
            self._lost.reset()
            self._failed.reset()
            self._health.flow_works()
        if self._told:
            self._told = False
            self._telemetry.emit("tenure.works")

    def waits_for(self, reason: BaseException) -> bool:
        """Whether another tenure is tried after this; if not, it is for a person, who has just started the process."""
        if self._ever_registered or not isinstance(reason, RelayError):
            return True
        return isinstance(reason, (PostgresLostError, StatementFailedError))

    def ended(self, reason: Exception) -> float:
        """A tenure ended, or could not begin, for `reason`; returns the seconds to wait before the next."""
        if isinstance(reason, LanesCededError):
            # Nothing failed: another replica can publish, and it may come and go.
            return 0.0
        self._in_a_row += 1
        if not is_unforeseen(reason):
            if self._in_a_row == 1:
                return 0.0
            self._health.flow_fails(Reason.POSTGRES_KEEPS_BREAKING, reason)
            return self._lost.next_delay()
        pause = self._failed.next_delay()
        error = describe(reason)
        self._health.flow_fails(Reason.FLOW_KEEPS_FAILING if self._in_a_row > 1 else Reason.FLOW_FAILED, error)
        self._telemetry.emit("tenure.failed", error=error, again_in=round(pause, 1))
        self._telemetry.emit("tenure.failing", error=error, statement=getattr(reason, "statement", ""))
        self._told = True
        return pause


def is_unforeseen(reason: BaseException) -> bool:
    """Whether this is not how a tenure ends now and then."""
    return not isinstance(reason, (UnreachableError, TenureLostError))
