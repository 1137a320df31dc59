"""Who owns which lanes, and what people intend with them. Only the relays act on an intent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.postgres.admin.reads import read
from relay.postgres.errors import translated
from relay.postgres.hints import hint
from relay.postgres.sql import DEFAULT_SCHEMA, query

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg


@dataclass(frozen=True, slots=True)
class Replica:
    """A running instance of the relay, or one that ended without taking itself off the list."""

    id: UUID
    name: str
    version: str
    running_seconds: float
    lease_seconds: float
    alive: bool
    lanes: list[int]
    draining: bool = False
    """Whether it is stopping, and hands over its lanes."""
    silent_seconds: float | None = None
    """Seconds since its last heartbeat, if the next one is overdue: it is dead, paused, or cut off."""
    ended_seconds: float | None = None
    """Seconds since its lease ended, if the others are asking Kafka what it had published: its lanes wait for that."""
    partitions: int = 0
    """Number of partitions in which they look for it."""
    waits_for: str | None = None
    """Why they cannot find it out now, if they could not at the last try."""
    duplicates: int = 0
    """Number of events that it found to be in Kafka more than once, since its process began."""
    leases_lost: int = 0
    """Number of leases that it lost since its process began."""


@dataclass(frozen=True, slots=True)
class OwnedLane:
    """A lane and its owner. `replica` is the owner's name while its lease runs."""

    lane: int
    owner: UUID | None
    replica: str | None
    epoch: int
    position: int
    owned_seconds: float | None
    handing_back: bool = False
    """Whether its owner takes no more events from it, and releases it once the taken ones are settled."""
    free_in_seconds: float | None = None
    """Seconds, for a lane whose owner is silent: until the lease ends and others claim it."""
    parked: bool = False
    """Whether a person asked that nobody owns it for now."""
    moved_to: str | None = None
    """Name of the replica that a person moved it to; None when that one is gone."""
    intent_seconds: float | None = None
    """Seconds until that ends."""
    requested_by: str | None = None
    reason: str | None = None


async def read_ownership(
    connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA
) -> tuple[list[Replica], list[OwnedLane]]:
    """Read the replicas, the longest running first, and all lanes. Raises BusyError if that took too long."""
    lane_rows = await read(connection, schema, "status_lanes")
    replica_rows = await read(connection, schema, "status_replicas")
    replicas = [
        Replica(
            **row,
            alive=row["lease_seconds"] > 0,
            lanes=[lane["lane"] for lane in lane_rows if lane["owner"] == row["id"]],
        )
        for row in replica_rows
    ]
    alive = {replica.id: replica for replica in replicas if replica.alive}
    return replicas, [_lane(row, alive) for row in lane_rows]


def _lane(row: asyncpg.Record, alive: dict[UUID, Replica]) -> OwnedLane:
    owner, target = alive.get(row["owner"]), alive.get(row["moved_to"])
    return OwnedLane(
        **{
            **row,
            "parked": bool(row["parked"]),
            "handing_back": owner is not None and row["handing_back"],
            "moved_to": target.name if target is not None else None,
        },
        replica=owner.name if owner is not None else None,
        free_in_seconds=owner.lease_seconds if owner is not None and owner.silent_seconds is not None else None,
    )


async def record_intent(
    connection: asyncpg.Connection,
    schema: str,
    lanes: Sequence[int],
    *,
    replica: UUID | None,
    seconds: float,
    reason: str,
    requested_by: str,
) -> dict[int, int]:
    """Record that `replica` is to own these lanes for `seconds`, and wake the relays up.

    Without a replica, the owners are to give the lanes back, and no replica is to own them for `seconds`. The intent
    replaces an earlier one. Returns each lane's epoch: the intent is for the owner at this epoch.
    """
    with translated():
        rows = await connection.fetch(query("ask_lanes", schema), lanes, replica, seconds, reason, requested_by)
    await hint(connection, "lanes_wake_up", schema)
    return {row["lane"]: row["epoch"] for row in rows}
