"""Why an event that was asked for by its id can be neither replayed nor discarded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.cli.failed import pages
from relay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.postgres.admin.failure_rows import Asked, Ids
    from relay.postgres.admin.failures import Failures, Kind

MARKABLE = ("failed", "retrying")
"""The states from which a person can take an event."""

_MOST_REASONS = 20


class RefusedError(RelayError):
    """What was asked for cannot be done; nothing was changed."""


def state_of(failure: str | None, *, delivered: bool, held: bool) -> str:
    """The state of an event, `failure` being that of its failure."""
    if delivered:
        return "delivered"
    return failure or ("held back" if held else "pending")


def unknown(event_id: int, there_are: Ids) -> str:
    """Why there is no event with this id."""
    if event_id > there_are.newest:
        return f"there is no event {event_id}: the newest id is {there_are.newest}"
    if there_are.lowest is not None and event_id < there_are.lowest:
        return f"there is no event {event_id}: it has been pruned, as all below {there_are.lowest}"
    return (
        f"there is no event {event_id}: it may have been pruned with its segment, or its transaction was rolled back "
        "or has not ended"
    )


async def reasons(failures: Failures, ids: Sequence[int]) -> list[str]:
    """One reason for each of the events that cannot be marked."""
    asked = [
        each for each in await failures.asked(ids) if each.state not in MARKABLE or each.kafka_partition is not None
    ]
    shown = [await _reason(failures, each) for each in asked[:_MOST_REASONS]]
    return shown + ([f"and {len(asked) - len(shown):,} more"] if len(asked) > len(shown) else [])


def refusal(kind: Kind, ids: Sequence[int], why: Sequence[str]) -> RefusedError:
    """The error that says so."""
    if len(ids) == 1:
        return RefusedError(f"{why[0]}; nothing was changed")
    done = "replayed" if kind == "replay" else "discarded"
    return RefusedError("\n  ".join([f"nothing was changed: not all of these events can be {done}:", *why]))


async def _reason(failures: Failures, asked: Asked) -> str:
    event = f"event {asked.id}"
    if asked.lane is None or asked.topic is None:
        return unknown(asked.id, await failures.ids())
    if asked.kafka_partition is not None:
        offset = "" if asked.kafka_offset == -1 else f", offset {asked.kafka_offset}"
        when = pages.ago(asked.delivered_seconds)
        return f"{event} was delivered {when}: topic {asked.topic}, partition {asked.kafka_partition}{offset}"
    by = f"action {asked.action}, by {asked.requested_by} {pages.ago(asked.requested_seconds)}"
    if asked.state == "replaying":
        return f"{event} is being replayed already ({by}); see `relay failed actions`"
    if asked.state == "discarded":
        return f"{event} was discarded ({by}); what was given up does not come back"
    if not asked.held:
        return f"{event} has not failed: it is pending, and a relay publishes it when its turn comes"
    behind = await failures.behind(asked.lane, asked.id, asked.topic, asked.key)
    if behind is None:
        return f"{event} has not failed: it waits for its topic {asked.topic}, which was paused; see `relay status`"
    return (
        f"{event} has not failed: it is held back behind event {behind.id} ({behind.state}, {behind.error}) "
        "and follows it by itself"
    )
