"""A stand-in for Debezium: it reads an outbox table from a slot by pgoutput, and routes as the event router does.

The slot, the publication, the plugin and the order of things are the real ones. Like the connector, it confirms to
PostgreSQL only what Kafka has acknowledged, and repeats what it had not confirmed.
"""

from __future__ import annotations

import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import asyncpg

SLOT = "debezium"
PUBLICATION = "dbz_publication"
AT_ONCE = 50
"""Changes of one look, and more to the end of the transaction."""


class Connector:
    """Reads from its slot when it is told to."""

    def __init__(self, connection: asyncpg.Connection, producer: AIOKafkaProducer) -> None:
        self._connection = connection
        self._producer = producer
        self._relations: dict[int, list[str]] = {}
        self.published = 0

    async def step(self, *, confirm: bool = True) -> bool:
        """Publish some of what there is, and confirm it; returns whether there was anything."""
        changes = await self._connection.fetch(
            "SELECT lsn::text, data FROM pg_logical_slot_peek_binary_changes($1, NULL, $2, 'proto_version', '1',"
            " 'publication_names', $3)",
            SLOT,
            AT_ONCE,
            PUBLICATION,
        )
        if not changes:
            # What concerns other tables is read as well.
            await self._connection.execute("SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", SLOT)
            return False
        sent = []
        end = ""
        for change in changes:
            if change["data"][:1] == b"C":
                (at,) = struct.unpack_from(">Q", change["data"], 10)
                end = f"{at >> 32:X}/{at & 0xFFFFFFFF:X}"
            sent += [await self._send(row) for row in self._inserted(change["data"])]
        for each in sent:
            await each
        self.published += len(sent)
        if confirm:
            await self._connection.execute("SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)", SLOT, end)
        return True

    async def has_read(self, position: str) -> bool:
        """Whether everything before a position of the write-ahead log is published."""
        return bool(
            await self._connection.fetchval(
                "SELECT confirmed_flush_lsn >= $2::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $1",
                SLOT,
                position,
            )
        )

    def _inserted(self, data: bytes) -> Iterator[dict[str, str | None]]:
        kind, rest = data[:1], _Reader(data[1:])
        if kind == b"R":
            oid = rest.number(">I")
            rest.text(), rest.text(), rest.number(">B")
            columns = []
            for _ in range(rest.number(">H")):
                rest.number(">B")
                columns.append(rest.text())
                rest.number(">I"), rest.number(">i")
            self._relations[oid] = columns
        elif kind == b"I":
            columns = self._relations[rest.number(">I")]
            assert rest.number(">c") == b"N"
            assert rest.number(">H") == len(columns)
            yield {name: rest.value() for name in columns}

    async def _send(self, row: dict[str, str | None]) -> Any:
        key, payload, event_id = row["aggregateid"], row["payload"], row["id"]
        assert event_id is not None
        return await self._producer.send(
            f"outbox.event.{row['aggregatetype']}",
            key=None if key is None else key.encode(),
            value=None if payload is None else payload.encode(),
            headers=[("id", event_id.encode())],
        )


class _Reader:
    """Reads a message of pgoutput from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> Any:
        (found,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return found

    def text(self) -> str:
        end = self._data.index(0, self._at)
        found = self._data[self._at : end].decode()
        self._at = end + 1
        return found

    def value(self) -> str | None:
        kind = self.number(">c")
        if kind == b"n":
            return None
        assert kind == b"t"
        length = self.number(">I")
        self._at += length
        return self._data[self._at - length : self._at].decode()


@asynccontextmanager
async def connector(connection: asyncpg.Connection, bootstrap_servers: str, table: str) -> AsyncIterator[Connector]:
    """A connector with a slot and a publication of the table, from which it reads what is written from now on."""
    await connection.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {table}")
    await connection.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", SLOT)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        yield Connector(connection, producer)
    finally:
        await producer.stop()
        await connection.execute("SELECT pg_drop_replication_slot($1)", SLOT)
