"""Replicas and lanes as people see them: who owns what, and what is on its way to somebody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from relay.cli.show.tables import Name, PlainTable, table
from relay.cli.words import duration, plural, ranges
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.postgres.admin.lanes import OwnedLane, Replica
    from relay.postgres.admin.status import Lane


_MOST_OF_A_VERSION = 24


def silence(replicas: Sequence[Replica]) -> list[str]:
    """What to say of replicas whose heartbeat is overdue."""
    return [
        f"replica {plain(replica.name)} has been silent for {duration(replica.silent_seconds)}; unless it comes back, "
        f"others claim its lanes in {duration(replica.lease_seconds)}: {ranges(replica.lanes)}"
        for replica in replicas
        if replica.alive and replica.silent_seconds is not None and replica.lanes
    ]


def parking(lanes: Sequence[OwnedLane]) -> list[str]:
    """What to say of lanes that a person has parked."""
    parked = [lane for lane in lanes if lane.parked]
    if not parked:
        return []
    longest = max(lane.intent_seconds or 0.0 for lane in parked)
    numbers = ranges([lane.lane for lane in parked])
    until = f"at most {duration(longest)} more, or until `relay lanes release` without --for"
    return [f"lanes that somebody released for a time: {numbers}; their events wait for {until}"]


def replicas_table(replicas: Sequence[Replica], *, with_ids: bool = False) -> PlainTable:
    """One row for each replica; dead ones in red."""
    made = table("*replica", *(["id"] if with_ids else []), "version", ">running", ">lease", "lanes", "*")
    for replica in replicas:
        lease = duration(replica.lease_seconds) if replica.alive else f"out for {duration(-replica.lease_seconds)}"
        made.add_row(
            replica.name,
            *([str(replica.id)[:8]] if with_ids else []),
            # Not folded, so that names have the room, and cut, so that it cannot take it from them.
            plain(replica.version)[:_MOST_OF_A_VERSION],
            duration(replica.running_seconds),
            lease,
            ranges(replica.lanes) or "none",
            ", ".join(_notes(replica)),
            style=None if replica.alive else "red",
        )
    return made


def lanes_table(lanes: Sequence[OwnedLane | Lane]) -> PlainTable:
    """One row for each lane; with what waits in it, if that was counted."""
    counted = any(hasattr(lane, "pending") for lane in lanes)
    made = table(">lane", "*owner", ">epoch", ">owned for", ">position", *([">pending", ">oldest"] if counted else []))
    for lane in lanes:
        made.add_row(
            str(lane.lane),
            # Whole in the table of replicas above; a line more for each lane would make a screen of them.
            Name(lane.replica or ("free" if lane.owner is None else "free (lease ran out)")),
            str(lane.epoch),
            duration(lane.owned_seconds if lane.replica else None),
            f"{lane.position:,}",
            *(_waiting(lane) if counted else []),
            style=None if lane.replica or lane.parked else "red",
        )
    return made


def lanes_page(lanes: Sequence[OwnedLane | Lane]) -> Group:
    """Return the table of lanes and, below it, what is under way with them.

    A column for the latter took the room of the owners' names: on 80 columns one lane that was released made each lane
    of a pod three lines high.
    """
    noted: dict[str, list[int]] = {}
    for lane in lanes:
        for note in lane_notes(lane):
            noted.setdefault(note, []).append(lane.lane)
    below = [f"{plural('lane', len(those))} {ranges(those)}: {note}" for note, those in noted.items()]
    return Group(lanes_table(lanes), *([""] if below else []), *map(Text, map(plain, below)))


def lane_notes(lane: OwnedLane) -> list[str]:
    """What is under way with a lane."""
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
    if replica.duplicates:
        notes.append(f"{replica.duplicates:,} {plural('duplicate', replica.duplicates)}")
    if replica.leases_lost:
        notes.append(f"{replica.leases_lost:,} {plural('lease', replica.leases_lost)} lost")
    return notes


def _waiting(lane: OwnedLane | Lane) -> list[str]:
    pending, oldest = getattr(lane, "pending", None), getattr(lane, "oldest_seconds", None)
    return ["?" if pending is None else f"{pending:,}", duration(oldest)]
