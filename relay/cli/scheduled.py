"""`relay scheduled`: events that are to come, and what a person does about them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
from rich.text import Text

from relay.admin.connection import open_outbox
from relay.admin.counts import counted
from relay.admin.selections import parse_key, parse_topic
from relay.admin.times import ago, duration, moment
from relay.cli.options import InOrder, exit_codes, json_option, limit_option, read
from relay.cli.requester import requester
from relay.cli.show.cells import for_json, key_cell, text
from relay.cli.show.console import console
from relay.cli.show.lines import say, say_bytes, say_json
from relay.cli.show.payloads import payload_view
from relay.cli.show.tables import grid, table
from relay.errors import RefusedError
from relay.keys import key_text
from relay.settings import load_postgres
from relay.text import plain

if TYPE_CHECKING:
    from relay.postgres.admin.scheduled import ScheduledDetails, ScheduledEvent

EPILOG = exit_codes("done", "nothing was changed: refused, or there is no such event")

_SHOWN_BYTES = 4_000
_ALL_BYTES = 2**30


def _event_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ValueError(f"{text!r} is not the ID of an event; the name of a timer goes with --timer") from None


@click.group(name="scheduled", cls=InOrder, epilog=EPILOG)
def command() -> None:
    """List events that are to come, and cancel them.

    A scheduled event enters the outbox when it is due; from then on it is an event as any other. Services cancel and
    reschedule their events themselves.
    """


@click.command(name="list", short_help="List what is to come, the first that is due first.", epilog=EPILOG)
@click.option(
    "--topic", callback=read(parse_topic), metavar="PATTERN", help="Only this topic; * stands for any characters."
)
@click.option("--key", callback=read(parse_key), metavar="KEY", help="Only this key, written as in the list.")
@click.option("--timer", metavar="PATTERN", help="Only with this name; * stands for any characters.")
@limit_option(50)
@json_option
def list_command(limit: int, as_json: bool, **options: Any) -> None:
    """List scheduled events in the order in which they are due."""

    async def find() -> list[ScheduledEvent]:
        async with open_outbox(load_postgres()) as outbox:
            return await outbox.scheduled.find(**options, limit=limit)

    found = asyncio.run(find())
    if as_json:
        say_json({"scheduled": [_report(event) for event in found]}, default=for_json)
        return
    on = console()
    if not found:
        on.print(text("no event is to come" if not any(options.values()) else "no event that is to come matches"))
        return
    made = table("event id", "*topic", "*key", "*timer", "due", ">bytes")
    for event in found:
        made.add_row(
            str(event.event_id),
            text(event.topic),
            key_cell(event.key),
            text(event.timer or "-"),
            _due(event),
            f"{event.payload_bytes:,}",
        )
    on.print(made)
    if len(found) == limit:
        on.print(text(f"there may be more: --limit {2 * limit}"))


@click.command(name="show", short_help="Show one: payload, headers, when it is due.", epilog=EPILOG)
@click.argument("event_id", metavar="[ID]", required=False, callback=read(_event_id))
@click.option("--timer", metavar="NAME", help="The event with this name, in place of an ID.")
@click.option("--raw", is_flag=True, help="Write the payload's bytes and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the whole payload.")
def show(event_id: UUID | None, timer: str | None, raw: bool, as_json: bool) -> None:
    """Show one scheduled event. The ID is the one that the list shows."""
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other")
    if (event_id is None) == (timer is None):
        raise click.UsageError("give an ID or --timer")

    async def find() -> ScheduledDetails:
        async with open_outbox(load_postgres()) as outbox:
            found = await outbox.scheduled.get(event_id, timer, _ALL_BYTES if raw or as_json else _SHOWN_BYTES)
        if found is None:
            raise RefusedError(
                f"no event {event_id or f'with the timer {timer}'} is to come: it has entered the outbox, was "
                "cancelled, or never was"
            )
        return found

    found = asyncio.run(find())
    if raw:
        if found.payload is None:
            say("relay: the event is a tombstone: it has no payload", err=True)
        say_bytes(found.payload or b"")
    elif as_json:
        payload = found.payload
        view = {"payload": None if payload is None else key_text(payload), "headers": json.loads(found.headers)}
        say_json({**_report(found.event), "created_at": found.created_at, **view}, default=for_json)
    else:
        _page(found)


@click.command(name="cancel", short_help="Have them never enter the outbox.", epilog=EPILOG)
@click.argument("event_ids", metavar="ID...", nargs=-1, required=True, type=click.UUID)
@click.option("--reason", default="", metavar="TEXT", help="Why. Required; kept with who asked and when.")
@json_option
def cancel(event_ids: tuple[UUID, ...], reason: str, as_json: bool) -> None:
    """Cancel scheduled events: they never enter the outbox. Either all of them are cancelled or none."""
    if not reason.strip():
        raise click.UsageError(
            "a cancellation needs --reason: these events will never be published, and somebody will ask why"
        )

    async def end_them() -> int:
        async with open_outbox(load_postgres()) as outbox:
            return await outbox.scheduled.cancel(event_ids, reason=plain(reason.strip()), machine=requester())

    action = asyncio.run(end_them())
    events = len(set(event_ids))
    if as_json:
        say_json({"cancelled": events, "action": action})
    else:
        console().print(text(f"{counted(events, 'event')} cancelled, as action {action}: relay failed actions"))


def _page(found: ScheduledDetails) -> None:
    on, event = console(), found.event
    on.print(text(f"scheduled event {event.event_id}", style="bold"))
    facts = grid()
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("topic", text(event.topic))
    facts.add_row("key", key_cell(event.key))
    facts.add_row("type", text(event.type or "-"))
    facts.add_row("timer", text(event.timer or "-"))
    facts.add_row("due", text(f"{moment(event.deliver_at)} ({_due(event)})"))
    facts.add_row("lane", str(event.lane))
    facts.add_row("written", text(f"{moment(found.created_at)} ({ago(found.created_seconds)})"))
    on.print(facts)
    headers: dict[str, Any] = json.loads(found.headers)
    if headers:
        shown = table("*header", "*value")
        for name, value in headers.items():
            shown.add_row(text(name), text(value))
        on.print()
        on.print(shown)
    view = payload_view(found.payload, None if found.payload is None else event.payload_bytes)
    size = f", {counted(event.payload_bytes, 'byte')}" if event.payload_bytes else ""
    on.print()
    on.print(text(f"payload: {view.form}{size}", style="bold"))
    if view.text:
        # Indented, so that no line of it can be taken for one of ours.
        on.print(Text("\n".join(f"  {line}" for line in view.text.split("\n"))))
    if not view.whole:
        on.print(text(f"only the beginning is shown; all of it: relay scheduled show {event.event_id} --raw"))


def _due(event: ScheduledEvent) -> str:
    return f"in {duration(event.due_seconds)}" if event.due_seconds > 0 else f"for {duration(-event.due_seconds)}"


def _report(event: ScheduledEvent) -> dict[str, object]:
    return {**event._asdict(), "key": None if event.key is None else key_text(event.key)}


for each in (list_command, show, cancel):
    command.add_command(each)
