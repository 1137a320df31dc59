"""RELAY_POSTGRES_DSN in the form that asyncpg takes: what libpq's tools accept works, or is refused in one line.

asyncpg knows about half of libpq's parameters. The others it would ask the server for as settings, and that refuses the
connection. No message quotes more of the DSN than a parameter's name: any part of it may be a secret that was
written without its percent signs.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from relay.errors import PostgresLostError, SettingsError
from relay.settings.secret import reveal

if TYPE_CHECKING:
    from relay.settings import PostgresSettings

_NAME = "RELAY_POSTGRES_DSN"
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

_IGNORED = frozenset(
    {
        # About the socket: a dead server is found by heartbeats and statement timeouts.
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        # RELAY_POSTGRES_CONNECT_TIMEOUT and the relay's own names and encoding hold.
        *("connect_timeout", "application_name", "fallback_application_name", "client_encoding"),
        *("sslcompression", "sslsni", "sslkeylogfile", "sslcertmode", "gssdelegation", "load_balance_hosts"),
        *("min_protocol_version", "max_protocol_version"),
    }
)
"""Accepted without effect: nothing becomes less safe without them."""

_HARMLESS: dict[str, frozenset[str]] = {
    "channel_binding": frozenset({"", "disable", "prefer"}),
    "gssencmode": frozenset({"", "disable", "prefer"}),
    "replication": frozenset({"", "false", "off", "no", "0"}),
    "requiressl": frozenset({"", "0"}),
    "require_auth": frozenset({""}),
    "requirepeer": frozenset({""}),
}
"""Accepted without effect for these values. Others ask for a safety that the client cannot give."""

_INSTEAD = {
    "channel_binding": "leave it out, and set sslmode=verify-full with sslrootcert, which proves who the server is",
    "gssencmode": "leave it out, and set sslmode=verify-full with sslrootcert",
    "requiressl": "write sslmode=require",
}


async def login(settings: PostgresSettings) -> str:
    """The DSN with the password of RELAY_POSTGRES_PASSWORD if that is set, read or run now.

    Raises SettingsError, without any part of a secret, if a file or a command does not give it.
    """
    dsn = await reveal(settings.dsn)
    if settings.password is None:
        return dsn
    # As a parameter: a DSN may have neither user nor host.
    password = quote(await reveal(settings.password), safe="")
    return f"{dsn.rstrip('?&')}{'&' if urlsplit(dsn).query else '?'}password={password}"


def prepared(dsn: str) -> str:
    """The DSN for asyncpg. Raises SettingsError for what it cannot do, and PostgresLostError for a file that is not
    there, which may be mounted yet."""
    try:
        return _prepared(dsn)
    except ValueError:
        # Its text may quote a password.
        raise SettingsError(
            f"{_NAME} cannot be read; write it as postgresql://user:password@host:5432/database?name=value&name=value"
        ) from None


def _prepared(dsn: str) -> str:
    parts = urlsplit(dsn)
    if not parts.query:
        return dsn
    given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
    wanted = {name: value for name, value in given.items() if _is_wanted(name, value)}
    if wanted.pop("ssl", "").lower() == "true":
        wanted.setdefault("sslmode", "require")
    netloc = _address(parts.netloc, wanted)
    _system_authorities(wanted)
    _check_files(wanted)
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(wanted, quote_via=quote)))


def _is_wanted(name: str, value: str) -> bool:
    if name in _IGNORED:
        return False
    if name not in _HARMLESS:
        return True
    if value.lower() in _HARMLESS[name]:
        return False
    what = f"{name}={value}" if value.isalpha() else name
    instead = _INSTEAD.get(name, "leave it out")
    raise SettingsError(f"{_NAME} asks for {what}, which the relay's PostgreSQL client cannot do; {instead}")


def _address(netloc: str, wanted: dict[str, str]) -> str:
    """The part with the hosts; hostaddr, where to go whatever the host's name is, is no parameter of asyncpg."""
    address = wanted.pop("hostaddr", "")
    if not address:
        return netloc
    credentials, at, hosts = netloc.rpartition("@")
    if "," in hosts + address or wanted.get("sslmode") == "verify-full":
        raise SettingsError(
            f"{_NAME} has hostaddr, which works neither with several hosts nor with sslmode=verify-full; leave it out"
        )
    _, colon, port = hosts.rpartition("]")[2].rpartition(":")
    return f"{credentials}{at}{f'[{address}]' if ':' in address else address}{colon}{port if colon else ''}"


def _system_authorities(wanted: dict[str, str]) -> None:
    if wanted.get("sslrootcert") != "system":
        return
    known = ssl.get_default_verify_paths().cafile
    if known is None:
        raise SettingsError(
            f"{_NAME} has sslrootcert=system, and this system has no file of certificate authorities; "
            "name one in sslrootcert"
        )
    wanted["sslrootcert"] = known
    wanted.setdefault("sslmode", "verify-full")


def _check_files(wanted: dict[str, str]) -> None:
    for name in _FILES:
        if path := wanted.get(name):
            try:
                Path(path).open("rb").close()
            except OSError as error:
                raise PostgresLostError(
                    f"{name} in {_NAME} is {path}, which cannot be read: {_why(error)}; put the file there, or "
                    "correct the path"
                ) from None


def _why(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__
