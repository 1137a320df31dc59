"""Several replicas of one outbox, as processes: started, killed, paused, and what the database saw of it."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.support.relay.process import relay_run
from tests.support.waiting import until

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    import asyncpg

    from tests.acceptance.conftest import Place
    from tests.support.relay.process import RelayProcess

HISTORY = """
CREATE TABLE lane_history (lane int, owner uuid, epoch bigint, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION remember_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.lane_history (lane, owner, epoch) VALUES (NEW.lane, NEW.owner, NEW.epoch);
    RETURN NULL;
END
$$;
CREATE TRIGGER remember_owner AFTER UPDATE ON outbox.lane
FOR EACH ROW WHEN (OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION remember_owner();
"""


@dataclass(frozen=True)
class Hit:
    """A replica was killed or paused."""

    how: str
    owner: object
    """Its id in the database; None when it was not on the list then."""
    lanes: frozenset[int]
    """The lanes it owned."""
    at: datetime
    """By the database's clock, when it did nothing any more."""


class Replicas:
    """Replicas by name; every process that ever ran is kept, with its log."""

    def __init__(self, place: Place, **settings: object) -> None:
        self.running: dict[str, RelayProcess] = {}
        self.all: list[RelayProcess] = []
        self._place = place
        self._settings = settings
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._place.connection.execute(HISTORY)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    @property
    def _connection(self) -> asyncpg.Connection:
        return self._place.connection

    async def start(
        self, name: str, dsn: str | None = None, bootstrap_servers: str | None = None, **settings: object
    ) -> RelayProcess:
        """Start a process; it is not ready yet."""
        relay = await self._exits.enter_async_context(
            relay_run(
                dsn or self._place.dsn,
                bootstrap_servers or self._place.bootstrap_servers,
                replica_name=name,
                **{**self._settings, **settings},
            )
        )
        self.running[name] = relay
        self.all.append(relay)
        return relay

    async def own(self, timeout: float = 30.0, **lanes: int) -> None:
        """Wait until each replica named owns so many lanes: `own(a=8, b=8)`."""
        owned: dict[str, int] = {}

        async def look() -> bool:
            nonlocal owned
            owned = await self.owned()
            return owned == {name: count for name, count in lanes.items() if count}

        try:
            await until(f"lanes {lanes}", look, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; it was {owned}: {self.running}") from None

    async def owned(self) -> dict[str, int]:
        """How many lanes each live replica owns."""
        rows = await self._connection.fetch(
            "SELECT r.name, count(*) FROM outbox.lane AS l JOIN outbox.replica AS r ON r.id = l.owner"
            " WHERE r.lease_expires_at > clock_timestamp() GROUP BY r.name"
        )
        return dict(map(tuple, rows))

    async def kill(self, name: str) -> Hit:
        """SIGKILL; returns when it is gone."""
        relay = self.running.pop(name)
        await relay.kill()
        return await self.hit("killed", name)

    async def pause(self, name: str) -> Hit:
        """SIGSTOP."""
        self.running[name].signal(signal.SIGSTOP)
        return await self.hit("paused", name)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.running[name].signal(signal.SIGCONT)

    async def stop(self, name: str) -> None:
        """SIGTERM, and it must drain."""
        await self.running.pop(name).stop()

    async def stop_all(self) -> None:
        """SIGTERM to one after the other; they must drain, and must never have failed."""
        for name in list(self.running):
            await self.stop(name)
        for relay in self.all:
            assert not relay.texts(), relay

    def duplicates_counted(self) -> int:
        """What all of them counted by their logs, which also tell of those that are dead."""
        return sum(line["events"] for relay in self.all for line in relay.happened("settle.duplicates"))

    async def duplicates_in_metrics(self, count: int) -> None:
        """Wait until those that run have counted so many; what was on the wire is settled when Kafka has answered."""

        async def counted() -> bool:
            return count == sum([await relay.metric("duplicate_events_total") for relay in self.running.values()])

        # The owner of a lane looks for them with its heartbeats, some thousand at a time.
        await until(f"{count} duplicates in the metrics", counted, 120.0)

    async def hit(self, how: str, name: str) -> Hit:
        """What is known of a replica to which something happens now."""
        rows = await self._connection.fetch(
            "SELECT r.id, l.lane, clock_timestamp() AS at FROM outbox.replica AS r"
            " LEFT JOIN outbox.lane AS l ON l.owner = r.id"
            " WHERE r.name = $1 AND r.started_at = (SELECT max(started_at) FROM outbox.replica WHERE name = $1)",
            name,
        )
        if not rows:
            return Hit(how, None, frozenset(), await self._connection.fetchval("SELECT clock_timestamp()"))
        lanes = frozenset(row["lane"] for row in rows if row["lane"] is not None)
        return Hit(how, rows[0]["id"], lanes, rows[0]["at"])

    async def take_overs(self, hit: Hit) -> dict[int, float]:
        """Seconds from the hit until another replica claimed each lane that it owned; inf where none did."""
        rows = await self._connection.fetch(
            "SELECT lane, extract(epoch FROM min(at) - $2)::float8 FROM lane_history"
            " WHERE lane = ANY($1::int[]) AND at > $2 AND owner IS NOT NULL AND owner <> $3 GROUP BY lane",
            hit.lanes,
            hit.at,
            hit.owner,
        )
        return dict.fromkeys(hit.lanes, float("inf")) | dict(map(tuple, rows))
