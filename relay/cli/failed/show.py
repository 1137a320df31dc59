"""`relay failed show`: everything about one event."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.text import Text

from relay.cli.failed import pages
from relay.cli.failed.actions import progress, report
from relay.cli.failed.reasons import RefusedError, state_of, unknown
from relay.cli.failed.words import key_text, payload_view
from relay.cli.show.lines import say, say_bytes, say_json
from relay.cli.show.tables import PlainTable, grid
from relay.cli.words import duration
from relay.postgres.admin.failures import Filter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.cli.show.console import PlainConsole
    from relay.postgres.admin.failure_rows import Action, Blocker, Shown
    from relay.postgres.admin.failures import Failures

_SHOWN_BYTES = 4_000
_ALL_BYTES = 2**30
"""More than a value can have in PostgreSQL, and small enough for its arithmetic."""
_FIRST_HELD = 10

_POLICIES = {
    "block": "block: later events of its key are held back until it is replayed or discarded",
    "skip": "skip: later events of its key go on without it",
    "dead-letter": "dead-letter: it is in the dead-letter topic, and later events of its key go on without it",
}


class _Found(NamedTuple):
    """An event and what surrounds it."""

    event: Shown
    holds_back: int | None
    first_held: list[int]
    behind: Blocker | None
    action: Action | None


@click.command(name="show", short_help="Show one event: payload, headers, attempts.")
@click.argument("event_id", metavar="ID", type=pages.EVENT_ID)
@click.option("--raw", is_flag=True, help="Write the payload's bytes, nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the whole payload.")
def show(event_id: int, raw: bool, as_json: bool) -> None:
    """Show an event: its payload and headers, every attempt, what it holds back, who asked for what.

    A payload that is neither JSON nor text is shown as the beginning of a hexadecimal dump.
    """
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other")
    found = asyncio.run(_find(event_id, _ALL_BYTES if raw or as_json else _SHOWN_BYTES))
    if raw:
        if found.event.payload is None:
            say(f"relay: event {event_id} is a tombstone: it has no payload", err=True)
        say_bytes(found.event.payload or b"")
    elif as_json:
        say_json(_report(found), default=pages.for_json)
    else:
        _page(found, pages.console())


async def _find(event_id: int, payload_bytes: int) -> _Found:
    async with pages.opened() as failures:
        event = await failures.event(event_id, payload_bytes)
        if event is None:
            raise RefusedError(unknown(event_id, await failures.ids()))
        return await _around(failures, event)


async def _around(failures: Failures, event: Shown) -> _Found:
    place = event.lane, event.id, event.topic, event.key
    if event.state is None:
        return _Found(event, 0, [], await failures.behind(*place) if event.held else None, None)
    await failures.finish_replays()
    actions = [] if event.action is None else await failures.actions(1, only=event.action)
    holds_back = await failures.held_back(Filter(ids=(event.id,)))
    first = await failures.first_held(*place, _FIRST_HELD) if holds_back != 0 else []
    return _Found(event, holds_back, first, None, actions[0] if actions else None)


def _report(found: _Found) -> dict[str, object]:
    event = found.event
    return {
        **event._asdict(),
        "state": state_of(event.state, delivered=event.kafka_partition is not None, held=event.held),
        "key": None if event.key is None else key_text(event.key),
        "headers": json.loads(event.headers),
        "payload": _payload_json(event.payload),
        "history": json.loads(event.history or "[]"),
        "action": None if found.action is None else report(found.action),
        "holds_back": {"events": found.holds_back, "first": found.first_held},
        "held_behind": None if found.behind is None else found.behind._asdict(),
    }


def _payload_json(payload: bytes | None) -> dict[str, str] | None:
    if payload is None:
        return None
    try:
        return {"encoding": "utf-8", "data": payload.decode()}
    except UnicodeDecodeError:
        return {"encoding": "base64", "data": base64.b64encode(payload).decode("ascii")}


def _page(found: _Found, console: PlainConsole) -> None:
    event = found.event
    state = state_of(event.state, delivered=event.kafka_partition is not None, held=event.held)
    console.print(pages.text(f"event {event.id}: {state}", style="bold red" if state == "failed" else "bold"))
    facts = grid()
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(found):
        facts.add_row(name, value if isinstance(value, Text) else pages.text(value))
    console.print(facts)
    headers: dict[str, Any] = json.loads(event.headers)
    if headers:
        shown = pages.table("*header", "*value")
        for name, value in headers.items():
            shown.add_row(pages.text(name), pages.text(value))
        console.print()
        console.print(shown)
    if attempts := json.loads(event.history or "[]"):
        console.print()
        console.print(_attempts(attempts))
    view = payload_view(event.payload, event.payload_bytes)
    size = "" if not event.payload_bytes else f", {event.payload_bytes:,} byte{'' if event.payload_bytes == 1 else 's'}"
    console.print()
    console.print(pages.text(f"payload: {view.form}{size}", style="bold"))
    if view.text:
        # Indented, so that no line of it can be taken for one of ours.
        console.print(Text("\n".join(f"  {line}" for line in view.text.split("\n"))))
    if not view.whole:
        console.print(pages.text(f"there is more of it: relay failed show {event.id} --raw"))
    if state in ("failed", "retrying"):
        told = f'next: relay failed replay {event.id}, or relay failed discard {event.id} --reason "..."'
        console.print()
        console.print(pages.text(told))


def _facts(found: _Found) -> Iterator[tuple[str, object]]:
    event = found.event
    yield "topic", event.topic
    yield "key", pages.key_cell(event.key)
    yield "type", event.type or "-"
    yield "event id", event.event_id
    yield "created", f"{pages.moment(event.created_at)} ({pages.ago(event.created_seconds)})"
    if event.kafka_partition is not None:
        yield (
            "delivered",
            f"{pages.moment(event.delivered_at)}, partition {event.kafka_partition}, offset {event.kafka_offset}",
        )
    if event.held:
        yield "held back", _waits_for(found)
    if event.state is None:
        return
    yield "failed", f"{pages.moment(event.failed_at)} ({pages.ago(event.failed_seconds)})"
    yield "error", event.error
    if event.detail:
        yield "detail", event.detail
    yield "policy", _policy(event)
    yield "attempts", f"{event.attempts:,}"
    if event.next_attempt_seconds is not None:
        due = event.next_attempt_seconds
        yield "next attempt", f"in {duration(due)}" if due > 0 else "now"
    yield "holds back", _holds_back(found)
    if found.action is not None:
        asked = found.action
        why = f": {asked.reason}" if asked.reason else ""
        told = f"{asked.id}, {asked.kind} by {asked.requested_by} {pages.ago(asked.requested_seconds)}{why}"
        yield "action", f"{told} ({progress(asked)})"


def _policy(event: Shown) -> str:
    policy = event.policy or "-"
    if event.state == "retrying":
        return "not applied yet: later events of its key are held back while the relay tries again"
    return f"{policy}; it has no key, so nothing waits for it" if event.key is None else _POLICIES.get(policy, policy)


def _waits_for(found: _Found) -> str:
    behind = found.behind
    if behind is None:
        return f"until its topic goes on ({found.event.topic} was paused); see `relay status`"
    return f"behind event {behind.id} ({behind.state}, {behind.error})"


def _holds_back(found: _Found) -> str:
    if found.holds_back == 0:
        return "nothing"
    first = ", ".join(map(str, found.first_held))
    if found.holds_back is None:
        return f"too many to count: {first}, ..."
    return f"{pages.events(found.holds_back)}: {first}{', ...' if found.holds_back > len(found.first_held) else ''}"


def _attempts(attempts: list[dict[str, Any]]) -> PlainTable:
    made = pages.table(">attempt", "at", "*what happened")
    for each in attempts:
        made.add_row(
            pages.text(each.get("attempt", "-")),
            pages.text(pages.moment_of(each.get("at"))),
            pages.text(each.get("error", "")),
        )
    return made
