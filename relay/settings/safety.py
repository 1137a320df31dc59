"""What the settings permit that a person should know of: secrets and events that others could read. Only warned about.

Addresses of this machine are no reason to warn: nobody else is on the way.
"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from relay.settings.secret import CommandSecret, open_to_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.settings.servers import KafkaSettings, PostgresSettings


def unsafe(postgres: PostgresSettings, kafka: KafkaSettings) -> list[str]:
    """Return a sentence for each setting that permits more than most operators want, without secrets."""
    return [*_of_postgres(postgres), *_of_kafka(kafka)]


def _of_postgres(settings: PostgresSettings) -> Iterator[str]:
    if isinstance(settings.dsn, CommandSecret):
        return
    parts = urlsplit(settings.dsn.get_secret_value())
    given = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if "sslmode" not in given and "ssl" not in given and not os.environ.get("PGSSLMODE"):
        hosts = given.get("host") or parts.netloc.rpartition("@")[2] or os.environ.get("PGHOST", "")
        if far := _elsewhere(hosts):
            yield (
                f"RELAY_POSTGRES_DSN has no sslmode, so the connection to {far} is not encrypted if the server does "
                "not offer it, and nobody proves who the server is; add sslmode=verify-full and sslrootcert, or "
                "sslmode=prefer if that is intended"
            )
    if key := given.get("sslkey"):
        yield from filter(None, [open_to_all("sslkey in RELAY_POSTGRES_DSN", key)])


def _of_kafka(settings: KafkaSettings) -> Iterator[str]:
    far = _elsewhere(settings.bootstrap_servers)
    if far and settings.security_protocol == "PLAINTEXT":
        yield (
            f"RELAY_KAFKA_SECURITY_PROTOCOL is PLAINTEXT: events go to {far} unencrypted, and nobody logs in; set SSL "
            "or SASL_SSL if others can reach that network"
        )
    elif far and settings.security_protocol == "SASL_PLAINTEXT":
        what = "events" if (settings.sasl_mechanism or "").startswith("SCRAM") else "the secret and all events"
        yield f"RELAY_KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT: {what} go to {far} unencrypted; set SASL_SSL"
    endpoint = settings.oauth_token_endpoint or ""
    if endpoint.startswith("http:") and (far := _elsewhere(urlsplit(endpoint).netloc)):
        yield (
            f"RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT begins with http: the client secret goes to {far} unencrypted; use https"
        )
    key = settings.ssl_keyfile or settings.ssl_certfile
    if key is not None and settings.ssl_key_password is None:
        name = "RELAY_KAFKA_SSL_KEYFILE" if settings.ssl_keyfile else "RELAY_KAFKA_SSL_CERTFILE"
        yield from filter(None, [open_to_all(name, key)])


def _elsewhere(hosts: str) -> str:
    """Return the first host of a list `host:port,...` that is not this machine; empty if all are."""
    for each in hosts.split(","):
        host = each.partition("]")[0].lstrip("[") if each.startswith("[") else each.partition(":")[0]
        if host and not host.startswith(("/", "@")) and not _is_here(host):
            return host
    return ""


def _is_here(host: str) -> bool:
    if host.rstrip(".").lower() in ("localhost", "ip6-localhost") or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
