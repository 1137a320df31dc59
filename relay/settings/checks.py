"""Checks of single values and of the Kafka security settings; no message of them contains a secret."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from relay.names import is_schema
from relay.text import plain, visible

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def kafka_security(kafka: Mapping[str, object]) -> list[str]:
    """Return a sentence for each of the Kafka group's security settings that do not fit together."""
    problems = []
    protocol = str(kafka["security_protocol"])

    def variables(names: list[str]) -> str:
        return ", ".join(f"RELAY_KAFKA_{name.upper()}" for name in names)

    sasl = ["sasl_mechanism", "sasl_username", "sasl_password"]
    ssl = ["ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_key_password"]
    sasl_given = [name for name in sasl if kafka[name] is not None]
    ssl_given = [name for name in ssl if kafka[name] is not None]

    if protocol.startswith("SASL_") and len(sasl_given) < len(sasl):
        missing = [name for name in sasl if name not in sasl_given]
        them = "it" if len(missing) == 1 else "them"
        problems.append(f"RELAY_KAFKA_SECURITY_PROTOCOL={protocol} needs {variables(missing)} too; set {them}")
    if not protocol.startswith("SASL_") and sasl_given:
        problems.append(
            f"{variables(sasl_given)} would have no effect with RELAY_KAFKA_SECURITY_PROTOCOL={protocol}; "
            "set the protocol to SASL_SSL (or SASL_PLAINTEXT), or remove what would have no effect"
        )
    if not protocol.endswith("SSL") and ssl_given:
        problems.append(
            f"{variables(ssl_given)} would have no effect with RELAY_KAFKA_SECURITY_PROTOCOL={protocol}; "
            "set the protocol to SSL or SASL_SSL, or remove what would have no effect"
        )
    elif kafka["ssl_certfile"] is None and (kafka["ssl_keyfile"] or kafka["ssl_key_password"]):
        given = [name for name in ssl[2:] if name in ssl_given]
        problems.append(f"{variables(given)} would have no effect without RELAY_KAFKA_SSL_CERTFILE; set it too")

    compression = kafka["compression"]
    if compression not in ("none", "gzip") and importlib.util.find_spec("cramjam") is None:
        problems.append(
            f"RELAY_KAFKA_COMPRESSION={compression} needs the package cramjam; "
            "install it with pip install 'outbox-relay[compression]', or choose none or gzip"
        )
    return problems
