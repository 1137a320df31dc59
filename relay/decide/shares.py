"""How many lanes each replica should own."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

LANES = 16
"""Number of lanes: `hash(key) mod 16`, fixed by the generated column `outbox.event.lane`."""

Replica = TypeVar("Replica")


def fair_share(replica: Replica, live: Sequence[Replica]) -> int:
    """The number of lanes for `replica` when the replicas `live`, in (started_at, id) order, share them all.

    One more for the first ones when it does not divide evenly; 0 for a replica that is not among them.
    """
    if replica not in live:
        return 0
    share, rest = divmod(LANES, len(live))
    return share + (live.index(replica) < rest)
