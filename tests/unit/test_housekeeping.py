"""Housekeeping goes on whatever goes wrong with one of its chores; only a lost connection ends it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from asyncpg import exceptions as pg

from relay.errors import HeldUpError, PostgresLostError, SchemaError, StatementGivenUpError
from relay.postgres.errors import translated
from relay.settings import SegmentSettings
from relay.stages.housekeeping.housekeeping import Chore, Housekeeping
from relay.stages.housekeeping.ports import DueSegment
from relay.telemetry import Telemetry
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from relay.stages.housekeeping.ports import PutOff

REPLICA = UUID(int=7)


class Lines:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def log(self, level: int, event: str, /, **fields: object) -> None:
        self.lines.append((fields["happening"], fields.get("chore"), fields.get("error")))


class Port:
    """Does its work, or fails as a test says: chore -> error, until it is taken out."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors
        self.done: list[str] = []
        self.shown: list[dict[str, str]] = []
        self.due: dict[DueSegment, int | Exception | None] = {}

    def lost(self, error: Exception) -> bool:
        return isinstance(error, PostgresLostError) and not isinstance(error, StatementGivenUpError)

    def _do(self, chore: str) -> None:
        if chore in self.errors:
            raise self.errors[chore]
        self.done.append(chore)

    async def sequence_value(self) -> int:
        return 0

    async def ensure_segments(self, ids_per_segment: int, ahead: int) -> list[str]:
        self._do("ensure_segments")
        return []

    async def due_segments(self, retention: float) -> list[DueSegment]:
        self._do("due_segments")
        return list(self.due)

    async def retire_segment(self, segment: DueSegment, retention: float, discarded_retention: float) -> int | None:
        self._do("retire_segment")
        kept = self.due[segment]
        if isinstance(kept, Exception):
            raise kept
        if kept == 0:
            del self.due[segment]
        return kept

    async def forget_actions(self, retention: float) -> bool:
        self._do("forget_actions")
        return False

    async def forget_replayed(self, retention: float) -> bool:
        self._do("forget_replayed")
        return False

    async def forget_replicas(self) -> None:
        self._do("forget_replicas")

    async def finish_replays(self) -> None:
        self._do("finish_replays")

    async def show_put_off(self, replica: UUID, chores: Sequence[PutOff]) -> None:
        self._do("show_put_off")
        assert replica == REPLICA
        self.shown.append({each.chore: each.error for each in chores})


ALL = ["ensure_segments", "due_segments", "finish_replays", "forget_replayed", "forget_actions", "forget_replicas"]


class House:
    """Housekeeping that runs."""

    def __init__(self, port: Port, every: float = 0.001, more: Sequence[Chore] = ()) -> None:
        self.port = port
        self.log = Lines()
        self.telemetry = Telemetry(self.log)
        self.stage = Housekeeping(
            port=port,
            replica=REPLICA,
            settings=SegmentSettings(check_interval=every),
            telemetry=self.telemetry,
            more=more,
        )
        self.running = asyncio.create_task(self.stage.run())

    async def until_done(self, chore: str, times: int = 1) -> None:
        async def look() -> bool:
            assert not self.running.done(), self.running
            return self.port.done.count(chore) >= times

        await until(f"{chore} is done {times} times", look, 5.0, interval=0.001)


@asynccontextmanager
async def keeping(port: Port, every: float = 0.001, more: Sequence[Chore] = ()) -> AsyncIterator[House]:
    house = House(port, every, more)
    yield house
    house.running.cancel()
    with suppress(asyncio.CancelledError):
        await house.running


async def test_the_metrics_of_each_chore_are_there_at_zero_before_it_fails() -> None:
    async with keeping(Port()) as house:
        for chore in house.stage._chores:
            assert house.telemetry.value("housekeeping_overdue_seconds", chore=chore.name) == 0.0
            assert house.telemetry.value("housekeeping_failures_total", chore=chore.name) == 0.0


ERRORS = [
    StatementGivenUpError("canceling statement due to statement timeout"),
    pg.DependentObjectsStillExistError("other objects depend on it"),
    KeyError("a fault of our own"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("chore", ALL)
async def test_a_chore_that_fails_is_put_off_and_the_others_are_done(chore: str, error: Exception) -> None:
    async with keeping(Port(**{chore: error})) as house:
        for other in ALL:
            if other != chore:
                await house.until_done(other, 3)


async def test_a_chore_that_is_put_off_is_told_once_and_shown_until_it_works_again() -> None:
    port = Port(due_segments=pg.DependentObjectsStillExistError("a view\ndepends on it"))
    text = "DependentObjectsStillExistError: a view depends on it"
    async with keeping(port) as house:
        await house.until_done("ensure_segments", 20)
        assert house.log.lines == [("housekeeping.put_off", "drop segments", text)]
        assert port.shown == [{"drop segments": text}]
        assert house.telemetry.value("housekeeping_failures_total", chore="drop segments") >= 2  # type: ignore[operator]
        assert house.telemetry.value("housekeeping_overdue_seconds", chore="drop segments") > 0  # type: ignore[operator]
        del port.errors["due_segments"]
        await house.until_done("due_segments")
        await house.until_done("show_put_off", 2)
        assert house.log.lines[1:] == [("housekeeping.works_again", "drop segments", None)]
        assert port.shown[1:] == [{}]
        assert house.telemetry.value("housekeeping_overdue_seconds", chore="drop segments") == 0


async def test_what_cannot_be_shown_is_shown_later_and_does_no_harm() -> None:
    port = Port(due_segments=KeyError("x"), show_put_off=pg.InsufficientPrivilegeError("no right"))
    async with keeping(port) as house:
        await house.until_done("ensure_segments", 5)
        del port.errors["show_put_off"]
        await house.until_done("show_put_off")
        assert port.shown == [{"drop segments": "KeyError: 'x'"}]


@pytest.mark.parametrize("chore", [*ALL, "show_put_off"])
async def test_a_lost_connection_ends_it(chore: str) -> None:
    port = Port(**({"due_segments": KeyError()} if chore == "show_put_off" else {}))
    port.errors[chore] = PostgresLostError("the connection was lost")
    with pytest.raises(PostgresLostError):
        await Housekeeping(
            port=port, replica=REPLICA, settings=SegmentSettings(check_interval=0.001), telemetry=Telemetry()
        ).run()


async def test_replays_are_finished_at_once_when_they_may_be_over() -> None:
    async with keeping(Port(), every=3600) as house:
        await house.until_done("forget_replicas")
        house.stage.finish_replays_soon()
        await house.until_done("finish_replays", 2)
        assert house.port.done == [*ALL, "finish_replays"]


async def test_chores_of_others_are_done_at_their_own_pace_and_put_off_alike() -> None:
    done = 0

    async def look() -> None:
        nonlocal done
        done += 1
        if done == 1:
            raise RuntimeError("not yet")

    async with keeping(Port(), every=3600, more=[Chore("check receipts", look, 0.001)]) as house:

        async def again() -> bool:
            return done >= 5

        await until("the chore is done again and again", again)
        assert [line[:2] for line in house.log.lines] == [
            ("housekeeping.put_off", "check receipts"),
            ("housekeeping.works_again", "check receipts"),
        ]


@pytest.mark.parametrize(
    "error",
    [
        pg.QueryCanceledError("statement timeout"),
        pg.DeadlockDetectedError("deadlock"),
        pg.DiskFullError("could not extend file"),
        pg.ConfigurationLimitExceededError("temporary file size exceeds temp_file_limit"),
    ],
)
def test_a_statement_that_is_given_up_is_told_from_a_lost_connection(error: Exception) -> None:
    with pytest.raises(StatementGivenUpError), translated():
        raise error
    for lost in (pg.AdminShutdownError("ended"), pg.TooManyConnectionsError("too many clients"), TimeoutError()):
        with pytest.raises(PostgresLostError) as raised, translated():
            raise lost
        assert not isinstance(raised.value, StatementGivenUpError)


def segment(number: int) -> DueSegment:
    return DueSegment(f"event_{number}", number, number + 10, kept=False)


async def test_what_is_due_is_dropped_but_for_what_is_needed_and_told() -> None:
    port = Port()
    port.due = {segment(1): 0, segment(11): 3}
    async with keeping(port) as house:
        await house.until_done("due_segments", 3)
        assert house.telemetry.value("segments_dropped_total") is not None
        told = [line[0] for line in house.log.lines]
        assert told[:2] == ["segment.dropped", "segment.retired"]
        assert house.telemetry.value("kept_events_total") == 3 * told.count("segment.retired")


async def test_one_that_is_kept_as_a_whole_is_left_alone_for_a_while() -> None:
    port = Port()
    port.due = {segment(1): None}
    async with keeping(port) as house:
        await house.until_done("due_segments", 5)
        assert port.done.count("retire_segment") == 1


async def test_one_that_cannot_be_retired_keeps_no_other() -> None:
    port = Port()
    port.due = {segment(1): SchemaError("event 5 was passed"), segment(11): 0}
    async with keeping(port) as house:
        await house.until_done("due_segments", 2)
        assert list(port.due) == [segment(1)]
        assert ("housekeeping.put_off", "drop segments", "event 5 was passed") in house.log.lines


async def test_what_others_hold_up_is_not_tried_with_each_segment() -> None:
    port = Port()
    port.due = {segment(1): HeldUpError("held up", cause="by one"), segment(11): 0}
    async with keeping(port, every=3600) as house:
        await house.until_done("forget_replicas")
        assert list(port.due) == [segment(1), segment(11)]
        assert [line[:2] for line in house.log.lines] == [("housekeeping.put_off", "drop segments")]
