"""Tells when the certificates in files end, for an alert before that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.settings.certificates import end_of, files

if TYPE_CHECKING:
    from relay.settings import Settings
    from relay.telemetry import Telemetry

INTERVAL = 60.0
"""Seconds between looks: a certificate that was renewed ends its alert soon."""


async def watch_certificates(settings: Settings, telemetry: Telemetry, interval: float = INTERVAL) -> None:
    """Look for ever. A file that cannot be read just now keeps the date that it had."""
    known: dict[str, float] = {}
    while True:
        known |= await asyncio.to_thread(_look, settings)
        telemetry.gauges("certificate_expiry_timestamp_seconds", "certificate", known)
        await asyncio.sleep(interval)


def _look(settings: Settings) -> dict[str, float]:
    found: dict[str, float] = {}
    for what, path in files(settings.postgres, settings.kafka).items():
        try:
            found[what] = end_of(what, path)
        except (OSError, ValueError):
            # Connecting says what is wrong with it.
            continue
    return found
