"""`relay erase`: payloads and headers go, receipts and the audit stay."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from relay.admin.connection import open_outbox
from relay.admin.counts import counted
from relay.admin.erasures import EraseRequest, erase, preview_erase
from relay.admin.selections import parse_key
from relay.cli.options import exit_codes, json_option, read, yes_option
from relay.cli.requester import requester
from relay.cli.show.cells import text
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.errors import RefusedError
from relay.names import is_topic
from relay.outcome import PublishError
from relay.postgres.admin.erasures import EraseFilter, Erasures
from relay.settings import Settings, load_postgres
from relay.text import plain

if TYPE_CHECKING:
    from relay.admin.erasures import ErasePreview
    from relay.cli.show.console import PlainConsole
    from relay.postgres.admin.erasures import Erased

EPILOG = exit_codes("done", "nothing was changed: refused, or there is no such event")

_MAX_ID = 2**63 - 1


def _parse_event(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[int | UUID]:
    """Read ids, and event_ids of scheduled events."""
    found: list[int | UUID] = []
    for value in values:
        try:
            found.append(int(value) if value.isdecimal() else UUID(value))
        except ValueError:
            raise click.BadParameter(
                f"{value!r} is neither an id nor the event_id of a scheduled event", context, parameter
            ) from None
        if isinstance(found[-1], int) and not 0 < found[-1] <= _MAX_ID:
            raise click.BadParameter(f"{value} is not an id", context, parameter)
    return found


def _parse_topic(name: str) -> str:
    if not is_topic(name):
        raise ValueError(f"{name!r} is not a topic name")
    return name


@click.command(name="erase", epilog=EPILOG)
@click.option(
    "--event", "events", multiple=True, callback=_parse_event, metavar="ID", help="This event; can be repeated."
)
@click.option(
    "--key", callback=read(parse_key), metavar="KEY", help="All events of this key: text, or hex: and digits."
)
@click.option("--topic", callback=read(_parse_topic), metavar="TOPIC", help="With --key: only in this topic.")
@click.option("--reason", default="", metavar="TEXT", help="Why. Required; kept with who asked and when.")
@click.option("--force", is_flag=True, help="Also events that are still to be published: they never will be.")
@click.option("--tombstone", is_flag=True, help="With --force: publish a tombstone in place of each pending event.")
@click.option("--vacuum/--no-vacuum", default=True, show_default=True, help="As the outbox's owner, VACUUM afterwards.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be erased.")
@yes_option
@json_option
def command(
    dry_run: bool, yes: bool, vacuum: bool, as_json: bool, reason: str, force: bool, tombstone: bool, **options: Any
) -> None:
    """Erase payload and headers of events, wherever the outbox keeps them.

    \b
      relay erase --key customer-7 --dry-run
      relay erase --key customer-7 --reason "GDPR request 4711"

    Receipts stay, and so do failures and who asked for what: what was delivered, when and where is still known. Erased
    events cannot be replayed. Either all of the events are erased or none.

    Kafka keeps the records that it has: its retention removes them, or in a compacted topic a later event of the key.
    """
    request = _request(reason=plain(reason.strip()), force=force, tombstone=tombstone, **options)
    if not request.reason and not dry_run:
        raise click.UsageError("an erasure needs --reason: it cannot be undone, and somebody will ask why")
    preview = asyncio.run(_look(request))
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
    erased, vacuumed = asyncio.run(_act(preview, vacuum=vacuum))
    if as_json:
        _print_json(preview, erased, vacuumed=vacuumed)
    else:
        _tell(erased, on, vacuumed=vacuumed)


def _request(
    *, events: list[int | UUID], key: bytes | None, topic: str | None, reason: str, force: bool, tombstone: bool
) -> EraseRequest:
    if bool(events) == (key is not None):
        raise click.UsageError("say what to erase: --key, or --event with an id, which can be repeated")
    if topic is not None and key is None:
        raise click.UsageError("--topic narrows --key down: an id is one event")
    if tombstone and not force:
        raise click.UsageError("--tombstone is for events that are still to be published: add --force")
    ids = tuple(dict.fromkeys(each for each in events if isinstance(each, int)))
    scheduled = tuple(dict.fromkeys(each for each in events if isinstance(each, UUID)))
    # Without a key, no ids means none, and not all of them.
    wanted = EraseFilter(None if key is not None else ids, key, topic, scheduled or None)
    return EraseRequest(wanted, reason, force, tombstone)


async def _look(request: EraseRequest) -> ErasePreview:
    async with open_outbox(load_postgres()) as outbox:
        erasures = Erasures(outbox.connection, outbox.schema)
        return await preview_erase(erasures, outbox.failures, request, _compacted)


async def _act(preview: ErasePreview, *, vacuum: bool) -> tuple[Erased, bool]:
    async with open_outbox(load_postgres()) as outbox:
        erasures = Erasures(outbox.connection, outbox.schema)
        erased = await erase(erasures, preview, requester())
        tables = [*erased.segments, *([f"{outbox.schema}.scheduled"] if erased.cancelled else [])]
        return erased, vacuum and await erasures.vacuum(tables)


async def _compacted(topic: str) -> bool | None:
    # Imported here: only this question needs Kafka, and its settings.
    from relay.kafka.administration import Administration

    settings = Settings.load()
    administration = Administration(settings.kafka, settings.topic)
    try:
        configuration = await administration.configuration(topic)
    except PublishError as error:
        raise RefusedError(
            f"Kafka cannot be asked whether the topic {plain(topic)} is compacted: {error}; nothing was changed"
        ) from error
    finally:
        await administration.close(1.0)
    return None if configuration is None else "compact" in (configuration.get("cleanup.policy") or "")


def _tell(erased: Erased, on: PlainConsole, *, vacuumed: bool) -> None:
    told = f"{counted(erased.events, 'event')} erased, as action {erased.action}: relay failed actions"
    on.print(text(told, style="bold"))
    if erased.discarded:
        on.print(text(f"{counted(erased.discarded, 'event')} will never be published"))
    if erased.cancelled:
        on.print(text(f"{counted(erased.cancelled, 'scheduled event')} cancelled"))
    if not vacuumed:
        tables = ", ".join(erased.segments)
        on.print(text(f"no SELECT sees them any more; old versions of rows leave the files with: VACUUM {tables};"))
    on.print(text("Kafka keeps the records that it has, and backups what they have"))


def _confirm(preview: ErasePreview, *, as_json: bool) -> None:
    if not sys.stdin.isatty():
        raise RefusedError(
            f"this would erase {counted(preview.events + preview.scheduled, 'event')} for good, and there is no "
            "terminal to ask on; look with --dry-run, then add --yes; nothing was changed"
        )
    if not click.confirm(preview.question, err=as_json):
        raise RefusedError("nothing was changed")


def _print_json(preview: ErasePreview, erased: Erased | None = None, *, vacuumed: bool = False) -> None:
    states = {state: preview.number(state) for state in sorted({group.state for group in preview.groups})}
    report: dict[str, object] = {
        "filter": preview.filter,
        "dry_run": erased is None,
        "states": states,
        "scheduled": preview.scheduled,
    }
    if erased is not None:
        report |= {**erased._asdict(), "vacuumed": vacuumed}
    say_json(report)
