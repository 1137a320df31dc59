"""`relay migrate --from-debezium`: lets the rows of an application's outbox table become events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.admin.connector import read_connector
from relay.cli.show.lines import say
from relay.postgres.admin.connection import admin_connection
from relay.postgres.admin.event_router import EventRouter
from relay.postgres.admin.migrate_from_debezium import Adopted, adopt, adoption_script
from relay.postgres.checks import check_primary
from relay.text import plain

if TYPE_CHECKING:
    from pathlib import Path

    from relay.settings.servers import PostgresSettings


def from_debezium(
    settings: PostgresSettings, table: str, connector: Path | None, *, apply: bool, owner: str | None
) -> None:
    """Print the SQL that takes the table over, or run it."""
    router = read_connector(connector) if connector else EventRouter()

    async def work() -> str | Adopted:
        async with admin_connection(settings) as connection:
            if not apply:
                return await adoption_script(connection, table, router, settings.schema_name)
            await check_primary(connection)
            return await adopt(connection, table, router, schema=settings.schema_name, owner=owner)

    done = asyncio.run(work())
    if isinstance(done, str):
        say(done.removesuffix("\n"))
        return
    for note in router.notes:
        say(f"note: {plain(note)}")
    for role in done.granted:
        say(f"the role {role} may enqueue now")
    say(f"rows that are inserted into {done.table} from now on are events")
    say(f"before the relay begins, Debezium has to read the write-ahead log up to {done.position}")
