"""`relay doctor`: looks at everything that the relay rests on."""

from __future__ import annotations

import asyncio
import time

import click

from relay.admin.doctor.certificates import of_certificates
from relay.admin.doctor.check import Check, parts
from relay.admin.doctor.postgres import Examination
from relay.admin.doctor.topics import with_dead_letters
from relay.cli.show.lines import say, say_json
from relay.errors import SettingsError
from relay.settings import PostgresSettings, SegmentSettings, Settings, Warned, load_postgres
from relay.text import plain


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Look at settings, PostgreSQL, the outbox and Kafka; say what is wrong, what it means and what to do.

    The command changes nothing. Run it with the settings and on the machine of a relay. It ends with exit code 1 if
    there is a warning or a problem.
    """
    checks = asyncio.run(_look())
    if as_json:
        say_json([check._asdict() for check in checks])
    else:
        say("\n".join(line for check in checks for line in _lines(check)))
    if any(check.state != "ok" for check in checks):
        context.exit(1)


async def _look() -> list[Check]:
    warned: list[Warned] = []
    found: list[Check] = []
    settings: Settings | None = None
    try:
        settings = Settings.load(on_warning=warned.append)
    except SettingsError as error:
        found.append(Check("settings", "problem", " ".join(str(error).split()), "`relay run` does not start"))
    else:
        found += [Check("settings", "warning", *parts(each)) for each in warned]
        found.append(Check("settings", "ok", "the settings are complete and fit together"))
    postgres = settings.postgres if settings is not None else _postgres()
    if postgres is None:
        return found
    found += of_certificates(postgres, settings.kafka if settings is not None else None, time.time())
    retention = (settings.segment if settings is not None else SegmentSettings()).retention
    examination = Examination(postgres, retention=retention)
    found += await examination.checks()
    if settings is not None:
        # Imported here: nothing else of this command needs the Kafka client.
        from relay.kafka.checkup import Events, check_up

        used = with_dead_letters(examination.topics, settings.failure)
        events = Events(used, examination.max_event_bytes, examination.waiting, postgres.schema_name)
        seen = await check_up(settings.kafka, settings.topic, events)
        found += [Check("kafka", *each) for each in seen]
    return found


def _postgres() -> PostgresSettings | None:
    """Return the group that can be used although others are wrong."""
    try:
        return load_postgres()
    except SettingsError:
        # Said already.
        return None


def _lines(check: Check) -> list[str]:
    told = (("means", check.means), ("do", check.do))
    more = [f"{'':18} {word}: {plain(text)}" for word, text in told if text]
    return [f"{check.state:<8} {check.area:<9} {plain(check.what)}", *more]
