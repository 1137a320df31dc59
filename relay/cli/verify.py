"""`relay verify`: compares what Kafka has with the outbox."""

from __future__ import annotations

from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import click

from relay.admin.connection import connected
from relay.admin.times import duration
from relay.admin.verification import Verified, VerifyRequest, verify
from relay.admin.verification_metrics import write_metrics
from relay.admin.verification_sample import verify_sample
from relay.cli.options import Bounded, exit_codes, json_option, key_option, since_option
from relay.cli.show.cells import text
from relay.cli.show.console import console
from relay.cli.show.lines import say_json
from relay.cli.show.progress import followed
from relay.cli.show.tables import grid
from relay.decide.verify.findings import KINDS, NOTES
from relay.outcome import PublishError
from relay.postgres.admin.verify import VerifyReads
from relay.postgres.checks import check_schema
from relay.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.cli.show.console import PlainConsole

WORDS = {
    "in_place": "delivered events that are where their receipts say, with their keys and payloads",
    "retained_away": "delivered events that Kafka has dropped since: the topic's retention",
    "compacted_away": "delivered events that a later one of their key has replaced: the topic is compacted",
    "replayed": "records that a person had published once more: relay replay",
    "dead_letters": "records that are dead letters",
    "pruned": "records whose events the outbox does not keep any more",
    "pending": "records whose events have no receipt yet, or were discarded on their way",
    "replayed_late": "events that came after later ones of their key because a person had them replayed",
    "order_unknown": "events whose order was not compared: too many other keys came since the last event of theirs",
    "lost": "delivered events that are not in the topic",
    "misplaced": "delivered events that are elsewhere in the topic than their receipts say",
    "changed": "records whose key or payload is not that of their event",
    "unsettled": "committed events that the relay has passed and not delivered",
    "out_of_order": "events that came after later ones of their key",
    "repeated": "records whose events had come before",
    "unknown": "records with the headers of an outbox whose events are not in this one",
    "foreign": "records of other producers",
}

EPILOG = exit_codes("nothing is wrong", "something is wrong, or nothing could be compared").replace(
    "PostgreSQL cannot", "PostgreSQL or Kafka cannot"
)


@click.command(name="verify", epilog=EPILOG)
@click.option("--topic", metavar="TOPIC", help="The topic to compare. Required, except with --sample.")
@key_option
@since_option("delivered")
@click.option("--rate", cls=Bounded, type=click.FloatRange(1, 1e9), metavar="N", help="At most N records per second.")
@click.option(
    "--sample",
    cls=Bounded,
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Compare only N record batches, chosen at random: a quick look, for cron.",
)
@click.option("--allow", type=click.Choice(KINDS), multiple=True, help="Only count these; can be repeated.")
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the counts to FILE as metrics, for the node exporter.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    topic: str | None,
    sample: int | None,
    allow: tuple[str, ...],
    metrics: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare what Kafka has with the outbox: is anything lost, changed, repeated or out of order?

    \b
      relay verify --topic orders
      relay verify --topic orders --since 1d --rate 20000
      relay verify --sample 1000 --metrics /var/lib/node_exporter/relay_verify.prom

    Each record of the topic is compared with its event and its receipt, and each receipt with what was found. What
    retention or compaction has removed is told apart from what is lost. The command changes nothing, in PostgreSQL or
    Kafka, and may run while relays do.
    """
    if topic is None and sample is None:
        raise click.UsageError("say which topic to compare: --topic, or --sample for a look at all of them")
    if sample is not None and (options["key"] is not None or options["since"] is not None):
        raise click.UsageError("--sample chooses among all delivered events: leave out --key and --since")
    settings = Settings.load()

    async def work(report: Callable[[int, int, str], None]) -> list[Verified]:
        return await _verify(settings, topic, sample, options, lambda done, total: report(done, total, ""))

    found = followed(work, total=None, left="the comparison was stopped; nothing was changed", doing="comparing")
    if metrics is not None:
        write_metrics(metrics, found)
    allowed = frozenset(allow)
    wrong = sum(each.found.number(allowed) for each in found)
    if as_json:
        say_json({"findings": wrong, "allowed": sorted(allowed), "topics": [_report(each) for each in found]})
    else:
        _show(found, allowed, wrong, console())
    if wrong:
        context.exit(1)


async def _verify(
    settings: Settings,
    topic: str | None,
    sample: int | None,
    options: dict[str, Any],
    report: Callable[[int, int], None],
) -> list[Verified]:
    # Imported here: the help of this command needs no Kafka client.
    from relay.kafka.administration import Administration
    from relay.kafka.topic_reader import topic_reader

    administration = Administration(settings.kafka, settings.topic)

    async def compacted(name: str) -> bool | None:
        try:
            configuration = await administration.configuration(name)
        except PublishError:
            return None
        return None if configuration is None else "compact" in (configuration.get("cleanup.policy") or "")

    async with connected(settings.postgres) as connection:
        await check_schema(connection, settings.postgres.schema_name)
        reads = VerifyReads(connection, settings.postgres.schema_name)
        try:
            async with topic_reader(settings.kafka) as reader:
                if sample is not None:
                    return await verify_sample(
                        reads,
                        reader,
                        topic=topic,
                        number=sample,
                        rate=options["rate"],
                        compacted=compacted,
                        random=SystemRandom(),
                        report=report,
                    )
                request = VerifyRequest(str(topic), **options)
                return [await verify(reads, reader, request, compacted=compacted, report=report)]
        finally:
            await administration.close(1.0)


def _show(found: Sequence[Verified], allowed: frozenset[str], wrong: int, on: PlainConsole) -> None:
    for each in found:
        speed = f", {each.records / each.seconds:,.0f}/s" if each.seconds >= 1 else ""
        told = f"topic {each.topic}: {each.records:,} records compared in {duration(each.seconds)}{speed}"
        on.print(text(told, style="bold"))
        rows = grid()
        rows.add_column(justify="right", no_wrap=True)
        rows.add_column(no_wrap=True)
        rows.add_column(overflow="fold")
        for kind in (*NOTES, *KINDS):
            number = each.found.counts[kind]
            if number or kind in ("in_place", "lost", "out_of_order", "repeated"):
                bad = "bold red" if number and kind in KINDS and kind not in allowed else ""
                rows.add_row(text(f"{number:,}", style=bad), text(kind.replace("_", " "), style=bad), text(WORDS[kind]))
        on.print(rows)
        for example in each.found.examples:
            on.print(text(f"  {example.kind.replace('_', ' ')}: {_place(example)}: {example.what}"))
        for remark in each.remarks:
            on.print(text(f"note: {remark}"))
    on.print(text(f"{wrong:,} findings" if wrong else "nothing is wrong", style="bold red" if wrong else "bold green"))


def _place(example: Any) -> str:
    event = [] if example.id is None else [f"event {example.id}"]
    place = [] if example.partition is None else [f"partition {example.partition}", f"offset {example.offset}"]
    return ", ".join(event + place)


def _report(each: Verified) -> dict[str, object]:
    return {
        "topic": each.topic,
        "records": each.records,
        "seconds": round(each.seconds, 3),
        "counts": {kind: each.found.counts[kind] for kind in (*NOTES, *KINDS)},
        "examples": [example._asdict() for example in each.found.examples],
        "remarks": each.remarks,
    }
