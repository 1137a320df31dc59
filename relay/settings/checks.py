"""Checks of single values; no message of them contains a secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from relay.names import is_schema
from relay.text import plain, visible

if TYPE_CHECKING:
    from pydantic import SecretStr

LEASE_MARGIN = 2.0
"""Seconds by which the lease must outlive a Kafka request: slack for the clocks and for delays of the event loop."""

MASK = "********"
_DSN_EXAMPLE = "postgresql://user:password@host:5432/database"
_BROKER_ADVICE = "write each broker as host:port, for example broker-1:9092"
_SECRET_PARAMETERS = frozenset({"password", "sslpassword"})


def dsn(value: SecretStr) -> SecretStr:
    """Return the DSN unchanged; raise ValueError, without any part of the DSN, if it is not a PostgreSQL URI."""
    text = value.get_secret_value()
    scheme, separator, _ = text.partition("://")
    if separator and re.search(r"\s", text):
        raise ValueError("contains white space or a line end; remove it, or write a space of the password as %20")
    if not separator and re.search(r"(^|\s)\w+\s*=", text):
        raise ValueError(f"is in the key=value form, which is not supported; write it as {_DSN_EXAMPLE}")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise ValueError(f"must begin with postgresql://; write it as {_DSN_EXAMPLE}")
    try:
        parts = urlsplit(text)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        sane = all(_host_and_port(host, port_needed=False) for host in hosts if host or len(hosts) > 1)
    except ValueError:
        sane = False
    if not sane or "@" in parts.path + parts.query + parts.netloc.rpartition("@")[0]:
        raise ValueError(
            f"has a host or port that cannot be read; write it as {_DSN_EXAMPLE}, with special characters of "
            "the password percent-encoded (@ is %40, / is %2F, # is %23, ? is %3F, : is %3A)"
        )
    if parts.fragment:
        raise ValueError("contains a #; if it belongs to the password, write it as %23")
    return value


def mask_dsn(text: str) -> str:
    """Return the DSN with its passwords replaced, fit for a person to see where it points."""
    parts = urlsplit(text)
    userinfo, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    netloc = f"{user}{colon}{MASK if colon else ''}{at}{hosts}"
    query = "&".join(
        f"{name}={MASK if name.lower() in _SECRET_PARAMETERS else value}"
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    return f"{parts.scheme}://{netloc}{parts.path}{'?' + query if query else ''}"


def has_password(value: SecretStr) -> bool:
    """Return whether the DSN has a password."""
    parts = urlsplit(value.get_secret_value())
    named = {name.lower() for name, text in parse_qsl(parts.query, keep_blank_values=True) if text}
    return bool(parts.password) or "password" in named


def visible_name(value: str) -> str:
    """Return the name unchanged; raise ValueError if a reader would not see what it is."""
    if not visible(value):
        raise ValueError(
            f"is {plain(value)}, which contains control characters or invisible ones; use visible characters only"
        )
    return value


def schema_name(value: str) -> str:
    """Return the name unchanged; raise ValueError if it would need quoting in SQL."""
    if not is_schema(value):
        raise ValueError(
            "must be a plain schema name: lower-case letters, digits and _, not beginning with a digit "
            "or pg_, at most 63 characters"
        )
    return value


def bootstrap_servers(value: str) -> str:
    """Return `host:port` pairs without spaces; raise ValueError if one of them is not such a pair."""
    servers = [server.strip() for server in value.split(",") if server.strip()]
    for server in servers:
        if "@" in server:
            # Not quoted: a password may stand before it.
            raise ValueError(
                f"contains a broker with a user or a password; {_BROKER_ADVICE}, and log in by RELAY_KAFKA_SASL_..."
            )
        if not _host_and_port(server, port_needed=True):
            raise ValueError(f"contains {server!r}; {_BROKER_ADVICE}")
    if not servers:
        raise ValueError(f"does not name a broker; {_BROKER_ADVICE}")
    return ",".join(servers)


def _host_and_port(text: str, *, port_needed: bool) -> bool:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]@]+)?(?::([0-9]{1,5}))?", text)
    if match is None or (match[1] is None and (port_needed or match[2] is None)):
        return False
    return 1 <= int(match[2]) <= 65_535 if match[2] else not port_needed


def token_endpoint(value: str | None) -> str | None:
    """Return the URL unchanged; raise ValueError if no token can be asked for there."""
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        sane = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sane = False
    if not sane or re.search(r"\s", value):
        raise ValueError("is not the URL of a token endpoint; write it as https://host/path")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("contains a user name or a fragment; leave it out, the client id and secret have settings")
    return value


def aws_region(value: str | None) -> str | None:
    """Return the region unchanged; raise ValueError if it would not be one: it becomes part of a host name."""
    if value is not None and not re.fullmatch(r"[a-z]{2,}(-[a-z0-9]+)+", value):
        raise ValueError("is not an AWS region; write it like eu-west-1")
    return value


def pairs(value: str | None) -> str | None:
    """Return the pairs unchanged; raise ValueError if they are not `name=value,...`."""
    as_pairs(value)
    return value


def as_pairs(value: str | None) -> dict[str, str]:
    """Return the pairs of `name=value,...` with their percent signs decoded; raises ValueError."""
    found: dict[str, str] = {}
    for pair in filter(None, (each.strip() for each in (value or "").split(","))):
        name, separator, text = (part.strip() for part in pair.partition("="))
        if not name or not separator:
            # Not quoted: it may be a secret that contains a comma.
            raise ValueError("is not a list of pairs; write name=value,name=value, with a comma inside a value as %2C")
        found[unquote(name)] = unquote(text)
    return found


def sasl_extensions(value: str | None) -> str | None:
    """Return the pairs unchanged; raise ValueError if RFC 7628 does not allow one of them."""
    for name, text in as_pairs(value).items():
        if not re.fullmatch(r"[A-Za-z]+", name) or name == "auth":
            raise ValueError(f"contains the name {name!r}; names of SASL extensions are letters, and not auth")
        if not re.fullmatch(r"[\x20-\x7e\t\r\n]*", text):
            raise ValueError(f"contains a value of {name} with characters that are not ASCII")
    return value
