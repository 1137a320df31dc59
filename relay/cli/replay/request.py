"""`relay replay` without a subcommand: preview, ask, record, wait."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from relay.admin.connection import open_outbox
from relay.admin.counts import counted
from relay.admin.replays import preview_replay, request_replay
from relay.cli.replay.watch import end, follow_replay
from relay.cli.requester import requester
from relay.cli.show.cells import text
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.errors import RefusedError
from relay.settings import load_postgres
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.admin.replays import ReplayPreview
    from relay.postgres.admin.replays import Replay


def ask_for_replay(*, dry_run: bool, yes: bool, reason: str, wait: bool | None, as_json: bool, **options: Any) -> None:
    """Publish what the options say again."""
    if not options["topic"] or options["since"] is None:
        raise click.UsageError("say what to replay: --topic, and --since for the time of delivery")
    preview = _previewed(options)
    on = console(stderr=as_json)
    if dry_run or not yes:
        for told in preview.effects():
            on.print(text(told))
    if dry_run:
        on.print(text("dry run: nothing was changed", style="bold"))
        if as_json:
            _print_json(preview)
        return
    if not yes:
        _confirm(preview, as_json=as_json)
    id_ = asyncio.run(_record(preview, plain(reason.strip())))
    told = f"the replay of {preview.events} is recorded as action {id_}"
    if not preview.replicas:
        told += "; no replica is alive now, so it happens when a relay runs"
    on.print(text(told))
    replay = follow_replay(id_) if _waits(wait, preview) else None
    if as_json:
        _print_json(preview, id_, replay)
    if replay is not None:
        end(replay, on)


def somebody_to_ask() -> bool:
    """Whether a person sits at the terminal."""
    return sys.stdin.isatty()


def _waits(wait: bool | None, preview: ReplayPreview) -> bool:
    """Without a replica, wait only for somebody who says --wait: it may take long."""
    return bool(preview.replicas and sys.stdout.isatty()) if wait is None else wait


def _previewed(options: dict[str, Any]) -> ReplayPreview:
    on = console(stderr=True)
    if not on.is_terminal:
        return asyncio.run(_look(options, lambda _: None))
    with on.status("looking for delivered events") as status:
        return asyncio.run(_look(options, lambda events: status.update(f"{counted(events, 'event')} found")))


async def _look(options: dict[str, Any], report: Callable[[int], None]) -> ReplayPreview:
    async with open_outbox(load_postgres()) as outbox:
        return await preview_replay(outbox.replays, **options, report=report)


async def _record(preview: ReplayPreview, reason: str) -> int:
    async with open_outbox(load_postgres()) as outbox:
        return await request_replay(outbox.replays, preview, reason=reason, who=requester())


def _confirm(preview: ReplayPreview, *, as_json: bool) -> None:
    if not somebody_to_ask():
        raise RefusedError(
            f"this would publish {preview.events} again, and there is no terminal to ask on; look with --dry-run, then "
            "add --yes; nothing was changed"
        )
    if not click.confirm(preview.question, err=as_json):
        raise RefusedError("nothing was changed")


def _print_json(preview: ReplayPreview, id_: int | None = None, replay: Replay | None = None) -> None:
    report: dict[str, object] = {
        "filter": preview.filter,
        "dry_run": id_ is None,
        "events": preview.found.events,
        "exact": preview.found.exact,
        "action": id_,
        "live_replicas": preview.replicas,
    }
    if replay is not None:
        report |= {"state": replay.state, "published": replay.published, "failed": replay.failed}
    say_json(report)
