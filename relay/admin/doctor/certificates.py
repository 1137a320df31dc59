"""Judges when the certificates in files end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from relay.admin.doctor.check import Check
from relay.admin.times import duration
from relay.settings.certificates import end_of, files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.settings import KafkaSettings, PostgresSettings

SOON = 14 * 86_400.0
"""Seconds before its end from which on a certificate is worth a word; the alert has the same."""


def of_certificates(postgres: PostgresSettings, kafka: KafkaSettings | None, now: float) -> Iterator[Check]:
    """Look at the files that the settings name; `now` is in seconds since 1970."""
    for what, path in files(postgres, kafka).items():
        try:
            end = end_of(what, path)
        except (OSError, ValueError):
            # Connecting says what is wrong with it.
            continue
        date = datetime.fromtimestamp(end, UTC).date()
        if end <= now:
            means, do = "connections that need it are refused", f"replace {path}; it is read again"
            yield Check("settings", "problem", f"the certificate of the {what} ended on {date}", means, do)
        elif end < now + SOON:
            means, do = "after that, connections that need it are refused", f"replace {path}; it is read again"
            left = duration(end - now)
            yield Check("settings", "warning", f"the certificate of the {what} ends in {left}, on {date}", means, do)
