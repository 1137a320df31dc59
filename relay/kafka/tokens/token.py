"""A token: how long it is good, and what may be said of it. Its text is a secret; its claims are not."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import KafkaError

from relay.text import clip, one_line

_MOST_OF_A_CLAIM = 100
"""Maximum characters of a claim that are shown."""


class TokenError(KafkaError):
    """No token can be had now, or the broker refuses the one that there is.

    A subclass of Kafka's errors, so that aiokafka takes it for a failed connection and tries again.
    """

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Token:
    """A token as a provider gave it. Times are seconds since 1970."""

    text: str = field(repr=False)
    begins: float
    """When it was got."""
    ends: float | None
    """When it expires; None if that cannot be known."""

    @classmethod
    def of(cls, text: str, now: float, ends: float | None = None) -> Token:
        """Return the token of this text; the text says itself when a JWT expires. Raises ValueError if it is unfit."""
        if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", text):
            raise ValueError("is not a token: it has characters that no token has (RFC 6750)")
        # Of a token endpoint's word and the token's own, the earlier counts.
        known = [end for end in (ends, _expiry(text)) if end is not None]
        return cls(text, now, min(known, default=None))

    def described(self, now: float) -> str:
        """Return whose token it is, for whom, and how long it is good, as far as a JWT says so; else an empty text."""
        found = claims(self.text)
        told = [f"{name} {_shown(found[claim])}" for claim, name in _TOLD.items() if claim in found]
        if self.ends is not None:
            left = self.ends - now
            told.append(f"expires in {left:.0f} s" if left >= 0 else f"expired {-left:.0f} s ago")
        return ", ".join(told)


def _expiry(text: str) -> float | None:
    expires = claims(text).get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 < expires < _NEVER:
        return None
    return float(expires)


_NEVER = 1e11
"""The year 5138, in seconds since 1970: no token means it."""

_TOLD = {"iss": "issuer", "aud": "audience", "sub": "subject", "scope": "scope"}


def claims(text: str) -> dict[str, Any]:
    """Return the claims of a JWT, which nobody has verified; none if the text is not a JWT."""
    parts = text.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown(claim: object) -> str:
    text = " ".join(map(str, claim)) if isinstance(claim, list) else str(claim)
    return clip(one_line(text), _MOST_OF_A_CLAIM)
