"""`relay topics`: what there is for each topic, and pausing one."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from relay.admin.connection import open_outbox
from relay.admin.counts import plural
from relay.admin.times import duration
from relay.admin.topics import look_at_topics, parse_topic_name, pause_topics, resume_topics, state_in_words
from relay.cli.options import exit_codes, json_option, limit_option, reason_option, span
from relay.cli.requester import requester
from relay.cli.show.cells import text
from relay.cli.show.console import console
from relay.cli.show.lines import say, say_json
from relay.cli.show.tables import table
from relay.settings import load_postgres
from relay.text import plain

if TYPE_CHECKING:
    from relay.postgres.admin.topics import Topics, TopicState

EPILOG = exit_codes("done, or requested", "refused, and nothing was changed")


def _parse(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    try:
        return sorted({parse_topic_name(value) for value in values})
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


_topics_argument = click.argument("topics", nargs=-1, required=True, callback=_parse, metavar="TOPIC...")


@click.group(name="topics", invoke_without_command=True, epilog=EPILOG)
@limit_option(50)
@json_option
@click.pass_context
def command(context: click.Context, limit: int, as_json: bool) -> None:
    """Show what waits for each topic, and which are paused and why; pause one, or resume it.

    \b
      relay topics
      relay topics pause orders --for 30m --reason "consumers are being migrated"
      relay topics resume orders

    Rates are those of the last minute, of the newest events and receipts. The command reads only PostgreSQL; a topic in
    trouble is named with what the replicas told of it with their last heartbeat.
    """
    if context.invoked_subcommand is None:
        asyncio.run(_show(limit, as_json))
    elif as_json or context.get_parameter_source("limit") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError(f"write the options of a list without {context.invoked_subcommand}")


@command.command(epilog=EPILOG)
@_topics_argument
@click.option(
    "--for",
    "seconds",
    callback=span("1s", "30d"),
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="How long (90s, 30m, 2h, 3d). It ends by itself then.",
)
@reason_option
@json_option
def pause(topics: list[str], seconds: float, reason: str, as_json: bool) -> None:
    """Hold back the events of topics for a time. Writers and other topics go on.

    Events that Kafka has been given already land. The others are held in PostgreSQL, whatever replica owns their lane,
    and go on in order when the time is over or at `relay topics resume`. A new pause replaces an earlier one.
    """

    async def act() -> list[str]:
        async with open_outbox(load_postgres()) as outbox:
            return await pause_topics(outbox, topics, seconds=seconds, reason=plain(reason.strip()), who=requester())

    warnings = asyncio.run(act())
    for warning in warnings:
        say(f"relay: {warning}", err=True)
    _tell(topics, f"paused for {duration(seconds)}", as_json=as_json, seconds=seconds)


@command.command(epilog=EPILOG)
@_topics_argument
@reason_option
@json_option
def resume(topics: list[str], reason: str, as_json: bool) -> None:
    """Let the events of paused topics go on: those that were held first, in order."""

    async def act() -> None:
        async with open_outbox(load_postgres()) as outbox:
            await resume_topics(outbox, topics, reason=plain(reason.strip()), who=requester())

    asyncio.run(act())
    _tell(topics, "resumed", as_json=as_json, seconds=0.0)


async def _show(limit: int, as_json: bool) -> None:
    async with open_outbox(load_postgres()) as outbox:
        found = await look_at_topics(outbox)
    if as_json:
        shown = [{**asdict(each), "paused": each.paused and each.paused._asdict()} for each in found.topics]
        say_json({"topics": shown, "complete": found.complete, "unread": found.unread})
        return
    on = console()
    if not found.topics:
        on.print("there is nothing to tell of any topic: no event waits, and none was written or delivered lately")
    else:
        made = table(
            "*topic", ">pending", ">oldest", ">held", ">failed", ">written per s", ">delivered per s", "*state"
        )
        for each in found.topics[:limit]:
            made.add_row(*_row(each, found), text(state_in_words(each) or "-"))
        on.print(made)
    if (more := len(found.topics) - limit) > 0:
        on.print(text(f"{more:,} more {plural('topic', more)}: --limit {len(found.topics)}"))
    if found.unread:
        on.print(text(f"not read in time: {', '.join(found.unread)}; see `relay status`", style="bold red"))


def _row(state: TopicState, found: Topics) -> tuple[str, ...]:
    more = "" if found.complete else "+"
    return (
        state.topic,
        f"{state.pending:,}{more}",
        duration(state.oldest_seconds),
        f"{state.held:,}",
        f"{state.failed:,}",
        _rate(state.written_per_second),
        _rate(state.delivered_per_second),
    )


def _rate(per_second: float) -> str:
    return "-" if not per_second else f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def _tell(topics: list[str], done: str, *, as_json: bool, seconds: float) -> None:
    if as_json:
        say_json({"topics": topics, "seconds": seconds}, indent=None)
        return
    say(f"{plural('topic', len(topics))} {', '.join(topics)}: {done}; the replicas act on it within a heartbeat")
