"""Load at little cost: pgbench, as fast as it can or at a rate."""

from __future__ import annotations

import re
import signal
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from relay.local.parts import postgres_programs
from tests.bench.process import Tool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import asyncpg

CLIENTS = 8
ACCOUNTS = 10_000
TABLES = """
    CREATE TABLE account (id int PRIMARY KEY, number bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE plain_event (
        id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
        topic      text        NOT NULL,
        key        bytea,
        payload    bytea
    );
"""
# The number counts an account's events, so that the order in Kafka can be checked.
SCRIPT = """
\\set id random(1, {accounts})
BEGIN;
UPDATE account SET number = number + 1 WHERE id = :id RETURNING number \\gset
INSERT INTO {table} (topic, key, payload) VALUES ('{topic}',
    convert_to('order-' || lpad(:id::text, 30, '0'), 'UTF8'),
    convert_to(rpad(:number::text || ' ', 500, 'x'), 'UTF8'));
COMMIT;
"""


async def create_accounts(connection: asyncpg.Connection) -> None:
    """The tables that the transactions write to, beside the outbox."""
    await connection.execute(TABLES)
    await connection.execute("INSERT INTO account SELECT i, 0 FROM generate_series(1, $1::int) AS i", ACCOUNTS)
    await connection.execute("VACUUM ANALYZE account")


class Pgbench(Tool):
    """pgbench with 8 connections for `seconds`, at `rate` transactions a second or (0) as fast as it can.

    May be stopped before its time. `folder` is for its files, `variables` are those of the script, for each client;
    with `note_each` it writes down when each transaction ended.
    """

    def __init__(
        self,
        folder: Path,
        dsn: str,
        script: str,
        seconds: float,
        rate: float = 0,
        variables: Mapping[str, str] | None = None,
        *,
        note_each: bool = False,
    ) -> None:
        server = urlsplit(dsn)
        file = folder / "script.sql"
        file.write_text(script)
        self._transactions = folder / "transactions"
        command = [
            *(str(postgres_programs() / "pgbench"), "--no-vacuum", "--protocol=prepared"),
            *(
                f"--client={CLIENTS}",
                "--jobs=1",
                "--random-seed=1",
                f"--time={max(1, round(seconds))}",
                f"--file={file}",
            ),
            *([f"--rate={rate:g}"] if rate else []),
            *(f"--define={name}={value}" for name, value in (variables or {}).items()),
            *(["--log", f"--log-prefix={self._transactions}"] if note_each else []),
            *(f"--host={server.hostname}", f"--port={server.port}", f"--username={server.username}"),
            server.path.lstrip("/"),
        ]
        password = {"PGPASSWORD": unquote(server.password or "")}
        super().__init__(command, password, log=folder / "pgbench.log", ok=(0, -signal.SIGTERM))

    async def transactions_per_second(self) -> float:
        """What it reached in all of its time; waits for its end."""
        return float(_found(r"^tps = ([\d.]+)", await self.ended()))

    async def latency_ms(self) -> float:
        """How long a transaction took on average; waits for its end."""
        return transaction_ms(await self.ended())

    def ends(self) -> dict[str, float]:
        """When each transaction ended (Unix time, seconds), by the client's number and its own: `3-17`; from 1 on.

        Ask after its end, with `note_each`.
        """
        return transaction_ends("".join(file.read_text() for file in self._transactions.parent.glob("transactions.*")))


class Services(Pgbench):
    """Services for load: their transactions change a row and enqueue into `table`; arguments as of Pgbench."""

    def __init__(
        self, folder: Path, dsn: str, topic: str, seconds: float, rate: float = 0, table: str = "outbox.event"
    ) -> None:
        script = SCRIPT.format(accounts=ACCOUNTS, table=table, topic=topic)
        super().__init__(folder, dsn, script, seconds, rate)


def transaction_ends(log: str) -> dict[str, float]:
    """From pgbench's log of transactions, a line each: client, number, duration, script, end (seconds, us), lag.

    Raises RuntimeError if one failed.
    """
    ends: dict[str, float] = {}
    numbers: Counter[str] = Counter()
    for line in log.splitlines():
        client, _, duration, _, seconds, microseconds, *_ = line.split()
        if not duration.isdigit():
            raise RuntimeError(f"a transaction of pgbench failed: {line}")
        numbers[client] += 1
        ends[f"{client}-{numbers[client]}"] = int(seconds) + int(microseconds) / 1e6
    return ends


def transaction_ms(log: str) -> float:
    """The average by pgbench's log, from when a transaction was begun.

    At a rate, pgbench's own average is from when it was due: the time that it waited for its client is subtracted.
    """
    average = float(_found(r"^latency average = ([\d.]+) ms", log))
    if "rate limit schedule lag" in log:
        average -= float(_found(r"^rate limit schedule lag: avg ([\d.]+)", log))
    return average


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"pgbench did not say what was asked:\n{text}")
    return found[1]
