"""The request itself: look what matches, ask, record, wait."""

from __future__ import annotations

import asyncio
import difflib
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from relay.cli.failed import pages
from relay.cli.failed.filters import words
from relay.cli.failed.reasons import RefusedError
from relay.cli.failed.words import key_text
from relay.cli.replay.opened import opened
from relay.cli.replay.watching import end, follow
from relay.cli.show.lines import say_json
from relay.cli.who import who
from relay.cli.words import duration
from relay.postgres.admin.replays import Wanted
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.postgres.admin.replays import Counted, Horizon, ReplayRow


class _Preview(NamedTuple):
    """What a request would do, at one moment."""

    wanted: Wanted
    horizon: Horizon
    counted: Counted
    replicas: int

    @property
    def events(self) -> str:
        """How many events match, in words."""
        least = "" if self.counted.exact else "at least "
        return least + pages.events(self.counted.events)

    @property
    def filter(self) -> dict[str, object]:
        """What was asked for, as the audit has it and the relay reads it."""
        wanted = self.wanted
        given = {
            "topic": wanted.topic,
            "key": None if wanted.key is None else key_text(wanted.key),
            "since": wanted.since.isoformat(),
            "until": wanted.until.isoformat(),
            "rate": wanted.rate,
        }
        return {name: value for name, value in given.items() if value is not None}


def ask(dry_run: bool, yes: bool, reason: str, wait: bool | None, as_json: bool, **options: Any) -> None:
    """`relay replay` without a subcommand."""
    if not options["topic"] or options["since"] is None:
        raise click.UsageError("say what to replay: --topic, and --since when it was delivered")
    preview = _previewed(options)
    console = pages.console(stderr=as_json)
    if dry_run or not yes:
        for line in _told(preview):
            console.print(pages.text(line))
    if dry_run:
        console.print(pages.text("dry run: nothing was changed", style="bold"))
        if as_json:
            _print_json(preview)
        return
    if not yes:
        _confirm(preview, as_json)
    id_ = asyncio.run(_record(preview, plain(reason.strip())))
    told = f"the replay of {preview.events} is recorded (action {id_})"
    if not preview.replicas:
        told += "; it happens when a relay runs: no replica is alive now"
    console.print(pages.text(told))
    replay = follow(id_) if _waits(wait, preview) else None
    if as_json:
        _print_json(preview, id_, replay)
    if replay is not None:
        end(replay, console)


def _waits(wait: bool | None, preview: _Preview) -> bool:
    """Without a replica only who says --wait waits: it may be for long."""
    return bool(preview.replicas and sys.stdout.isatty()) if wait is None else wait


def _previewed(options: dict[str, Any]) -> _Preview:
    console = pages.console(stderr=True)
    if not console.is_terminal:
        return asyncio.run(_look(options, lambda _: None))
    with console.status("looking for delivered events") as status:
        return asyncio.run(_look(options, lambda events: status.update(f"{pages.events(events)} found")))


async def _look(options: dict[str, Any], report: Callable[[int], None]) -> _Preview:
    async with opened() as requests:
        horizon = await requests.horizon()
        wanted = _wanted(horizon, **options)
        _check_kept(wanted, horizon)
        counted = await requests.count(wanted, horizon, report)
        if not counted.events and counted.exact:
            raise RefusedError(f"{_nothing(wanted, horizon, await requests.topics())}; nothing was changed")
        return _Preview(wanted, horizon, counted, await requests.live_replicas())


def _wanted(
    horizon: Horizon,
    topic: str,
    key: bytes | None,
    since: datetime | timedelta,
    until: datetime | timedelta | None,
    rate: float | None,
) -> Wanted:
    """Times ago are counted from the server's time. What is delivered from now on is not meant, so that it ends."""
    begin, stop = _absolute(since, horizon.now), _absolute(until or timedelta(), horizon.now)
    if begin >= min(stop, horizon.now):
        later = f"--until ({_moment(stop)})" if stop <= horizon.now and until else "now"
        raise click.UsageError(f"--since ({_moment(begin)}) is not before {later}, by PostgreSQL's clock")
    return Wanted(topic, key, begin, min(stop, horizon.now), rate)


def _absolute(time: datetime | timedelta, now: datetime) -> datetime:
    return now - time if isinstance(time, timedelta) else time


def _check_kept(wanted: Wanted, horizon: Horizon) -> None:
    """Refuse what reaches back too far: a replay with a hole at its beginning is not what anybody asked for."""
    kept = horizon.kept_since
    if not horizon.pruned or (kept is not None and wanted.since >= kept):
        return
    if kept is None:
        raise RefusedError("all delivered events are pruned; nothing was changed")
    # The next whole second: the time that is shown has to be one that is taken.
    shown = _moment(kept.replace(microsecond=0) + timedelta(seconds=1))
    raise RefusedError(
        f"events delivered before {shown} are pruned; ask for --since {shown} or later (RELAY_SEGMENT_RETENTION says "
        "how long they are kept); nothing was changed"
    )


def _nothing(wanted: Wanted, horizon: Horizon, topics: list[str]) -> str:
    if horizon.kept_since is None:
        return "no event has been delivered"
    if wanted.topic not in topics and (near := difflib.get_close_matches(wanted.topic, topics, 1)):
        return f"topic {plain(wanted.topic)} has no delivered events in that time; did you mean {plain(near[0])}?"
    of_key = "" if wanted.key is None else f" of key {key_text(wanted.key)}"
    return (
        f"topic {plain(wanted.topic)} has no events{of_key} that were delivered from {_moment(wanted.since)} "
        f"to {_moment(wanted.until)}"
    )


def _told(preview: _Preview) -> list[str]:
    counted = preview.counted
    lines = [f"{preview.events} would be published again: {words(preview.filter)}"]
    if counted.first_at and counted.last_at:
        lines.append(f"they were delivered from {_moment(counted.first_at)} to {_moment(counted.last_at)}")
    if preview.wanted.rate:
        seconds = counted.events / preview.wanted.rate
        lines.append(f"at {preview.wanted.rate:g} events/s that takes {duration(seconds)} or more")
    if not counted.exact:
        lines.append("counting was cut short; all that match are published")
    return [*lines, "every consumer of the topic gets them again"]


def somebody_to_ask() -> bool:
    """Whether a person sits there."""
    return sys.stdin.isatty()


def _confirm(preview: _Preview, as_json: bool) -> None:
    if not somebody_to_ask():
        raise RefusedError(
            f"this would publish {preview.events} again, and there is nobody to ask; look with --dry-run, then add "
            "--yes; nothing was changed"
        )
    if not click.confirm(f"publish {preview.events} again?", err=as_json):
        raise RefusedError("nothing was changed")


async def _record(preview: _Preview, reason: str) -> int:
    async with opened() as requests:
        return await requests.request(preview.filter, preview.counted, preview.horizon, reason, who())


def _print_json(preview: _Preview, id_: int | None = None, replay: ReplayRow | None = None) -> None:
    report: dict[str, object] = {
        "filter": preview.filter,
        "dry_run": id_ is None,
        "events": preview.counted.events,
        "exact": preview.counted.exact,
        "action": id_,
        "live_replicas": preview.replicas,
    }
    if replay is not None:
        report |= {"state": replay.state, "published": replay.published, "failed": replay.failed}
    say_json(report)


def _moment(time: datetime) -> str:
    return time.astimezone().isoformat(timespec="seconds")
