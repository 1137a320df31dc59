"""Replays of delivered events: preview, record, follow, cancel."""

from __future__ import annotations

import asyncio
import difflib
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from relay.admin.counts import counted
from relay.admin.selections import in_words
from relay.admin.times import absolute, duration, option_of
from relay.errors import BusyError, InvalidRequestError, RefusedError
from relay.headers import REPLAY_GROUP
from relay.keys import key_text
from relay.postgres.admin.replays import ReplayFilter
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from relay.postgres.admin.replays import Counted, Horizon, Replay, Replays

_PAUSE = 0.5
_STALLED = 10.0
"""Seconds without progress from which on `follow` says where to look."""


class ReplayPreview(NamedTuple):
    """What a request would do, at one moment."""

    wanted: ReplayFilter
    horizon: Horizon
    found: Counted
    replicas: int
    """Live ones, which would carry it out."""

    @property
    def events(self) -> str:
        """How many events match, in words."""
        return ("" if self.found.exact else "at least ") + counted(self.found.events, "event")

    @property
    def question(self) -> str:
        """What to ask a person."""
        return f"publish {self.events} again?"

    @property
    def filter(self) -> dict[str, object]:
        """What was asked for, as the audit has it and the relay reads it."""
        wanted = self.wanted
        everybody = wanted.to_topic is None and wanted.group is None
        given = {
            # Programs that know of neither refuse a request without `topic`: they would publish it to everybody.
            "topic" if everybody else "from_topic": wanted.topic,
            "to_topic": wanted.to_topic,
            "group": wanted.group,
            "key": None if wanted.key is None else key_text(wanted.key),
            "since": wanted.since.isoformat(),
            "until": wanted.until.isoformat(),
            "rate": wanted.rate,
        }
        return {name: value for name, value in given.items() if value is not None}

    def effects(self) -> list[str]:
        """Say in a sentence each what would happen."""
        found = self.found
        told = [f"{self.events} would be published again: {_in_words(self.filter)}"]
        if found.first_at and found.last_at:
            told.append(f"they were delivered from {option_of(found.first_at)} to {option_of(found.last_at)}")
        if found.erased:
            told.append(f"left out, because somebody had them erased: {counted(found.erased, 'event')}")
        if self.wanted.rate:
            told.append(
                f"at {self.wanted.rate:g} events/s that takes {duration(found.events / self.wanted.rate)} or more"
            )
        if not found.exact:
            told.append("counting took too long and was cut short; all events that match are published")
        return [*told, self._receivers()]

    def _receivers(self) -> str:
        wanted = self.wanted
        if wanted.to_topic is None:
            told = "every consumer of the topic gets them again"
        else:
            told = (
                f"they go to topic {plain(wanted.to_topic)}, whose every consumer gets them, and not to their own again"
            )
        if wanted.group is not None:
            told += f"; one that heeds the header {REPLAY_GROUP} skips them unless it is of group {plain(wanted.group)}"
        return told


async def preview_replay(
    replays: Replays,
    *,
    topic: str,
    key: bytes | None,
    since: datetime | timedelta,
    until: datetime | timedelta | None,
    rate: float | None,
    to_topic: str | None = None,
    group: str | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> ReplayPreview:
    """Look what a request would do; `report` hears how many events were found so far.

    Times ago are counted from the server's time. What is delivered from now on is not meant, so that the replay ends.
    Raises InvalidRequestError for an empty span of time or a target that is the topic itself, RefusedError if nothing
    matches or what is asked for was pruned.
    """
    if to_topic == topic:
        raise InvalidRequestError(f"--to-topic is --topic; leave it out to publish to {plain(topic)} again")
    horizon = await replays.horizon()
    begin, stop = absolute(since, horizon.now), absolute(until or timedelta(), horizon.now)
    if begin >= min(stop, horizon.now):
        later = f"--until ({option_of(stop)})" if stop <= horizon.now and until else "now"
        raise InvalidRequestError(f"--since ({option_of(begin)}) is not before {later}, by PostgreSQL's clock")
    wanted = ReplayFilter(topic, key, begin, min(stop, horizon.now), rate, to_topic, group)
    _check_kept(wanted, horizon)
    found = await replays.count(wanted, horizon, report)
    if found.erased and not found.events and found.exact:
        raise RefusedError(
            f"the events that match were erased, payloads and headers are gone: {counted(found.erased, 'event')}; see "
            "`relay failed actions`; nothing was changed"
        )
    if not found.events and found.exact:
        raise RefusedError(f"{_nothing(wanted, horizon, await replays.topics())}; nothing was changed")
    return ReplayPreview(wanted, horizon, found, await replays.live_replicas())


async def request_replay(replays: Replays, preview: ReplayPreview, *, reason: str, who: str) -> int:
    """Record the request that the preview shows; returns its number."""
    return await replays.request(
        preview.filter, found=preview.found, horizon=preview.horizon, reason=reason, requested_by=who
    )


async def find_replay(replays: Replays, id_: int) -> Replay:
    """Find the replay with this number. Raises RefusedError if there is none."""
    found = await replays.listed(1, only=id_)
    if not found:
        raise RefusedError(f"there is no replay {id_}; see `relay replay list`")
    return found[0]


async def cancel_replay(replays: Replays, id_: int, who: str) -> Replay:
    """Cancel a replay. Raises RefusedError if there is none, or if it is over."""
    cancelled = await replays.cancel(id_, who)
    try:
        replay = await find_replay(replays, id_)
    except BusyError as error:
        if not cancelled:
            raise
        raise BusyError(f"replay {id_} is cancelled; PostgreSQL took too long to say how far it came") from error
    if not cancelled:
        raise RefusedError(f"replay {id_} is over: {outcome(replay)}; nothing was changed")
    return replay


async def follow(replays: Replays, id_: int, report: Callable[[Replay, str], None]) -> Replay:
    """Return the replay when it is over. `report` hears it at each look, and why nothing moves, if nothing does."""
    done = -1
    moved = time.monotonic()
    while True:
        # The replay is recorded: a look that takes too long must not end in "nothing was changed".
        with suppress(BusyError):
            replay = await find_replay(replays, id_)
            if replay.published + replay.failed != done:
                done, moved = replay.published + replay.failed, time.monotonic()
            if replay.finished_at is not None:
                report(replay, "")
                return replay
            trouble = ""
            if not await replays.live_replicas():
                trouble = "no replica is alive: the replay continues when a relay runs"
            elif time.monotonic() - moved >= _STALLED:
                trouble = "no progress for a while; see `relay status`"
            report(replay, trouble)
        await asyncio.sleep(_PAUSE)


def asked_for(replay: Replay) -> str:
    """Write what was asked for."""
    return _in_words(replay.filter)


def outcome(replay: Replay) -> str:
    """Write the progress of a replay, or how it ended."""
    at_least = "at least " if replay.counts.get("at_least") else ""
    # Receipts that were being written when it was asked for may have come on top.
    events = max(replay.events, replay.published + replay.failed)
    told = f"{replay.published:,} of {at_least}{events:,} published"
    if replay.failed:
        told += f", {replay.failed:,} refused by Kafka (relay replay show {replay.id})"
    match replay.state:
        case "cancelled":
            told += f"; cancelled by {replay.counts.get('cancelled_by')}"
        case "invalid":
            told = f"not carried out: {replay.counts['error']}"
        case "finished" if (missing := replay.events - replay.published - replay.failed) > 0:
            told += f"; {missing:,} were pruned before their turn"
    return told


def report_of(replay: Replay) -> dict[str, object]:
    """Return a replay for machines."""
    return {**replay._asdict(), "state": replay.state}


def _in_words(filter_: Mapping[str, object]) -> str:
    """Write a filter in the order of the command's options: JSON in PostgreSQL has an order of its own."""
    names = ("topic", "from_topic", "to_topic", "group", "key", "since", "until", "rate")
    return in_words({name.replace("_", " "): filter_[name] for name in names if filter_.get(name) is not None})


def _check_kept(wanted: ReplayFilter, horizon: Horizon) -> None:
    """Refuse what reaches back too far: nobody asks for a replay with a hole at its beginning."""
    kept = horizon.kept_since
    if not horizon.pruned or (kept is not None and wanted.since >= kept):
        return
    if kept is None:
        raise RefusedError("all delivered events are pruned; nothing was changed")
    # The next whole second: the time that is shown has to be one that is taken.
    shown = option_of(kept.replace(microsecond=0) + timedelta(seconds=1))
    raise RefusedError(
        f"events delivered before {shown} are pruned; ask for --since {shown} or later (RELAY_SEGMENT_RETENTION says "
        "how long they are kept); nothing was changed"
    )


def _nothing(wanted: ReplayFilter, horizon: Horizon, topics: list[str]) -> str:
    if horizon.kept_since is None:
        return "no event has been delivered"
    if wanted.topic not in topics and (near := difflib.get_close_matches(wanted.topic, topics, 1)):
        return f"topic {plain(wanted.topic)} has no delivered events in that time; did you mean {plain(near[0])}?"
    of_key = "" if wanted.key is None else f" of key {key_text(wanted.key)}"
    return (
        f"topic {plain(wanted.topic)} has no events{of_key} that were delivered from {option_of(wanted.since)} "
        f"to {option_of(wanted.until)}"
    )
