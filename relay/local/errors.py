"""The errors of the embedded servers; each says what to do."""

from __future__ import annotations

from relay.errors import RelayError


class LocalServerError(RelayError):
    """An embedded server is not available, does not start, or does not stop."""


class MissingPartError(LocalServerError):
    """A part of the embedded servers is not on this machine and cannot be fetched."""

    exit_code = 2
