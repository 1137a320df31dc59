"""What can go wrong with the embedded servers, in words that say what to do."""

from __future__ import annotations

from relay.errors import RelayError


class LocalServerError(RelayError):
    """An embedded server cannot be had, does not start, or does not stop."""


class MissingPartError(LocalServerError):
    """A piece that the embedded servers are made of is not on this machine and cannot be fetched."""

    exit_code = 2
