"""The connections of one tenure to PostgreSQL, all to one server, and the ports that the stages have through them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from relay.postgres import checks, connect
from relay.postgres.flow.claim import ControlConnection
from relay.postgres.flow.hold import ResumeConnection
from relay.postgres.flow.housekeeping import HousekeepingConnection
from relay.postgres.flow.reconcile import NotesConnection, ReconcileConnection
from relay.postgres.flow.republish import RepublishConnection
from relay.postgres.flow.scan import ScanConnection
from relay.postgres.flow.settle import SettleConnection
from relay.postgres.flow.timers import TimersConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from relay.settings import PostgresSettings

NOTES = "notes"
"""What the connection is for that a replica has if it notes what it publishes."""

CONNECTIONS = ("scan", "sweep", "settle", "control", "resume", "timers", "housekeeping", NOTES)
"""The connections of one replica, by what they are for; each is used by one stage. The stage that replays delivered
events opens one more while it has something to do, and so does the one that reconciles."""


class Connections:
    """A port for each stage."""

    def __init__(self, opened: dict[str, asyncpg.Connection], settings: PostgresSettings) -> None:
        schema = settings.schema_name
        self._opened = opened
        self.scan = ScanConnection(opened["scan"], schema)
        self.sweep = ScanConnection(opened["sweep"], schema)
        self.settle = SettleConnection(opened["settle"], schema)
        self.control = ControlConnection(opened["control"], schema)
        self.resume = ResumeConnection(opened["resume"], schema)
        self.timers = TimersConnection(opened["timers"], schema)
        self.housekeeping = HousekeepingConnection(opened["housekeeping"], schema)
        self.notes = NotesConnection(opened[NOTES], schema) if NOTES in opened else None
        self.open_republish = partial(RepublishConnection.open, settings)
        self.open_reconcile = partial(ReconcileConnection.open, settings)

    @classmethod
    async def open(cls, settings: PostgresSettings, *, notes: bool = False) -> Connections:
        """Connect, and check server and schema. Without `notes` there is no connection for them.

        Raises PostgresLostError when waiting may help, another UnreachableError when it takes a person, and SchemaError
        for a schema that does not fit.
        """
        purposes = [purpose for purpose in CONNECTIONS if notes or purpose != NOTES]
        return cls(await connect_all(settings, purposes), settings)

    @property
    def server_version(self) -> str:
        """PostgreSQL's version, as `18.4`."""
        version = self._opened["control"].get_server_version()
        return f"{version.major}.{version.micro}"  # asyncpg's words for it

    def __len__(self) -> int:
        """Number of connections."""
        return len(self._opened)

    def drop(self) -> None:
        """Close all of them at once."""
        for connection in self._opened.values():
            connect.drop(connection)


async def connect_all(
    settings: PostgresSettings, purposes: Sequence[str] = CONNECTIONS
) -> dict[str, asyncpg.Connection]:
    """Open connections, by what they are for, and check server and schema. Raises what `Connections.open` does."""
    dsn = await connect.dsn_of(settings)
    opened: dict[str, asyncpg.Connection] = {}
    try:
        for purpose in purposes:
            # All to the server that the first one found.
            opened[purpose], dsn = await connect.open_first(dsn, settings.connect_timeout, f"outbox-relay {purpose}")
            if purpose == purposes[0]:
                await checks.check_primary(opened[purpose])
                await checks.check_schema(opened[purpose], settings.schema_name)
                await checks.check_row_security(opened[purpose], settings.schema_name)
                await checks.check_sequence(opened[purpose], settings.schema_name)
        await checks.check_sessions(opened.values())
    except BaseException:
        for connection in opened.values():
            connect.drop(connection)
        raise
    return opened
