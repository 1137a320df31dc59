"""`relay replay list`, `show`, `watch` and `cancel`: what was asked for, and how far it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from relay.cli.failed import pages
from relay.cli.failed.reasons import RefusedError
from relay.cli.replay.opened import one, opened
from relay.cli.replay.watching import asked, end, follow, outcome
from relay.cli.show.lines import say_json
from relay.cli.who import who

if TYPE_CHECKING:
    from relay.postgres.admin.replays import ReplayRow

_ERRORS = 20

_id = click.argument("id_", metavar="ID", type=click.IntRange(1, 2**63 - 1))


@click.command(name="list")
@click.option("--open", "under_way", is_flag=True, help="Only those under way.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Show at most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_replays(under_way: bool, limit: int, as_json: bool) -> None:
    """List replays, the latest first: who, when, what, why, and how far."""

    async def find() -> tuple[list[ReplayRow], int]:
        async with opened() as requests:
            return await requests.replays(limit, under_way=under_way), await requests.live_replicas()

    found, replicas = asyncio.run(find())
    if as_json:
        say_json({"replays": [_as_json(replay) for replay in found]})
        return
    console = pages.console()
    if not found:
        console.print("no replay is under way" if under_way else "nobody has replayed delivered events")
        return
    made = pages.table(">id", "when", "*who", "*what", "*why", "state", "*so far")
    for replay in found:
        made.add_row(
            str(replay.id),
            pages.ago(replay.requested_seconds),
            pages.text(replay.requested_by),
            pages.text(asked(replay)),
            pages.text(replay.reason or "-"),
            replay.state,
            pages.text(outcome(replay)),
        )
    console.print(made)
    if not replicas and any(replay.finished_at is None for replay in found):
        console.print(pages.text("! no replica is alive: replays go on when a relay runs", style="bold red"))


@click.command(name="show")
@_id
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(id_: int, as_json: bool) -> None:
    """Show one replay, and why Kafka refused events of it."""

    async def find() -> tuple[ReplayRow, list[tuple[str, int, int]]]:
        async with opened() as requests:
            return await one(requests, id_), await requests.errors(id_, _ERRORS)

    replay, errors = asyncio.run(find())
    if as_json:
        listed = [{"error": error, "events": events, "example": example} for error, events, example in errors]
        say_json({**_as_json(replay), "errors": listed})
        return
    console = pages.console()
    for name, value in (
        ("replay", f"{replay.id}, {replay.state}"),
        ("what", asked(replay)),
        ("who", replay.requested_by),
        ("when", f"{pages.moment(replay.requested_at)} ({pages.ago(replay.requested_seconds)})"),
        ("why", replay.reason or "-"),
        ("so far", outcome(replay)),
        ("ended", pages.moment(replay.finished_at)),
    ):
        console.print(pages.text(f"{name:<8} {value}"))
    if errors:
        made = pages.table(">events", ">for example", "*refused by Kafka for")
        for error, events, example in errors:
            made.add_row(f"{events:,}", str(example), pages.text(error))
        console.print("", made)


@click.command(name="watch")
@_id
def watch(id_: int) -> None:
    """Wait for the end of a replay."""
    end(follow(id_), pages.console())


@click.command(name="cancel")
@_id
def cancel(id_: int) -> None:
    """Stop a replay. What is in Kafka stays there; the relay stops within a second."""

    async def end_it() -> tuple[bool, ReplayRow]:
        async with opened() as requests:
            return await requests.cancel(id_, who()), await one(requests, id_)

    cancelled, replay = asyncio.run(end_it())
    if not cancelled:
        raise RefusedError(f"replay {id_} is over: {outcome(replay)}; nothing was changed")
    pages.console().print(pages.text(f"replay {id_} stops: {outcome(replay)}"))


def _as_json(replay: ReplayRow) -> dict[str, object]:
    return {**replay._asdict(), "state": replay.state}
