"""Failures as people list them, and what they decide: look, preview, confirm if worth it, mark."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from relay.admin.counts import counted
from relay.admin.not_replayable import MARKABLE, reasons, refusal
from relay.admin.selections import in_words, recorded
from relay.errors import BusyError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from relay.admin.selections import Selection
    from relay.postgres.admin.failures import FailureFilter, Failures, Kind
    from relay.postgres.admin.rows import Action, FailureGroup, FailureRow, Marked

STATES = ("failed", "retrying", "replaying", "discarded")
_OPEN = STATES[:3]

CONFIRM_ABOVE = 20
"""Events. So many fit a screen, and a person may have looked at each."""

_LONGEST_PAUSE = 1.0
_PATIENCE = 20.0
"""Seconds without a live replica after which `follow` ends: longer than a lease, so that it outlasts a restart."""


class FailureList(NamedTuple):
    """Failures that match, and what waits behind them."""

    asked: dict[str, object]
    page: list[FailureRow]
    groups: list[FailureGroup]
    """All that match."""
    held_back: int | None
    each_holds_back: dict[int, int] | None
    """By the ids of the page; None if counting took too long."""
    discarded: int
    """Discarded ones, when nobody asked for them."""

    @property
    def total(self) -> int:
        """The number of failures that match."""
        return sum(group.events for group in self.groups)


async def list_failures(failures: Failures, selection: Selection, *, after: int, limit: int) -> FailureList:
    """Read the page of at most `limit` failures with ids above `after`, and counts of all that match.

    Without states in the selection, discarded ones are only counted.
    """
    asked = selection.filter(await failures.now())
    matching = replace(asked, states=asked.states or _OPEN)
    page = await failures.listed(matching, after, limit) if limit else []
    discarded = [] if asked.states else await failures.counted(replace(asked, states=("discarded",)))
    return FailureList(
        asked=recorded(asked),
        page=page,
        groups=await failures.counted(matching),
        held_back=await failures.held_back(matching),
        each_holds_back=await failures.held_back_each([failure.id for failure in page]) if page else {},
        discarded=sum(group.events for group in discarded),
    )


@dataclass(frozen=True, slots=True)
class MarkRequest:
    """What a person wants done with failures, and why."""

    kind: Kind
    selection: Selection
    reason: str = ""


class MarkPreview(NamedTuple):
    """What a request would do, at one moment."""

    request: MarkRequest
    matching: FailureFilter
    seen_at: datetime
    """By the server's clock."""
    groups: list[FailureGroup]
    """Of the failures that would be marked."""
    held_back: int | None
    """Events behind them; None if counting took too long."""
    replicas: int
    """Live ones, which would act on the mark."""

    @property
    def events(self) -> int:
        """The number of events that would be marked."""
        return sum(group.events for group in self.groups)

    @property
    def worth_confirming(self) -> bool:
        """Whether a person should agree first."""
        return self.events > CONFIRM_ABOVE

    @property
    def question(self) -> str:
        """What to ask that person."""
        return f"{self.request.kind.capitalize()} {counted(self.events, 'event')}?"

    def effects(self) -> list[str]:
        """Say in a sentence each what would happen; a warning begins with an exclamation mark."""
        told = []
        if self.held_back != 0:
            if self.request.kind == "replay":
                told.append(f"{self.behind('follow')}, in order")
            else:
                told.append(f"{self.behind('go')} on without the discarded ones")
        passed = sum(group.passed for group in self.groups)
        if passed and self.request.kind == "replay":
            told.append(
                f"! {counted(passed, 'event')} failed under skip or dead-letter: later events of their keys may be in "
                "Kafka already, and these would come after them"
            )
        would = "would be published again" if self.request.kind == "replay" else "would be given up for good"
        return [*told, f"{counted(self.events, 'event')} {would}"]

    def behind(self, verb: str) -> str:
        """Say what the events behind them do: "the 3 events held back behind them follow"."""
        held = "the events" if self.held_back is None else f"the {counted(self.held_back, 'event')}"
        does = {"go": "goes"}.get(verb, f"{verb}s") if self.held_back == 1 else verb
        return f"{held} held back behind {'it' if self.events == 1 else 'them'} {does}"


async def preview_mark(failures: Failures, request: MarkRequest) -> MarkPreview:
    """Look what a request would do. Raises RefusedError if it cannot be done, or nothing matches."""
    now = await failures.now()
    matching = request.selection.filter(now)
    if matching.ids is not None and (why := await reasons(failures, matching.ids)):
        raise refusal(request.kind, matching.ids, why)
    states = matching.states or MARKABLE
    found = await failures.counted(replace(matching, states=None))
    groups = [group for group in found if group.state in states]
    if not groups:
        raise _nothing(matching, found)
    held_back = await failures.held_back(replace(matching, states=states))
    return MarkPreview(request, matching, now, groups, held_back, await failures.live_replicas())


async def mark(failures: Failures, preview: MarkPreview, who: str, *, confirmed: bool = False) -> Marked:
    """Record the action and mark what matches. Raises RefusedError if nothing matches any more, and BusyError.

    `confirmed`: a person has agreed to what the preview shows, so what failed since then is not meant.
    """
    request, matching = preview.request, preview.matching
    if confirmed and matching.ids is None:
        matching = replace(matching, until=min(matching.until or preview.seen_at, preview.seen_at))
    marked = await failures.mark(
        request.kind, matching, recorded=recorded(preview.matching), reason=request.reason, requested_by=who
    )
    if marked is not None:
        return marked
    if matching.ids is not None and (why := await reasons(failures, matching.ids)):
        raise refusal(request.kind, matching.ids, why)
    raise _nothing(matching, await failures.counted(replace(matching, states=None)))


async def follow(failures: Failures, action: int, report: Callable[[Action, float], None]) -> Action:
    """Return the action when none of its events is to go, or when no replica has been alive for a while.

    `report` hears the action at each look, and for how many seconds nothing has moved.
    """
    pause = 0.05
    to_go = -1
    moved = seen_alive = time.monotonic()
    while True:
        # The mark is recorded: a look that takes too long must not end in "nothing was changed".
        with suppress(BusyError):
            (now,) = await failures.actions(1, only=action)
            if now.to_go != to_go:
                to_go, moved = now.to_go, time.monotonic()
            report(now, time.monotonic() - moved)
            if not now.to_go:
                await failures.finish_replays()
                return now
            if await failures.live_replicas():
                seen_alive = time.monotonic()
            elif time.monotonic() - seen_alive > _PATIENCE:
                return now
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _nothing(matching: FailureFilter, found: Sequence[FailureGroup]) -> RefusedError:
    asked = recorded(matching)
    told = "there is no failed or retrying event"
    if asked != {"all": True}:
        told = f"no failed or retrying event matches ({in_words(asked)})"
    others = {state: sum(each.events for each in found if each.state == state) for state in ("replaying", "discarded")}
    if others["replaying"]:
        told += f"; {counted(others['replaying'], 'event')} being replayed already, see `relay failed actions`"
    if others["discarded"]:
        told += f"; {counted(others['discarded'], 'event')} discarded earlier"
    return RefusedError(f"{told}; nothing was changed")
