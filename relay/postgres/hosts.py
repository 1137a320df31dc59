"""A DSN with several hosts: a primary and its standbys, in any order, tried one by one until one is the primary."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from relay.errors import PostgresLostError
from relay.postgres.dsn import prepared
from relay.postgres.errors import connecting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg


def one_by_one(dsn: str) -> list[str]:
    """A DSN for each of its hosts.

    Where there are several, each asks for the primary, unless the DSN says what it wants.
    """
    parts = urlsplit(dsn)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [dsn]
    query = parts.query
    if "target_session_attrs" not in dict(parse_qsl(query, keep_blank_values=True)):
        query = f"{query}&target_session_attrs=primary".lstrip("&")
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=query)) for host in hosts.split(",")]


async def connect_to_primary(
    dsn: str, connect: Callable[[str], Awaitable[asyncpg.Connection]]
) -> tuple[asyncpg.Connection, str]:
    """Connect to the first host that is there and fits; returns the connection, and the DSN that leads to that host.

    Each host gets the whole timeout of `connect`, and one that answers with an error is not the last word. (asyncpg's
    own search gives all hosts together one timeout, so that a machine that is switched off hides those behind it.)
    Raises what the last host failed with when waiting may help, and at once what takes a person.
    """
    *others, last = one_by_one(prepared(dsn))
    for each in others:
        try:
            with connecting():
                return await connect(each), each
        except PostgresLostError:
            continue
    with connecting():
        return await connect(last), last
