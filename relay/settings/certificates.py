"""The certificates that the settings name, and when they end. Reads nothing of them but that date."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from relay.errors import SettingsError
from relay.settings.secret import CommandSecret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.settings.servers import KafkaSettings, PostgresSettings

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_LENGTH_FOLLOWS = 0x80
_VERSION, _UTC_TIME = 0xA0, 0x17


def files(postgres: PostgresSettings | None, kafka: KafkaSettings | None) -> dict[str, Path]:
    """Return the files of certificates, by what they are for: `kafka client`, `kafka authority`, `postgres client`...

    A DSN that a command prints is left out: it would have to be run for that.
    """
    found: dict[str, Path | None] = {}
    if kafka is not None and kafka.security_protocol.endswith("SSL"):
        found |= {"kafka client": kafka.ssl_certfile, "kafka authority": kafka.ssl_cafile}
    if kafka is not None:
        found["token endpoint authority"] = kafka.oauth_cafile
    if postgres is not None:
        found |= {
            "postgres client": _of_dsn(postgres, "sslcert"),
            "postgres authority": _of_dsn(postgres, "sslrootcert"),
        }
    return {what: path for what, path in found.items() if path is not None}


def end_of(what: str, path: Path) -> float:
    """Return when the certificate is of no use any more, in seconds since 1970.

    A client's certificate ends with the first of its chain. Of several authorities the last one counts: they are in one
    file while one replaces another. Raises OSError if the file cannot be read, and ValueError if it has none.
    """
    found = [_end(ssl.PEM_cert_to_DER_cert(block)) for block in _BLOCK.findall(path.read_text("latin-1"))]
    if not found:
        raise ValueError(f"{path} has no certificate (PEM)")
    return max(found) if what.endswith("authority") else min(found)


def _of_dsn(settings: PostgresSettings, name: str) -> Path | None:
    if isinstance(settings.dsn, CommandSecret):
        return None
    try:
        given = parse_qs(urlsplit(settings.dsn.get_secret_value()).query).get(name, [""])[-1]
    except (SettingsError, ValueError):
        # Connecting says why.
        return None
    return Path(given) if given and given != "system" else None


def _end(der: bytes) -> float:
    """Return notAfter of a certificate: Certificate, tbsCertificate, behind version, serial, algorithm and issuer."""
    try:
        ((_, certificate),) = _elements(der)
        _, signed = next(_elements(certificate))
        fields = [element for element in _elements(signed) if element[0] != _VERSION]
        _, (kind, text) = _elements(fields[3][1])
    except (IndexError, ValueError, StopIteration):
        raise ValueError("the dates of a certificate cannot be read") from None
    # 99 means 1999, and 49 means 2049: as strptime does it up to 68, and what ends later has four digits.
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield pairs (tag, content) of the DER elements that follow each other."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & _LENGTH_FOLLOWS:
            size = length & ~_LENGTH_FOLLOWS
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        yield tag, data[at : at + length]
        at += length
