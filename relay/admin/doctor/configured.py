"""Judges what a server, a database or a role was set to.

The relay's own sessions set all that they rest on, whatever they began with. What hurts is what they cannot set in
time, and what services have when they enqueue.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.admin.doctor.check import Check, State
from relay.postgres.admin.configured import Configured
from relay.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

SHORT_MS = 1_000.0
"""A time-out below that may end a session before the relay has set its own: its first answer takes that long on a busy
server, or over a slow line."""

_UNITS = {"us": 0.001, "": 1.0, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}


@dataclass(frozen=True, slots=True)
class Rule:
    """When a setting hurts, and whom."""

    hurts: Callable[[str], bool]
    good: str
    """The value that a statement gives it where it is set for the whole server."""
    means: str
    state: State = "warning"
    first: str = ""
    """What has to be run before the statement that mends it."""
    writers: bool = True
    """Whether services are hurt; the relay's own sessions otherwise."""


def _on(value: str) -> bool:
    return value.lower() in ("on", "true", "yes", "1")


def _off(value: str) -> bool:
    return value.lower() in ("off", "false", "no", "0")


def _short(value: str) -> bool:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", value)
    return match is not None and 0 < float(match[1]) * _UNITS.get(match[2], 1.0) < SHORT_MS


def _shadows(value: str) -> bool:
    """Return whether a schema stands before pg_catalog, which is first where the path does not name it."""
    return "pg_catalog" in [each.strip(' "') for each in value.split(",")][1:]


_ENDS = Rule(_short, "0", "sessions of the relay may be ended before they have set their own limit", writers=False)

RULES: dict[str, Rule] = {
    "default_transaction_read_only": Rule(
        _on,
        "off",
        "services cannot enqueue: their transactions are read only",
        state="problem",
        first="SET default_transaction_read_only = off; ",
    ),
    "synchronous_commit": Rule(
        _off,
        "on",
        "after a crash of the server, an event may be in Kafka whose transaction is lost with what it changed",
    ),
    "session_replication_role": Rule(
        lambda value: value.lower() == "replica",
        "origin",
        "triggers do not run: outbox.capture() makes no events of changes",
    ),
    "search_path": Rule(
        _shadows,
        """'"$user", public'""",
        "whoever may create in a schema before pg_catalog can have services run code of his in their names",
    ),
    "track_activities": Rule(_off, "on", "nobody sees for how long a session has held up the outbox"),
    "statement_timeout": _ENDS,
    "transaction_timeout": _ENDS,
    "idle_in_transaction_session_timeout": _ENDS,
    "idle_session_timeout": _ENDS,
}


def of_configured(found: Sequence[Configured], server: Iterable[tuple[str, str]]) -> Iterator[Check]:
    """Judge what is set for roles and databases, and for the server where none of these says otherwise."""
    # PostgreSQL keeps a name as it was written.
    found = [each._replace(name=each.name.lower()) for each in found]
    said = {each.name for each in found if each.ours}
    general = (Configured(None, None, name, value, True, True) for name, value in server if name not in said)
    for each in [*found, *general]:
        rule = RULES[each.name]
        if (each.writers if rule.writers else each.ours) and rule.hurts(each.value):
            yield Check(
                "postgres",
                rule.state,
                f"{each.name} is {one_line(each.value)} {_where(each)}",
                rule.means,
                f"as an administrator, run {rule.first}{_mend(each, rule)}",
            )


def _where(each: Configured) -> str:
    if each.role is None:
        return "for the whole server" if each.database is None else f"for the database {each.database}"
    return f"for the role {each.role}" + ("" if each.database is None else f" in the database {each.database}")


def _mend(each: Configured, rule: Rule) -> str:
    if each.role is None and each.database is None:
        return f"ALTER SYSTEM SET {each.name} = {rule.good}; SELECT pg_reload_conf()"
    if each.role is None:
        return f"ALTER DATABASE {identifier(each.database)} RESET {each.name}"
    within = "" if each.database is None else f" IN DATABASE {identifier(each.database)}"
    return f"ALTER ROLE {identifier(each.role)}{within} RESET {each.name}"


def identifier(name: str | None) -> str:
    """Write a name of PostgreSQL's as a statement needs it."""
    text = name or ""
    return text if re.fullmatch(r"[a-z_][a-z0-9_]*", text) else '"' + text.replace('"', '""') + '"'
