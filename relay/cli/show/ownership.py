"""The tables of replicas and lanes: who owns what, and which lanes change hands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from relay.admin.counts import counted, plural, ranges
from relay.admin.times import ago, duration
from relay.cli.show.tables import Name, PlainTable, table
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.postgres.admin.lanes import OwnedLane, Replica
    from relay.postgres.admin.status import Lane


_MAX_OF_A_VERSION = 24


def replicas_table(replicas: Sequence[Replica], *, with_ids: bool = False) -> PlainTable:
    """Return a table with a row for each replica; dead ones in red."""
    made = table("*replica", *(["id"] if with_ids else []), "version", ">running", ">lease", "lanes", "*")
    for replica in replicas:
        lease = duration(replica.lease_seconds) if replica.alive else f"expired {ago(-replica.lease_seconds)}"
        made.add_row(
            replica.name,
            *([str(replica.id)[:8]] if with_ids else []),
            # Not folded, so that names have the room, and cut, so that it cannot take it from them.
            plain(replica.version)[:_MAX_OF_A_VERSION],
            duration(replica.running_seconds),
            lease,
            ranges(replica.lanes) or "none",
            ", ".join(_notes(replica)),
            style=None if replica.alive else "red",
        )
    return made


def lanes_table(lanes: Sequence[OwnedLane]) -> PlainTable:
    """Return a table with a row for each lane."""
    made = table(">lane", "*owner", ">epoch", ">owned for", ">position")
    for lane in lanes:
        made.add_row(*_owned(lane), style=_style(lane))
    return made


def counted_lanes_table(lanes: Sequence[Lane]) -> PlainTable:
    """Return a table with a row for each lane, and what waits in it."""
    made = table(">lane", "*owner", ">epoch", ">owned for", ">position", ">pending", ">oldest")
    for lane in lanes:
        pending = "?" if lane.pending is None else f"{lane.pending:,}"
        made.add_row(*_owned(lane), pending, duration(lane.oldest_seconds), style=_style(lane))
    return made


def notes_below(lanes: Sequence[OwnedLane]) -> list[Text]:
    """Return a line for each thing that happens with lanes, for below their table.

    A column for it took the room of the owners' names: on 80 columns one lane that was released made each lane of a pod
    three lines high.
    """
    noted: dict[str, list[int]] = {}
    for lane in lanes:
        for note in lane_notes(lane):
            noted.setdefault(note, []).append(lane.lane)
    told = [f"{plural('lane', len(those))} {ranges(those)}: {note}" for note, those in noted.items()]
    return [Text(), *map(Text, map(plain, told))] if told else []


def lane_notes(lane: OwnedLane) -> list[str]:
    """Say what happens with a lane."""
    notes = []
    if lane.handing_back:
        notes.append("being handed over")
    if lane.free_in_seconds is not None:
        notes.append(f"owner silent, free in {duration(lane.free_in_seconds)}")
    if lane.parked:
        notes.append(f"released for {duration(lane.intent_seconds)} more")
    if lane.moved_to is not None:
        notes.append(f"moved to {lane.moved_to} for {duration(lane.intent_seconds)} more")
    return notes


def _notes(replica: Replica) -> list[str]:
    notes = []
    if replica.alive and replica.draining:
        notes.append("stopping")
    if replica.alive and replica.silent_seconds is not None:
        notes.append(f"silent for {duration(replica.silent_seconds)}")
    if replica.ended_seconds is not None:
        waits = f": {plain(replica.waits_for)}" if replica.waits_for else ""
        notes.append(f"ended, Kafka is asked what it had published{waits}")
    if replica.duplicates:
        notes.append(counted(replica.duplicates, "duplicate"))
    if replica.leases_lost:
        notes.append(f"{counted(replica.leases_lost, 'lease')} lost")
    return notes


def _owned(lane: OwnedLane) -> tuple[str | Name, ...]:
    return (
        str(lane.lane),
        # Whole in the table of replicas above; a line more for each lane would make a screen of them.
        Name(lane.replica or ("free" if lane.owner is None else "free (lease ran out)")),
        str(lane.epoch),
        duration(lane.owned_seconds if lane.replica else None),
        f"{lane.position:,}",
    )


def _style(lane: OwnedLane) -> str | None:
    return None if lane.replica or lane.parked else "red"
