"""One tenure after the other: which lease is watched, and whose lanes the next one takes over."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import pytest

from relay.decide.room import Room
from relay.errors import PostgresLostError, SchemaError
from relay.run.service import Service
from relay.settings import Settings
from relay.stages.claim.former import FormerTenure
from relay.stages.tenure import LeaseLostError, Tenure
from relay.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.run.session import Session

LOST = PostgresLostError("the connection was lost")
REQUIRED = {"RELAY_POSTGRES_DSN": "postgresql://nowhere/none", "RELAY_KAFKA_BOOTSTRAP_SERVERS": "nowhere:1"}


class FakeSession:
    """Ends for a reason, having come so far."""

    def __init__(
        self, reason: Exception | None, *, registered: bool = True, has_left: bool = False, lease: float = 60.0
    ) -> None:
        self.tenure = Tenure(Room(1, 1))
        self.former: FormerTenure | None = None
        self._reason = reason
        self._registered = registered
        self._has_left = has_left
        self._lease = lease
        self.on_registered: Callable[[], None] = lambda: None

    async def run(self, former: FormerTenure | None) -> Exception | None:
        self.former = former
        await asyncio.sleep(0)
        if self._registered:
            if former is not None:
                former.replaced()
            self.tenure.registered = True
            self.on_registered()
            self.tenure.lease_ends = time.monotonic() + self._lease
        self.tenure.has_left = self._has_left
        return self._reason


async def run(*sessions: FakeSession | Exception) -> float:
    """Run these sessions, or fail to open them; returns how many leases were lost."""
    telemetry = Telemetry()
    service = Service(Settings.load(REQUIRED), telemetry)
    opened = iter(sessions)

    async def open_session() -> Session:
        await asyncio.sleep(0.01)
        coming = next(opened)
        if isinstance(coming, Exception):
            raise coming
        return cast("Session", coming)

    for session in sessions:
        if isinstance(session, FakeSession):
            session.on_registered = service._restarts.registered
    service._restarts.ended = lambda reason: 0.0  # type: ignore[method-assign]
    service._open_session = open_session  # type: ignore[method-assign]
    await service._sessions()
    return telemetry.value("leases_lost_total") or 0.0


async def test_a_session_that_was_lost_before_it_was_registered_replaces_nothing() -> None:
    first, second, third = FakeSession(LOST), FakeSession(LOST, registered=False), FakeSession(None)
    assert await run(first, second, third) == 0
    for later in (second, third):
        assert later.former is not None
        assert later.former.replica == first.tenure.replica
    assert not first.tenure.holds_lease(), "what it had queued may still be sent, though its lanes are free"


async def test_a_lease_that_ends_before_the_next_registration_is_lost_once() -> None:
    first, second = FakeSession(LOST, lease=0.0), FakeSession(LOST, registered=False)
    assert await run(first, second, FakeSession(None)) == 1


async def test_a_lease_that_the_database_took_away_is_lost_though_our_own_clock_has_it_running() -> None:
    first, second = FakeSession(LeaseLostError("lanes [3] have another owner")), FakeSession(None)
    assert await run(first, second) == 1
    assert not first.tenure.holds_lease()


async def test_a_replica_that_left_has_no_lease_to_lose() -> None:
    first, second = FakeSession(LOST, has_left=True, lease=0.0), FakeSession(None)
    assert await run(first, second) == 0
    assert second.former is None


async def test_a_bug_ends_the_tenure_and_not_the_process() -> None:
    first, second = FakeSession(ValueError("a bug")), FakeSession(None)
    await run(first, second)
    assert second.former is not None


async def test_an_outbox_that_is_missing_ends_the_process_at_its_start_and_is_waited_for_later() -> None:
    with pytest.raises(SchemaError):
        await run(SchemaError("run `relay migrate`"), FakeSession(None))
    last = FakeSession(None)
    await run(FakeSession(LOST), SchemaError("run `relay migrate`"), SchemaError("run `relay migrate`"), last)
    assert last.former is not None


async def test_nothing_is_watched_any_more_when_the_process_ends() -> None:
    heard: list[str] = []
    former = FormerTenure(Tenure(Room(1, 1)), LOST, lambda _, why: heard.append(why))
    former.forget()
    await asyncio.sleep(0)
    assert heard == []
