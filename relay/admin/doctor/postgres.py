"""Looks at the server and the outbox in it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from relay.admin.connection import connected
from relay.admin.doctor.check import Check, State, parts
from relay.admin.doctor.configured import RULES, of_configured
from relay.admin.doctor.rights import of_rights
from relay.admin.doctor.segments import of_segments
from relay.admin.doctor.server import of_limits, of_server, of_starved, of_transaction
from relay.admin.findings import findings
from relay.errors import RelayError, SchemaError
from relay.postgres.admin.configured import read_configured, read_limits
from relay.postgres.admin.doctor import (
    OLD,
    UNCOMMITTED,
    not_vacuumed,
    old_transactions,
    oldest_waiting,
    read_server,
    starved,
    used_topics,
)
from relay.postgres.admin.migrate import max_event_bytes
from relay.postgres.admin.rights import read_login
from relay.postgres.admin.status import read_status
from relay.postgres.checks import check_row_security, check_schema, check_sequence, check_sessions
from relay.postgres.errors import PrivilegeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import asyncpg

    from relay.settings import PostgresSettings

UNTOUCHED = 3_600.0
"""Seconds without a vacuum after which a table with many dead rows is starved: autovacuum looks every minute."""

DEAD_ROWS = 10_000
"""Fewer dead rows than that slow nothing down."""

MOST_TOPICS = 100


class Examination:
    """Looks at one outbox; afterwards the attributes say what Kafka must be asked about."""

    def __init__(
        self,
        settings: PostgresSettings,
        *,
        retention: float = 86_400.0,
        older_than: float = OLD,
        uncommitted: float = UNCOMMITTED,
        clock: Callable[[], float] = time.time,
    ):
        """`retention` is the relay's, of segments, in seconds."""
        self._settings = settings
        self._schema = settings.schema_name
        self._retention = retention
        self._older_than = older_than
        self._uncommitted = min(uncommitted, older_than)
        self._clock = clock
        self._lacking = False
        self._usable = False
        """Whether there is an outbox that this program works with. Nothing is read of another one."""
        self.topics: list[str] = []
        """The topics of events."""
        self.max_event_bytes: int | None = None
        """The largest event that writers may write, None if there is no limit."""
        self.waiting: dict[str, float] = {}
        """By topic, the seconds since the oldest event that waits was written."""

    async def checks(self) -> list[Check]:
        """Look at everything; what cannot be read is a problem itself."""
        found: list[Check] = []
        with self._told(found):
            async with connected(self._settings) as connection, connected(self._settings) as second:
                with self._told(found):
                    await check_sessions([connection, second])
                with self._told(found):
                    self._usable = await self._look_at_the_schema(connection, found)
                for refused in (check_row_security, check_sequence) if self._usable else ():
                    with self._told(found):
                        await refused(connection, self._schema)
                of_the_outbox = (self._vacuum, self._events) if self._usable else ()
                for look in (self._server, self._configured, *of_the_outbox):
                    with self._told(found):
                        # One by one: what was found before an error stays.
                        async for check in look(connection):
                            found.append(check)  # noqa: PERF401
        return found

    @contextmanager
    def _told(self, found: list[Check]) -> Iterator[None]:
        """Make a problem of an error. Privileges that are missing were told one by one."""
        try:
            yield
        except RelayError as error:
            if not (self._lacking and isinstance(error, PrivilegeError)):
                area = "outbox" if isinstance(error, SchemaError) else "postgres"
                found.append(Check(area, "problem", *parts(error)))

    async def _look_at_the_schema(self, connection: asyncpg.Connection, found: list[Check]) -> bool:
        """Look at the version and at privileges; returns whether there is an outbox that this program works with."""
        login = await read_login(connection, self._schema)
        fits = False
        try:
            await check_schema(connection, self._schema)
            fits = True
        except PrivilegeError:
            if login is None:
                raise
        except RelayError as error:
            found.append(Check("outbox", "problem", *parts(error)))
            return False
        if login is not None:
            rights = [check async for check in of_rights(connection, self._schema, login)]
            self._lacking = bool(rights)
            found += rights
        if fits:
            found.append(
                Check("outbox", "ok", f"the outbox in the schema {self._schema} has the version of this program")
            )
        return fits

    async def _server(self, connection: asyncpg.Connection) -> AsyncIterator[Check]:
        asked_at = self._clock()
        server = await read_server(connection, self._schema)
        for check in of_server(server, (asked_at + self._clock()) / 2):
            yield check
        for transaction in await old_transactions(connection, self._schema, self._older_than, self._uncommitted):
            yield of_transaction(transaction)

    async def _configured(self, connection: asyncpg.Connection) -> AsyncIterator[Check]:
        for check in of_configured(*await read_configured(connection, self._schema, RULES)):
            yield check
        for check in of_limits(await read_limits(connection, self._schema, outbox=self._usable)):
            yield check

    async def _vacuum(self, connection: asyncpg.Connection) -> AsyncIterator[Check]:
        for name in await not_vacuumed(connection, self._schema):
            yield Check(
                "outbox",
                "warning",
                f"autovacuum is off for the table {name}",
                "statements on it become slower and slower",
                f"as the owner of the outbox, run ALTER TABLE {self._schema}.{name} RESET (autovacuum_enabled)",
            )
        for table in await starved(connection, self._schema, UNTOUCHED, DEAD_ROWS):
            yield of_starved(table, self._schema)

    async def _events(self, connection: asyncpg.Connection) -> AsyncIterator[Check]:
        status = await read_status(connection, self._schema)
        for check in of_segments(status.segments, status.newest_id, self._retention):
            yield check
        concerns = findings(status)
        for finding in concerns:
            state: State = "problem" if finding.severity == "error" else "warning"
            yield Check("outbox", state, finding.what, finding.means, finding.do)
        if not concerns:
            yield Check("outbox", "ok", "lanes have owners, and no event needs a person")
        self.topics = await used_topics(connection, self._schema, MOST_TOPICS)
        self.max_event_bytes = await max_event_bytes(connection, self._schema)
        self.waiting = await oldest_waiting(connection, self._schema)
