"""`relay failed show`: everything about one event."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from relay.admin.actions import progress
from relay.admin.connection import open_outbox
from relay.admin.counts import counted
from relay.admin.events import find_event
from relay.admin.times import ago, duration, moment, moment_of
from relay.cli.options import EVENT_ID
from relay.cli.show.cells import for_json, key_cell, text
from relay.cli.show.console import console
from relay.cli.show.lines import say, say_bytes, say_json
from relay.cli.show.payloads import payload_view
from relay.cli.show.tables import PlainTable, grid, table
from relay.settings import load_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.admin.events import FoundEvent
    from relay.cli.show.console import PlainConsole
    from relay.postgres.admin.rows import EventDetails

_SHOWN_BYTES = 4_000
_ALL_BYTES = 2**30
"""More than a value can have in PostgreSQL, and small enough for its arithmetic."""

_POLICIES = {
    "block": "block: later events of its key are held back until it is replayed or discarded",
    "skip": "skip: later events of its key go on without it",
    "dead-letter": "dead-letter: it is in the dead-letter topic, and later events of its key go on without it",
}


@click.command(name="show", short_help="Show one event: payload, headers, attempts.")
@click.argument("event_id", metavar="ID", type=EVENT_ID)
@click.option("--raw", is_flag=True, help="Write the payload's bytes and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the whole payload.")
def show(event_id: int, raw: bool, as_json: bool) -> None:
    """Show one event: payload, headers, every attempt, the events that it holds back, and who asked for what.

    The ID is the one that lists show; the event need not have failed. A payload that is neither JSON nor text is shown
    as a hexadecimal dump of its beginning.
    """
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other")
    found = asyncio.run(_find(event_id, _ALL_BYTES if raw or as_json else _SHOWN_BYTES))
    if raw:
        if found.event.payload is None:
            say(f"relay: event {event_id} is a tombstone: it has no payload", err=True)
        say_bytes(found.event.payload or b"")
    elif as_json:
        say_json(found.report(), default=for_json)
    else:
        _page(found, console())


async def _find(event_id: int, payload_bytes: int) -> FoundEvent:
    async with open_outbox(load_postgres()) as outbox:
        return await find_event(outbox.failures, event_id, payload_bytes)


def _page(found: FoundEvent, on: PlainConsole) -> None:
    event, state = found.event, found.state
    on.print(text(f"event {event.id}: {state}", style="bold red" if state == "failed" else "bold"))
    facts = grid()
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(found):
        facts.add_row(name, value if isinstance(value, Text) else text(value))
    on.print(facts)
    headers: dict[str, Any] = json.loads(event.headers)
    if headers:
        shown = table("*header", "*value")
        for name, value in headers.items():
            shown.add_row(text(name), text(value))
        on.print()
        on.print(shown)
    if attempts := json.loads(event.history or "[]"):
        on.print()
        on.print(_attempts(attempts))
    view = payload_view(event.payload, event.payload_bytes)
    size = "" if not event.payload_bytes else f", {counted(event.payload_bytes, 'byte')}"
    on.print()
    on.print(text(f"payload: {view.form}{size}", style="bold"))
    if view.text:
        # Indented, so that no line of it can be taken for one of ours.
        on.print(Text("\n".join(f"  {line}" for line in view.text.split("\n"))))
    if not view.whole:
        on.print(text(f"only the beginning is shown; all of it: relay failed show {event.id} --raw"))
    if state in ("failed", "retrying"):
        told = f'next: relay failed replay {event.id}, or relay failed discard {event.id} --reason "..."'
        on.print()
        on.print(text(told))


def _facts(found: FoundEvent) -> Iterator[tuple[str, object]]:
    event = found.event
    yield "topic", event.topic
    yield "key", key_cell(event.key)
    yield "type", event.type or "-"
    yield "event id", event.event_id
    yield "created", f"{moment(event.created_at)} ({ago(event.created_seconds)})"
    if event.kafka_partition is not None:
        yield (
            "delivered",
            f"{moment(event.delivered_at)}, partition {event.kafka_partition}, offset {event.kafka_offset}",
        )
    if event.held:
        yield "held back", _waits_for(found)
    if event.erased_by is not None:
        yield "erased", f"payload and headers are gone, by action {event.erased_by}; see `relay failed actions`"
    if event.state is None:
        return
    yield "failed", f"{moment(event.failed_at)} ({ago(event.failed_seconds)})"
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
        told = f"{asked.id}, {asked.kind} by {asked.requested_by} {ago(asked.requested_seconds)}{why}"
        yield "action", f"{told} ({progress(asked)})"


def _policy(event: EventDetails) -> str:
    policy = event.policy or "-"
    if event.state == "retrying":
        return "not applied yet: later events of its key are held back while the relay tries again"
    return (
        f"{policy}; the event has no key, so nothing waits for it"
        if event.key is None
        else _POLICIES.get(policy, policy)
    )


def _waits_for(found: FoundEvent) -> str:
    behind = found.behind
    if behind is None:
        return f"until its topic takes events again ({found.event.topic} is paused); see `relay status`"
    return f"behind event {behind.id} ({behind.state}, {behind.error})"


def _holds_back(found: FoundEvent) -> str:
    if found.holds_back == 0:
        return "nothing"
    first = ", ".join(map(str, found.first_held))
    if found.holds_back is None:
        return f"too many to count: {first}, ..."
    return f"{counted(found.holds_back, 'event')}: {first}{', ...' if found.holds_back > len(found.first_held) else ''}"


def _attempts(attempts: list[dict[str, Any]]) -> PlainTable:
    made = table(">attempt", "at", "*what happened")
    for each in attempts:
        made.add_row(
            text(each.get("attempt", "-")),
            text(moment_of(each.get("at"))),
            text(each.get("error", "")),
        )
    return made
