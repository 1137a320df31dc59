"""`relay failed replay` and `relay failed discard`: a person decides about failures."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relay.admin.actions import ending
from relay.admin.connection import open_outbox
from relay.admin.counts import counted
from relay.admin.failures import CONFIRM_ABOVE, MarkPreview, MarkRequest, follow, mark, preview_mark
from relay.admin.not_replayable import MARKABLE
from relay.admin.selections import Selection, recorded
from relay.cli.failed.filters import filter_options
from relay.cli.options import EVENT_ID, json_option, reason_option, wait_option
from relay.cli.requester import requester
from relay.cli.show.cells import groups_table, text
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.cli.show.progress import followed
from relay.errors import RefusedError
from relay.settings import load_postgres
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.cli.show.console import PlainConsole
    from relay.postgres.admin.failures import Kind
    from relay.postgres.admin.rows import Action, Marked

    Command = TypeVar("Command", bound=Callable[..., Any])

_STALLED = 10.0
"""Seconds without progress from which on the progress bar says what to look at."""


def _options(command: Command) -> Command:
    for option in reversed(
        [
            click.argument("ids", metavar="[ID]...", nargs=-1, type=EVENT_ID),
            filter_options(MARKABLE, "Only in this state; can be repeated. Without it, both."),
            click.option("--all", "everything", is_flag=True, help="All failures, whatever their topic and error."),
            click.option("--dry-run", is_flag=True, help="Change nothing; show which events match."),
            click.option(
                "--yes", is_flag=True, help=f"Do not ask for confirmation, even above {CONFIRM_ABOVE} events."
            ),
            json_option,
        ]
    ):
        command = option(command)
    return command


@click.command(name="replay", short_help="Publish failed events again, in order.")
@_options
@reason_option
@wait_option
def replay(wait: bool | None, dry_run: bool, yes: bool, as_json: bool, **options: Any) -> None:
    """Publish failed events again: those with these IDs, or those that the filters match.

    Each is published before the events that it holds back; those follow in order. The request is recorded immediately
    and carried out when a relay runs. With IDs, either all of them are replayed or none.
    """
    marked, preview = _mark(_request("replay", **options), dry_run=dry_run, yes=yes, as_json=as_json)
    if marked is None:
        return
    on = console(stderr=as_json)
    waiting = preview.replicas > 0 and (sys.stdout.isatty() if wait is None else wait)
    told = f"the replay of {counted(marked.events, 'event')} is recorded as action {marked.action}"
    if not preview.replicas:
        told += "; no replica is alive now, so it happens when a relay runs"
    elif not waiting:
        told += "; follow it with: relay failed actions"
    on.print(text(told))
    action = None
    if waiting:
        action = _follow(marked)
        on.print(text(ending(action)))
    if as_json:
        _print_json(preview, marked, action)
    if action is not None and action.failed:
        click.get_current_context().exit(1)


@click.command(name="discard", short_help="Give failed events up for good.")
@_options
@click.option("--reason", default="", metavar="TEXT", help="Why. Required; kept with who asked and when.")
def discard(dry_run: bool, yes: bool, as_json: bool, **options: Any) -> None:
    """Give failed events up for good: those with these IDs, or those that the filters match.

    They are never published. The events that they hold back go on without them, in order, as soon as a relay runs.
    With IDs, either all of them are discarded or none.
    """
    request = _request("discard", **options)
    if not request.reason and not dry_run:
        raise click.UsageError(
            "a discard needs --reason: these events will never be published, and somebody will ask why"
        )
    marked, preview = _mark(request, dry_run=dry_run, yes=yes, as_json=as_json)
    if marked is None:
        return
    if as_json:
        _print_json(preview, marked)
        return
    told = f"{counted(marked.events, 'event')} discarded, as action {marked.action}"
    if preview.held_back != 0:
        told += f"; {preview.behind('go')} on"
        told += "" if preview.replicas else " when a relay runs: no replica is alive now"
    console().print(text(told))


def _request(kind: Kind, ids: tuple[int, ...], everything: bool, reason: str, **options: Any) -> MarkRequest:
    """Check what was asked for. Raises UsageError."""
    selection = Selection(**options, ids=ids)
    if ids and (selection.narrowed or everything):
        raise click.UsageError("give either IDs or filters, not both")
    if everything and selection.narrowed:
        raise click.UsageError("--all means every failure: leave it out, or the filters")
    if not (ids or everything or selection.narrowed):
        raise click.UsageError(f"say what to {kind}: IDs, filters such as --topic, or --all for every failure")
    return MarkRequest(kind, selection, plain(reason.strip()))


def _mark(request: MarkRequest, *, dry_run: bool, yes: bool, as_json: bool) -> tuple[Marked | None, MarkPreview]:
    """Look, ask where a person must be asked, and mark. Nothing is marked in a dry run."""
    preview = asyncio.run(_look(request))
    on = console(stderr=as_json)
    if dry_run:
        _show(preview, on)
        on.print(text("dry run: nothing was changed", style="bold"))
        if as_json:
            _print_json(preview)
        return None, preview
    asks = preview.worth_confirming and not yes
    if asks:
        # Not inside a running event loop: it would keep Ctrl-C from ending the question.
        _confirm(preview, on, as_json=as_json)
    marked = asyncio.run(_act(preview, confirmed=asks))
    if marked.events != preview.events:
        on.print(text(f"{preview.events:,} matched in the preview, {marked.events:,} still matched"))
    return marked, preview


async def _look(request: MarkRequest) -> MarkPreview:
    async with open_outbox(load_postgres()) as outbox:
        return await preview_mark(outbox.failures, request)


async def _act(preview: MarkPreview, *, confirmed: bool) -> Marked:
    async with open_outbox(load_postgres()) as outbox:
        return await mark(outbox.failures, preview, requester(), confirmed=confirmed)


def _follow(marked: Marked) -> Action:
    async def following(report: Callable[[int, int, str], None]) -> Action:
        def looked(action: Action, stalled: float) -> None:
            trouble = ""
            if stalled >= _STALLED:
                trouble = f"no progress for {stalled:.0f} s; is Kafka reachable? see `relay status`"
            report(marked.events - action.to_go, marked.events, trouble)

        async with open_outbox(load_postgres()) as outbox:
            return await follow(outbox.failures, marked.action, looked)

    left = f"action {marked.action} continues without this command; see `relay failed actions`"
    return followed(following, total=marked.events, left=left)


def _show(preview: MarkPreview, on: PlainConsole) -> None:
    on.print(groups_table(preview.groups))
    on.print()
    for told in preview.effects():
        on.print(text(told, style="bold yellow" if told.startswith("!") else ""))


def _confirm(preview: MarkPreview, on: PlainConsole, *, as_json: bool) -> None:
    if not sys.stdin.isatty():
        raise RefusedError(
            f"this would {preview.request.kind} {counted(preview.events, 'event')}, more than {CONFIRM_ABOVE}, and "
            "there is no terminal to ask on; look with --dry-run, then add --yes; nothing was changed"
        )
    _show(preview, on)
    if not click.confirm(preview.question, err=as_json):
        raise RefusedError("nothing was changed")


def _print_json(preview: MarkPreview, marked: Marked | None = None, action: Action | None = None) -> None:
    report = {
        "kind": preview.request.kind,
        "filter": recorded(preview.matching),
        "dry_run": marked is None,
        "events": preview.events if marked is None else marked.events,
        "held_back": preview.held_back,
        "action": None if marked is None else marked.action,
        "live_replicas": preview.replicas,
    }
    if action is not None:
        report |= {"delivered": action.done, "failed": action.failed, "to_go": action.to_go}
    say_json(report)
