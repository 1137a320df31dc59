"""The tasks of publish go on after an error, and an error that events depend on ends the tenure."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from relay.stages.publish import faults as module
from relay.stages.publish.faults import Faults
from relay.telemetry import Telemetry
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from relay.stages.publish.producers import Pair

ERRORS = [KeyError("x"), OSError(24, "Too many open files"), AssertionError(), ExceptionGroup("g", [ValueError("y")])]


class Tasks:
    """Faults, and what becomes of them; pauses are noted and not waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.discarded: list[str] = []
        self.told: list[str] = []
        self.pauses: list[float] = []
        telemetry = Telemetry()
        telemetry.listen("publish.fault", lambda told: self.told.append(str(told.fields["error"])))
        pair = SimpleNamespace(discard_both=self.discarded.append)
        self.faults = Faults(producers=cast("Pair", pair), random=lambda: 1.0, telemetry=telemetry)
        self._monkeypatch = monkeypatch

    @asynccontextmanager
    async def running(self, *works: Callable[[], Awaitable[None]]) -> AsyncIterator[Faults]:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)
            await asyncio_sleep(0)

        asyncio_sleep = asyncio.sleep
        self._monkeypatch.setattr(
            module, "asyncio", SimpleNamespace(sleep=sleep, TaskGroup=asyncio.TaskGroup, Event=asyncio.Event)
        )
        task = asyncio.create_task(self.faults.run(_go_on, *works))
        await asyncio.sleep(0)
        try:
            yield self.faults
        finally:
            assert not task.done(), "an error ended all tasks"
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    return Tasks(monkeypatch)


class Work:
    """Raises each of its errors once, then does what it is for."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.done = asyncio.Event()

    async def __call__(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.done.set()


async def test_work_that_fails_is_begun_again_with_growing_pauses_until_it_is_done(tasks: Tasks) -> None:
    work = Work(*ERRORS)
    async with tasks.running() as faults, asyncio.timeout(20):
        await faults.spawn(work)
        assert work.done.is_set()
    assert len(tasks.told) == len(ERRORS)
    assert tasks.pauses == sorted(tasks.pauses)
    assert len(set(tasks.pauses)) == len(ERRORS)


async def test_a_fault_of_one_partition_leaves_the_others_running(tasks: Tasks) -> None:
    steps: list[int] = []
    turn = asyncio.Event()

    async def healthy() -> None:
        while True:
            await turn.wait()
            turn.clear()
            steps.append(1)

    async def gone_on() -> bool:
        return len(steps) == 2

    broken = Work(*ERRORS)
    async with tasks.running() as faults, asyncio.timeout(20):
        faults.spawn(healthy)
        turn.set()
        await until("its first step", lambda: _truth(bool(steps)))
        await faults.spawn(broken)
        turn.set()
        await until("it has gone on", gone_on)


async def test_a_fault_in_what_events_depend_on_is_raised_to_the_tenure_and_costs_both_producers(tasks: Tasks) -> None:
    async with tasks.running() as faults, asyncio.timeout(20):
        waiting = asyncio.create_task(faults.wait())
        await faults.spawn(Work(KeyError("orders")))
        with pytest.raises(KeyError, match="orders"):
            await waiting
    assert tasks.discarded == ["a fault in the relay itself"]


async def test_a_fault_in_what_runs_beside_them_is_told_and_ends_no_tenure(tasks: Tasks) -> None:
    work = Work(*ERRORS)
    async with tasks.running(work) as faults, asyncio.timeout(20):
        waiting = asyncio.create_task(faults.wait())
        await work.done.wait()
        assert not waiting.done()
        waiting.cancel()
    assert len(tasks.told) == len(ERRORS)
    assert tasks.discarded == []


async def test_a_fault_of_a_former_tenure_does_not_end_the_next(tasks: Tasks) -> None:
    async with tasks.running() as faults, asyncio.timeout(20):
        await faults.spawn(Work(KeyError("former")))
        faults.forget()
        waiting = asyncio.create_task(faults.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        faults.end_tenure(ValueError("of its own"))
        with pytest.raises(ValueError, match="of its own"):
            await waiting


async def test_what_is_cancelled_ends_without_being_told_or_begun_again(tasks: Tasks) -> None:
    began = 0

    async def endless() -> None:
        nonlocal began
        began += 1
        await asyncio.Event().wait()

    async with tasks.running() as faults:
        task = faults.spawn(endless)
        await until("it runs", lambda: _truth(bool(began)))
        task.cancel()
        await asyncio.wait([task])
    assert (began, tasks.told, tasks.discarded) == (1, [], [])


async def test_nothing_is_spawned_before_publish_runs() -> None:
    faults = Faults(producers=cast("Pair", None), random=lambda: 0.0, telemetry=Telemetry())
    with pytest.raises(RuntimeError, match="publish is not running"):
        faults.spawn(Work())


async def _go_on() -> None:
    await asyncio.Event().wait()


async def _truth(value: Any) -> bool:
    return bool(value)
