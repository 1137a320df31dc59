"""Keys: the lane of each, and how people read and write them."""

from __future__ import annotations

from hashlib import sha256

from relay.text import visible

LANES = 16
"""Number of lanes, fixed by the generated column `outbox.event.lane`."""

HEX = "hex:"
"""Begins a key that is written as hexadecimal digits, because it is not readable text."""


def key_text(key: bytes) -> str:
    """Write a key as text; `key_bytes` gives it back."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return HEX + key.hex()
    return text if text and visible(text) and not text.startswith(HEX) else HEX + key.hex()


def key_bytes(text: str) -> bytes:
    """Return the key that is written as `text`. Raises ValueError if what follows `hex:` is not hexadecimal."""
    return bytes.fromhex(text.removeprefix(HEX)) if text.startswith(HEX) else text.encode()


def lane_of_key(key: bytes) -> int:
    """Return the lane of the key's events, as the generated column `outbox.event.lane` computes it."""
    return sha256(key).digest()[0] % LANES
