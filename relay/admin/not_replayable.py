"""Why an event that a person names by its id can be neither replayed nor discarded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.admin.times import ago
from relay.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.postgres.admin.failures import Failures, Kind
    from relay.postgres.admin.rows import EventState, IdRange

MARKABLE = ("failed", "retrying")
"""The states from which a person can take an event."""

_MAX_REASONS = 20


def state_of(failure: str | None, *, delivered: bool, held: bool) -> str:
    """Return the state of an event, `failure` being that of its failure."""
    if delivered:
        return "delivered"
    return failure or ("held back" if held else "pending")


def unknown(event_id: int, there_are: IdRange) -> str:
    """Say why there is no event with this id."""
    if event_id > there_are.newest:
        return f"there is no event {event_id}: the newest id is {there_are.newest}"
    if there_are.lowest is not None and event_id < there_are.lowest:
        return f"there is no event {event_id}: events below {there_are.lowest} have been pruned"
    return (
        f"there is no event {event_id}: its segment may have been pruned, or its transaction was rolled back or is "
        "still open"
    )


async def reasons(failures: Failures, ids: Sequence[int]) -> list[str]:
    """Return one reason for each of the events that cannot be marked."""
    states = [
        each for each in await failures.states(ids) if each.state not in MARKABLE or each.kafka_partition is not None
    ]
    shown = [await _reason(failures, each) for each in states[:_MAX_REASONS]]
    return shown + ([f"and {len(states) - len(shown):,} more"] if len(states) > len(shown) else [])


def refusal(kind: Kind, ids: Sequence[int], why: Sequence[str]) -> RefusedError:
    """Return the error that says so."""
    if len(ids) == 1:
        return RefusedError(f"{why[0]}; nothing was changed")
    done = "replayed" if kind == "replay" else "discarded"
    return RefusedError("\n  ".join([f"nothing was changed: not all of these events can be {done}:", *why]))


async def _reason(failures: Failures, event: EventState) -> str:
    name = f"event {event.id}"
    if event.lane is None or event.topic is None:
        return unknown(event.id, await failures.id_range())
    if event.erased_by is not None:
        return (
            f"{name} was erased (action {event.erased_by}, by {event.requested_by} {ago(event.requested_seconds)}): "
            "its payload and headers are gone"
        )
    if event.kafka_partition is not None:
        offset = "" if event.kafka_offset == -1 else f", offset {event.kafka_offset}"
        where = f"topic {event.topic}, partition {event.kafka_partition}{offset}"
        return f"{name} was delivered {ago(event.delivered_seconds)}: {where}; see `relay replay` to publish it again"
    by = f"action {event.action}, by {event.requested_by} {ago(event.requested_seconds)}"
    if event.state == "replaying":
        return f"{name} is being replayed already ({by}); see `relay failed actions`"
    if event.state == "discarded":
        return f"{name} was discarded ({by}), and a discard cannot be undone"
    if not event.held:
        return f"{name} has not failed: it is pending, and a relay publishes it when its turn comes"
    behind = await failures.behind(event.lane, event.id, event.topic, event.key)
    if behind is None:
        return f"{name} has not failed: it waits for its topic {event.topic}, which is paused; see `relay status`"
    return (
        f"{name} has not failed: it is held back behind event {behind.id} ({behind.state}, {behind.error}) and "
        "follows it without further action"
    )
