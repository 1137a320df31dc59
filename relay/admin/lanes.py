"""Lanes as people move and release them; only the relays act on it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from relay.errors import BusyError, RefusedError
from relay.postgres.admin.lanes import read_ownership, record_intent
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.admin.connection import Outbox
    from relay.postgres.admin.lanes import OwnedLane, Replica

LOOK_INTERVAL = 0.1

_SHORTEST_ID = 4
"""Characters of an id that are taken for its beginning."""


class LanesAsked(NamedTuple):
    """Lanes that were asked for, at the end of waiting."""

    lanes: list[int]
    to_go: list[int]
    """Those that their owner has not handed over yet."""

    @property
    def ready(self) -> list[int]:
        """Those that are where they were asked to be."""
        return [lane for lane in self.lanes if lane not in self.to_go]


async def move_lanes(
    outbox: Outbox, lanes: Sequence[int], target: str, *, seconds: float, reason: str, who: str, wait: float
) -> tuple[LanesAsked, Replica]:
    """Ask that the replica `target`, a name or an id, own the lanes for so many seconds, and wait for it.

    Raises RefusedError unless just one live replica is meant.
    """
    replicas, _ = await read_ownership(outbox.connection, outbox.schema)
    replica = find_replica(target, replicas)
    await record_intent(
        outbox.connection, outbox.schema, lanes, replica=replica.id, seconds=seconds, reason=reason, requested_by=who
    )

    def arrived(lane: OwnedLane) -> bool:
        return lane.owner == replica.id

    return await _wait(outbox, lanes, arrived, wait), replica


async def release_lanes(
    outbox: Outbox, lanes: Sequence[int], *, seconds: float, reason: str, who: str, wait: float
) -> LanesAsked:
    """Ask that owners give the lanes back and nobody own them for so many seconds, and wait for it."""
    epochs = await record_intent(
        outbox.connection, outbox.schema, lanes, replica=None, seconds=seconds, reason=reason, requested_by=who
    )

    def released(lane: OwnedLane) -> bool:
        # A claim that began earlier may have been committed since: the owner of a parked lane gives it back.
        return lane.replica is None or (lane.epoch != epochs[lane.lane] and not lane.parked)

    return await _wait(outbox, lanes, released, wait)


def find_replica(target: str, replicas: Sequence[Replica]) -> Replica:
    """Return the live replica of this name, this id, or an id that begins so. Raises RefusedError."""
    alive = [each for each in replicas if each.alive and not each.draining]
    found = [each for each in alive if each.name == target]
    if not found and len(target) >= _SHORTEST_ID:
        found = [each for each in alive if str(each.id).startswith(target.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(str(each.id)[:8] for each in found)
        raise RefusedError(
            f"{len(found)} live replicas have the name {plain(target)}; name one of them by its id: {ids}"
        )
    if any(target in (each.name, str(each.id)) for each in replicas):
        raise RefusedError(
            f"the replica {plain(target)} is stopping or dead; move the lanes to a live one, see `relay lanes`"
        )
    names = ", ".join(sorted(each.name for each in alive)) or "none"
    raise RefusedError(f"no live replica has the name or id {plain(target)}; live replicas: {plain(names)}")


async def _wait(outbox: Outbox, lanes: Sequence[int], done: Callable[[OwnedLane], bool], seconds: float) -> LanesAsked:
    end = time.monotonic() + seconds
    to_go = list(lanes)
    while True:
        # The request is recorded: a look that takes too long must not end in "nothing was changed".
        with suppress(BusyError):
            _, now = await read_ownership(outbox.connection, outbox.schema)
            to_go = [lane.lane for lane in now if lane.lane in lanes and not done(lane)]
        if not to_go or time.monotonic() >= end:
            return LanesAsked(list(lanes), to_go)
        await asyncio.sleep(LOOK_INTERVAL)
