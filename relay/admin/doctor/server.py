"""Judges the server: its clock, its connections, its transactions, its vacuum."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from relay.admin.counts import counted
from relay.admin.doctor.check import Check
from relay.admin.doctor.configured import identifier
from relay.admin.times import duration
from relay.settings.checks import MASK
from relay.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.postgres.admin.configured import Limits
    from relay.postgres.admin.doctor import OldTransaction, Server, Starved

SKEW = 2.0
"""Seconds by which clocks may differ: tokens and certificates are checked by them, and ages are shown by them."""

PER_REPLICA = 8
"""Connections that a replica may hold, with the one for replays of delivered events."""

_SECRET_FOLLOWS = re.compile(r"(password|passwd|pwd|secret|token|://).*", re.IGNORECASE | re.DOTALL)
"""As in ALTER ROLE ... PASSWORD '...', CREATE SUBSCRIPTION with a DSN, or dblink."""

SOON = 14 * 86_400.0
"""Seconds before a password ends from which on that is worth a word."""


def of_server(server: Server, now: float) -> Iterator[Check]:
    """Judge the server; `now` is our time when its clock was read."""
    way = "with TLS" if server.encrypted else "without TLS"
    yield Check("postgres", "ok", f"PostgreSQL {server.version} answers {server.role}, {way}")
    if server.far and not server.encrypted:
        yield Check(
            "postgres",
            "warning",
            "the connection to PostgreSQL is not encrypted",
            "others on that network can read events and passwords",
            "add sslmode=verify-full and sslrootcert to RELAY_POSTGRES_DSN",
        )
    if not server.sees_others:
        yield Check(
            "postgres",
            "ok",
            f"{server.role} may not see when transactions of other roles began, so old ones are not looked for",
            do=f"to have them found, run this as another role, or as an administrator run GRANT pg_read_all_stats TO "
            f"{identifier(server.role)}",
        )
    skew = server.clock - now
    if abs(skew) > SKEW:
        yield Check(
            "postgres",
            "warning",
            f"PostgreSQL's clock is {duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine's",
            "ages are wrong, and certificates and tokens may be refused",
            "synchronise both clocks (NTP)",
        )
    if not server.autovacuum:
        yield Check(
            "postgres",
            "problem",
            "autovacuum is off",
            "tables grow without end, and in the end PostgreSQL takes no more writes",
            "set autovacuum and track_counts to on",
        )


def of_limits(limits: Limits) -> Iterator[Check]:
    """Judge whether all replicas, and one more during an upgrade, can have their connections."""
    left = limits.usable - limits.in_use
    if left < PER_REPLICA:
        yield Check(
            "postgres",
            "warning",
            f"{limits.in_use} of {limits.usable} connections are in use",
            f"a replica takes {PER_REPLICA}; {counted(limits.replicas, 'replica')} "
            f"{'is' if limits.replicas == 1 else 'are'} alive, and an upgrade adds one",
            "raise max_connections, or put a pooler in session mode in front of the services",
        )
    needed = PER_REPLICA * (limits.replicas + 1)
    given = (("ROLE", limits.role, limits.role_limit), ("DATABASE", limits.database, limits.database_limit))
    for kind, name, limit in given:
        if 0 <= limit < needed:
            yield Check(
                "postgres",
                "warning",
                f"the {kind.lower()} {name} may have {counted(limit, 'connection')}",
                f"{counted(limits.replicas, 'replica')}, and one more during an upgrade, take {needed}",
                f"as an administrator, run ALTER {kind} {identifier(name)} CONNECTION LIMIT {needed} "
                "(more, if others use it too), or -1 for no limit",
            )
    if limits.valid_seconds is not None and limits.valid_seconds < SOON:
        yield Check(
            "postgres",
            "warning",
            f"the password of the role {limits.role} is valid for {duration(limits.valid_seconds)} more",
            "after that, no connection is made with it",
            "give it a new one, and as an administrator run "
            f"ALTER ROLE {identifier(limits.role)} VALID UNTIL 'infinity'",
        )


def _without_secrets(query: str) -> str:
    """Return a statement of somebody else as far as the first word behind which a secret may stand."""
    return _SECRET_FOLLOWS.sub(rf"\1 {MASK}", query)


def of_starved(table: Starved, schema: str) -> Check:
    """Judge a table that autovacuum does not come to."""
    name = f"{schema}.{table.name}"
    return Check(
        "outbox",
        "warning",
        f"the table {table.name} has {table.dead:,} dead rows and was not vacuumed for {duration(table.seconds)}",
        "statements on it become slower; autovacuum does not come to it, or an old transaction holds the rows",
        f"end old transactions, then run VACUUM {name}; if that repeats, raise autovacuum_max_workers or lower "
        f"autovacuum_vacuum_cost_delay for it: ALTER TABLE {name} SET (autovacuum_vacuum_cost_delay = 0)",
    )


def of_transaction(transaction: OldTransaction) -> Check:
    """Judge an old transaction."""
    who = f"session {transaction.pid}" if transaction.pid is not None else f"prepared transaction {transaction.gid!r}"
    about = ", ".join(filter(None, (transaction.role, transaction.application, transaction.state)))
    runs = f": {one_line(_without_secrets(transaction.query))}" if transaction.query else ""
    end = (
        f"SELECT pg_terminate_backend({transaction.pid})"
        if transaction.pid is not None
        else f"ROLLBACK PREPARED {literal(transaction.gid or '')}, once its owner has agreed"
    )
    lasts = duration(transaction.seconds)
    if transaction.took_ids:
        has = f"has uncommitted events, in a transaction that began {lasts} ago"
        means = (
            "its events wait until it commits; when it ends, the relay reads the ids since then again "
            "(relay_floor_lag_seconds); no segment is made or dropped meanwhile"
        )
    else:
        has = f"has been in a transaction for {lasts}"
        means = "while it lasts no segment is made or dropped, and nothing is vacuumed"
    return Check(
        "postgres",
        "warning",
        f"{one_line(who)} ({one_line(about)}) {has}{runs}",
        means,
        f"if it is no longer needed: {end}",
    )


def literal(text: str) -> str:
    """Write text as a literal of SQL, in one line."""
    return "'" + one_line(text).replace("'", "''") + "'"
