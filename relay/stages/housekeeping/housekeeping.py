"""Work that is not urgent, beside the flow: segments made ahead and retired, and what is over forgotten.

Nothing of the flow waits for it, so nothing that goes wrong with it ends the tenure: a chore that does not work out is
put off with a growing pause, is told once per cause, and is shown by `relay status` and the metrics until it works.
Only a lost connection ends the stage, as it does all others.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from relay.decide.ahead import Ahead
from relay.decide.chores import Pace
from relay.decide.retiring import Retiring
from relay.errors import HeldUpError, RelayError
from relay.stages.housekeeping.ports import PutOff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from relay.settings import SegmentSettings
    from relay.stages.housekeeping.ports import HousekeepingPort
    from relay.telemetry import Telemetry

FINISH_REPLAYS = "finish replays"
"""The name of the chore that people wait for."""

MOST_LETTERS = 500
"""Maximum characters of an error's text that are kept: the server's may quote a row."""


class Chore(NamedTuple):
    """Work that nothing of the flow waits for."""

    name: str
    """What it does, in two words: for people."""
    do: Callable[[], Awaitable[None]]
    every: float
    """Seconds between the times it is done."""


class Housekeeping:
    """The loop; any number of replicas may run it at once."""

    def __init__(
        self,
        *,
        port: HousekeepingPort,
        replica: UUID,
        settings: SegmentSettings,
        telemetry: Telemetry,
        more: Sequence[Chore] = (),
    ) -> None:
        """`more` are chores of others, done after its own."""
        self._port = port
        self._replica = replica
        self._settings = settings
        self._telemetry = telemetry
        self._ahead = Ahead(settings.ids, settings.ahead)
        self._retiring = Retiring()
        every = settings.check_interval
        self._chores = (
            Chore("make segments", self._make_segments, every),
            Chore("drop segments", self._drop_segments, every),
            Chore(FINISH_REPLAYS, port.finish_replays, every),
            Chore("forget replays", self._forget_replayed, every),
            Chore("forget actions", self._forget_actions, every),
            Chore("forget replicas", port.forget_replicas, every),
            *more,
        )
        now = time.monotonic()
        self._paces = {chore.name: Pace(chore.every, now) for chore in self._chores}
        for chore in self._chores:
            telemetry.expect("chore", chore.name)
        self._wake_up = asyncio.Event()
        self._shown = True

    def finish_replays_soon(self) -> None:
        """Note that the last events of replays may have been settled: people wait for the word that they are over."""
        self._paces[FINISH_REPLAYS].soon(time.monotonic())
        self._wake_up.set()

    async def run(self) -> None:
        """Do each chore when it is due, until cancelled or until the connection is lost."""
        while True:
            self._wake_up.clear()
            for chore in self._chores:
                if self._paces[chore.name].due <= time.monotonic():
                    await self._do(chore)
            if not self._shown:
                await self._show()
            await self._wait(min(pace.due for pace in self._paces.values()))

    async def _do(self, chore: Chore) -> None:
        pace = self._paces[chore.name]
        try:
            await chore.do()
        except Exception as error:
            if self._port.lost(error):
                raise
            self._put_off(chore, pace, error)
            return
        if pace.worked(time.monotonic()):
            self._shown = False
            self._telemetry.emit("housekeeping.works_again", chore=chore.name, overdue=0.0)

    def _put_off(self, chore: Chore, pace: Pace, error: Exception) -> None:
        now = time.monotonic()
        text = _told(error)
        new = pace.put_off(now, text, str(getattr(error, "cause", text)))
        self._telemetry.emit("housekeeping.failed", chore=chore.name, overdue=pace.overdue(now))
        if new:
            self._shown = False
            self._telemetry.emit("housekeeping.put_off", chore=chore.name, error=text)

    async def _show(self) -> None:
        """Write what is put off into this replica's row; if that does not work out either, with the next change."""
        now = time.monotonic()
        chores = [
            PutOff(name, pace.overdue(now), pace.error) for name, pace in self._paces.items() if pace.since is not None
        ]
        try:
            await self._port.show_put_off(self._replica, chores)
        except Exception as error:
            if self._port.lost(error):
                raise
            return
        self._shown = True

    async def _wait(self, due: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, due - time.monotonic())):
                await self._wake_up.wait()
        except TimeoutError:
            return

    async def _make_segments(self) -> None:
        ahead = self._ahead.segments(time.monotonic(), await self._port.sequence_value())
        for name in await self._port.ensure_segments(self._settings.ids, ahead):
            self._telemetry.emit("segment.created", segment=name)

    async def _drop_segments(self) -> None:
        """Retire what is due. One that cannot be keeps no other: what is wrong with it is raised at the end."""
        settings = self._settings
        trouble: Exception | None = None
        for segment in self._retiring.worth_a_look(await self._port.due_segments(settings.retention), time.monotonic()):
            try:
                kept = await self._port.retire_segment(segment, settings.retention, settings.discarded_retention)
            except Exception as error:
                if self._port.lost(error):
                    raise
                trouble = trouble or error
                if isinstance(error, HeldUpError):
                    # The others need the same locks.
                    break
                continue
            if kept is None:
                self._retiring.leave(segment, time.monotonic())
            elif kept:
                self._telemetry.emit("segment.retired", segment=segment.name, kept=kept)
            else:
                self._telemetry.emit("segment.dropped", segment=segment.name)
        if trouble is not None:
            raise trouble

    async def _forget_actions(self) -> None:
        while await self._port.forget_actions(self._settings.action_retention):
            pass

    async def _forget_replayed(self) -> None:
        while await self._port.forget_replayed(self._settings.retention):
            pass


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, RelayError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."
