"""Erasing events: which ones, what it would do, and why it cannot be done to some."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from relay.admin.counts import counted, plural, ranges
from relay.admin.not_replayable import unknown
from relay.errors import RefusedError
from relay.keys import key_text
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.postgres.admin.erasures import ErasableGroup, Erased, EraseFilter, Erasures
    from relay.postgres.admin.failures import Failures

OPEN = ("pending", "held", "retrying", "failed")
"""States in which an event is still to be published."""

IN_HAND = ("pending", "held", "retrying")
"""Those in which the owner of its lane may have it in memory."""


class EraseRequest(NamedTuple):
    """What a person wants erased."""

    wanted: EraseFilter
    reason: str = ""
    force: bool = False
    """Erase what is still to be published, too."""
    tombstone: bool = False
    """Publish a tombstone in the place of each pending event."""


class ErasePreview(NamedTuple):
    """What a request would do, at one moment."""

    request: EraseRequest
    groups: list[ErasableGroup]
    scheduled: int

    def number(self, *states: str) -> int:
        """Return how many events are in one of these states."""
        return sum(group.events for group in self.groups if group.state in states)

    @property
    def events(self) -> int:
        """The number of events that would be erased."""
        return sum(group.events for group in self.groups if group.state != "erased")

    @property
    def question(self) -> str:
        """What to ask a person."""
        return f"erase {counted(self.events + self.scheduled, 'event')} for good?"

    @property
    def filter(self) -> dict[str, object]:
        """What was asked for, as the audit has it."""
        wanted = self.request.wanted
        given = {
            "ids": None if wanted.ids is None else list(wanted.ids),
            "event_ids": None if wanted.scheduled_ids is None else list(map(str, wanted.scheduled_ids)),
            "key": None if wanted.key is None else key_text(wanted.key),
            "topic": wanted.topic,
        }
        return {name: value for name, value in given.items() if value is not None}

    def effects(self) -> list[str]:
        """Say in a sentence each what would happen."""
        told = [f"{counted(self.events, 'event')} would lose payload and headers in the outbox"]
        if already := self.number("erased"):
            told.append(f"{counted(already, 'event')} erased already")
        if self.request.tombstone and (number := self.number("pending")):
            told.append(f"{counted(number, 'pending event')} would be published as {plural('tombstone', number)}")
        given_up = self.number(*OPEN) - (self.number("pending") if self.request.tombstone else 0)
        if given_up:
            told.append(f"{counted(given_up, 'event')} would never be published")
        if self.scheduled:
            told.append(f"{counted(self.scheduled, 'scheduled event')} would be cancelled")
        return [*told, "receipts and who asked for this stay; Kafka keeps the records that it has"]


async def preview_erase(
    erasures: Erasures,
    failures: Failures,
    request: EraseRequest,
    compacted: Callable[[str], Awaitable[bool | None]],
) -> ErasePreview:
    """Look what a request would do. Raises RefusedError if it cannot be done, or nothing matches."""
    wanted = request.wanted
    preview = ErasePreview(request, await erasures.groups(wanted), await erasures.scheduled(wanted))
    if wanted.ids is not None and sum(group.events for group in preview.groups) < len(wanted.ids):
        found = {state.id for state in await failures.states(wanted.ids) if state.lane is not None}
        missing = min(id_ for id_ in wanted.ids if id_ not in found)
        raise RefusedError(f"{unknown(missing, await failures.id_range())}; nothing was changed")
    if wanted.scheduled_ids is not None and preview.scheduled < len(wanted.scheduled_ids):
        raise RefusedError(
            "not all of these event_ids are of events that are to come; those that have entered the outbox have an id, "
            "see `relay export`; nothing was changed"
        )
    if not preview.groups and not preview.scheduled:
        raise RefusedError(
            f"there is no event of key {key_text(wanted.key or b'')}{_of_topic(wanted)}; nothing was changed"
        )
    if not preview.events and not preview.scheduled:
        raise RefusedError("these events are erased already; nothing was changed")
    _check_replays(preview)
    if not request.force:
        _check_open(preview)
    else:
        await _check_owners(erasures, preview)
    if request.tombstone:
        await _check_tombstones(preview, compacted)
    return preview


async def erase(erasures: Erasures, preview: ErasePreview, machine: str) -> Erased:
    """Erase what the preview shows. Raises RefusedError if something has changed, and BusyError."""
    request = preview.request
    return await erasures.erase(
        request.wanted,
        force=request.force,
        tombstone=request.tombstone,
        recorded=preview.filter,
        reason=request.reason,
        machine=machine,
    )


def _check_replays(preview: ErasePreview) -> None:
    for group in preview.groups:
        if group.state == "replaying":
            raise RefusedError(
                f"event {group.first_id}{_and_more(group)} of the topic {plain(group.topic)} is being replayed, or may "
                "be; wait for the end (`relay failed actions`, `relay replay list`), or cancel the replay; nothing was "
                "changed"
            )


def _check_open(preview: ErasePreview) -> None:
    if group := next((group for group in preview.groups if group.state in OPEN), None):
        raise RefusedError(
            f"event {group.first_id}{_and_more(group)} of the topic {plain(group.topic)} is {group.state}: it is not "
            "published yet; wait until it is, or add --force to give it up; nothing was changed"
        )
    if preview.scheduled:
        raise RefusedError(
            f"{counted(preview.scheduled, 'scheduled event')} {plural('is', 1) if preview.scheduled == 1 else 'are'} "
            "still to come; add --force to cancel what is scheduled; nothing was changed"
        )


async def _check_owners(erasures: Erasures, preview: ErasePreview) -> None:
    lanes = sorted({lane for group in preview.groups if group.state in IN_HAND for lane in group.lanes})
    owned = await erasures.owners(lanes) if lanes else []
    if owned:
        names = ", ".join(sorted({plain(name) for _, name in owned}))
        release = f"relay lanes release {ranges([lane for lane, _ in owned])} --for 10m"
        raise RefusedError(
            f"{counted(preview.number(*IN_HAND), 'event')} may be in the hands of {names}; have the lanes released "
            f"first (`{release}`), run this again, and give them back (the same without --for); nothing was changed"
        )


async def _check_tombstones(preview: ErasePreview, compacted: Callable[[str], Awaitable[bool | None]]) -> None:
    for group in preview.groups:
        if group.state != "pending":
            continue
        if group.keyless:
            raise RefusedError("an event without a key has no tombstone; leave out --tombstone; nothing was changed")
        if not await compacted(group.topic):
            raise RefusedError(
                f"the topic {plain(group.topic)} is not compacted, or this login may not read its configuration: a "
                "tombstone means nothing there; leave out --tombstone; nothing was changed"
            )


def _and_more(group: ErasableGroup) -> str:
    return f" (and {counted(group.events - 1, 'more event')})" if group.events > 1 else ""


def _of_topic(wanted: EraseFilter) -> str:
    return f" in the topic {plain(wanted.topic)}" if wanted.topic else ""
