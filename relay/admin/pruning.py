"""What housekeeping would do about old segments and old requests, and doing it now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from relay.admin.segments import needed_in_words, why_kept
from relay.errors import HeldUpError, SchemaError
from relay.postgres.admin.reads import read
from relay.postgres.admin.segments import COUNT_NEEDED, Segment, segments_of
from relay.postgres.flow.housekeeping import HousekeepingConnection
from relay.postgres.flow.retiring import due_segments, frees_little

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from relay.settings import SegmentSettings
    from relay.stages.housekeeping.ports import DueSegment

Outcome: TypeAlias = Literal["drop", "shrink", "keep"]
"""Shrink: drop it but for what is needed, which stays in a small one."""

MOST_COUNTED = 1_000_000
"""Rows that are over and counted."""


class Planned(NamedTuple):
    """What is to become of a segment."""

    segment: Segment
    outcome: Outcome
    why: str
    """Why it is kept, or what of it is."""


class Over(NamedTuple):
    """Rows that are over, counted up to MOST_COUNTED."""

    replay_receipts: int
    actions: int
    replicas: int


class Plan(NamedTuple):
    """What housekeeping would do now."""

    segments: list[Planned]
    over: Over


class Pruned(NamedTuple):
    """What became of a segment that was due."""

    segment: DueSegment
    kept: int | None
    """Number of events that are kept of it; None: all, as before."""
    error: str = ""
    """Why it could not be retired."""


async def plan(connection: asyncpg.Connection, schema: str, settings: SegmentSettings) -> Plan:
    """Look what is due, and what keeps the others. The role `outbox_admin` may do so."""
    segments = segments_of(
        await read(connection, schema, "status_segments"),
        await read(connection, schema, "status_needed", COUNT_NEEDED),
    )
    due = {each.lower_id: each for each in await due_segments(connection, settings.retention, schema=schema)}
    planned = []
    for segment in segments:
        if segment.lower_id not in due or await frees_little(
            connection,
            due[segment.lower_id],
            settings.retention,
            settings.discarded_retention,
            schema=schema,
        ):
            planned.append(Planned(segment, "keep", why_kept(segment, settings.retention)))
        else:
            needed = needed_in_words(segment)
            planned.append(Planned(segment, "shrink" if needed else "drop", needed))
    limits = settings.retention, settings.action_retention, MOST_COUNTED
    (over,) = await read(connection, schema, "prune_counts", *limits)
    return Plan(planned, Over(*over))


async def prune(
    connection: asyncpg.Connection, schema: str, settings: SegmentSettings, report: Callable[[Pruned], None]
) -> list[Pruned]:
    """Retire what is due, and forget what is over. `report` hears of each segment at once.

    Raises PrivilegeError unless the role has the rights of `outbox_relay`.
    """
    port = HousekeepingConnection(connection, schema)
    done = []
    for segment in await port.due_segments(settings.retention):
        pruned = await _retire(port, segment, settings)
        report(pruned)
        done.append(pruned)
    while await port.forget_replayed(settings.retention):
        pass
    while await port.forget_actions(settings.action_retention):
        pass
    await port.forget_replicas()
    return done


async def _retire(port: HousekeepingConnection, segment: DueSegment, settings: SegmentSettings) -> Pruned:
    try:
        kept = await port.retire_segment(segment, settings.retention, settings.discarded_retention)
    except (HeldUpError, SchemaError) as error:
        return Pruned(segment, None, str(error))
    return Pruned(segment, kept)
