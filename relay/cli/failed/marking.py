"""`relay failed replay` and `relay failed discard`: a person decides what becomes of failures."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from relay.cli.failed import pages
from relay.cli.failed.filters import Wanted, filter_options, recorded, words
from relay.cli.failed.reasons import MARKABLE, RefusedError, reasons, refusal
from relay.cli.failed.waiting import Waited, wait_for
from relay.cli.show.lines import say_json
from relay.cli.who import who
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from relay.cli.show.console import PlainConsole
    from relay.postgres.admin.failure_rows import Group, Marked
    from relay.postgres.admin.failures import Filter, Kind

    Command = TypeVar("Command", bound=Callable[..., Any])

CONFIRM_ABOVE = 20
"""As many as fit a screen, and a person may have looked at."""


class _Request(NamedTuple):
    """What was asked for on the command line."""

    kind: Kind
    wanted: Wanted
    reason: str
    dry_run: bool
    yes: bool
    as_json: bool


class _Preview(NamedTuple):
    """What a request would do, at one moment."""

    matching: Filter
    seen_at: datetime
    groups: list[Group]
    """Those that would be marked."""
    held_back: int | None
    replicas: int

    @property
    def events(self) -> int:
        """How many events would be marked."""
        return sum(group.events for group in self.groups)


def _options(command: Command) -> Command:
    for option in reversed(
        [
            click.argument("ids", metavar="[ID]...", nargs=-1, type=pages.EVENT_ID),
            filter_options(MARKABLE, "In this state, may be given again; without it both."),
            click.option("--all", "everything", is_flag=True, help="All failures, whatever their topic and error."),
            click.option("--dry-run", is_flag=True, help="Change nothing; show what would be concerned."),
            click.option("--yes", is_flag=True, help=f"Do not ask, even above {CONFIRM_ABOVE} events."),
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        ]
    ):
        command = option(command)
    return command


@click.command(name="replay", short_help="Publish failures again, in order.")
@_options
@click.option("--reason", default="", metavar="TEXT", help="Why; kept with who and when.")
@click.option("--wait/--no-wait", default=None, help="Wait for the end.  [default: wait on a terminal]")
def replay(wait: bool | None, **options: Any) -> None:
    """Publish failures again: those with these IDs, or those the filters match.

    Each is published before the events it holds back, which follow by themselves, in order. What you ask for is
    recorded at once; it happens when a relay runs. With IDs it is all of them or none.
    """
    request = _request("replay", **options)
    marked, preview = _mark(request)
    if marked is None:
        return
    console = pages.console(stderr=request.as_json)
    waiting = preview.replicas > 0 and (sys.stdout.isatty() if wait is None else wait)
    told = f"the replay of {pages.events(marked.events)} is recorded as action {marked.action}"
    if not preview.replicas:
        told += "; it happens when a relay runs: no replica is alive now"
    elif not waiting:
        told += "; for its progress: relay failed actions"
    console.print(pages.text(told))
    waited = None
    if waiting:
        waited = wait_for(marked.action, marked.events)
        console.print(pages.text(waited.words()))
    if request.as_json:
        _print_json(request, preview, marked, waited)
    if waited is not None and waited.action.failed:
        click.get_current_context().exit(1)


@click.command(name="discard", short_help="Give failures up for good.")
@_options
@click.option("--reason", default="", metavar="TEXT", help="Why. Required; kept with who and when.")
def discard(**options: Any) -> None:
    """Give failures up for good: those with these IDs, or those the filters match.

    They are never published. The events they hold back go on without them, in order, as soon as a relay runs. With
    IDs it is all of them or none.
    """
    request = _request("discard", **options)
    if not request.reason and not request.dry_run:
        raise click.UsageError("a discard needs --reason: these events will never reach anybody, and somebody will ask")
    marked, preview = _mark(request)
    if marked is None:
        return
    if request.as_json:
        _print_json(request, preview, marked)
        return
    told = f"{pages.events(marked.events)} discarded, as action {marked.action}"
    if preview.held_back != 0:
        told += f"; {_held_back(preview, 'go', 'goes')} on"
        told += "" if preview.replicas else " when a relay runs: no replica is alive now"
    pages.console().print(pages.text(told))


def _request(
    kind: Kind,
    ids: tuple[int, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    reason: str,
    as_json: bool,
    **options: Any,
) -> _Request:
    """Check what was asked for. Raises UsageError."""
    wanted = Wanted(**options, ids=ids)
    if ids and (wanted.any_option or everything):
        raise click.UsageError("give either IDs or filters, not both")
    if everything and wanted.any_option:
        raise click.UsageError("--all is every failure: leave it out, or the filters")
    if not (ids or everything or wanted.any_option):
        raise click.UsageError(f"say what to {kind}: IDs, filters such as --topic, or --all for every failure")
    return _Request(kind, wanted, plain(reason.strip()), dry_run, yes, as_json)


def _mark(request: _Request) -> tuple[Marked | None, _Preview]:
    """Look, ask where a person must be asked, and mark. Nothing is marked in a dry run."""
    preview = asyncio.run(_look(request))
    console = pages.console(stderr=request.as_json)
    if request.dry_run:
        _show(request, preview, console)
        console.print(pages.text("dry run: nothing was changed", style="bold"))
        if request.as_json:
            _print_json(request, preview)
        return None, preview
    matching = preview.matching
    if preview.events > CONFIRM_ABOVE and not request.yes:
        # Not inside a running event loop: it would keep Ctrl-C from ending the question.
        _confirm(request, preview, console)
        if matching.ids is None:
            # What failed since was not seen, so nobody agreed to it.
            matching = replace(matching, until=min(matching.until or preview.seen_at, preview.seen_at))
    marked = asyncio.run(_act(request, preview, matching))
    if marked.events != preview.events:
        console.print(pages.text(f"{preview.events:,} were seen, {marked.events:,} still matched"))
    return marked, preview


async def _look(request: _Request) -> _Preview:
    async with pages.opened() as failures:
        now = await failures.now()
        matching = request.wanted.filter(now)
        if matching.ids is not None and (why := await reasons(failures, matching.ids)):
            raise refusal(request.kind, matching.ids, why)
        states = matching.states or MARKABLE
        counted = await failures.counted(replace(matching, states=None))
        groups = [group for group in counted if group.state in states]
        if not groups:
            raise _nothing(matching, counted)
        held_back = await failures.held_back(replace(matching, states=states))
        return _Preview(matching, now, groups, held_back, await failures.live_replicas())


async def _act(request: _Request, preview: _Preview, matching: Filter) -> Marked:
    async with pages.opened() as failures:
        asked = recorded(preview.matching)
        marked = await failures.mark(request.kind, matching, asked, request.reason, who())
        if marked is not None:
            return marked
        if matching.ids is not None and (why := await reasons(failures, matching.ids)):
            raise refusal(request.kind, matching.ids, why)
        raise _nothing(matching, await failures.counted(replace(matching, states=None)))


def _nothing(matching: Filter, counted: Sequence[Group]) -> RefusedError:
    asked = recorded(matching)
    told = "there is no failed or retrying event"
    if asked != {"all": True}:
        told = f"no failed or retrying event matches ({words(asked)})"
    others = {
        state: sum(each.events for each in counted if each.state == state) for state in ("replaying", "discarded")
    }
    if others["replaying"]:
        told += f"; {pages.events(others['replaying'])} being replayed already, see `relay failed actions`"
    if others["discarded"]:
        told += f"; {pages.events(others['discarded'])} discarded earlier"
    return RefusedError(f"{told}; nothing was changed")


def _show(request: _Request, preview: _Preview, console: PlainConsole) -> None:
    console.print(pages.groups_table(preview.groups))
    console.print()
    if preview.held_back != 0:
        if request.kind == "replay":
            told = f"{_held_back(preview, 'follow', 'follows')}, in order"
        else:
            told = f"{_held_back(preview, 'go', 'goes')} on without what is discarded"
        console.print(pages.text(told))
    passed = sum(group.passed for group in preview.groups)
    if passed and request.kind == "replay":
        told = (
            f"{pages.events(passed)} failed under skip or dead-letter: later ones of their keys may be in Kafka already"
        )
        console.print(pages.text(f"! {told}, and they come after those", style="bold yellow"))
    would = "would be published again" if request.kind == "replay" else "would be given up for good"
    console.print(pages.text(f"{pages.events(preview.events)} {would}"))


def _held_back(preview: _Preview, many_do: str, one_does: str) -> str:
    held = "the events" if preview.held_back is None else f"the {pages.events(preview.held_back)}"
    verb = one_does if preview.held_back == 1 else many_do
    return f"{held} held back behind {'it' if preview.events == 1 else 'them'} {verb}"


def _confirm(request: _Request, preview: _Preview, console: PlainConsole) -> None:
    if not sys.stdin.isatty():
        raise RefusedError(
            f"this would {request.kind} {pages.events(preview.events)}, more than {CONFIRM_ABOVE}, and there is nobody "
            "to ask; look with --dry-run, then add --yes; nothing was changed"
        )
    _show(request, preview, console)
    if not click.confirm(f"{request.kind.capitalize()} {pages.events(preview.events)}?", err=request.as_json):
        raise RefusedError("nothing was changed")


def _print_json(
    request: _Request, preview: _Preview, marked: Marked | None = None, waited: Waited | None = None
) -> None:
    report = {
        "kind": request.kind,
        "filter": recorded(preview.matching),
        "dry_run": request.dry_run,
        "events": preview.events if marked is None else marked.events,
        "held_back": preview.held_back,
        "action": None if marked is None else marked.action,
        "live_replicas": preview.replicas,
    }
    if waited is not None:
        report |= {"delivered": waited.action.done, "failed": waited.action.failed, "to_go": waited.action.to_go}
    say_json(report)
