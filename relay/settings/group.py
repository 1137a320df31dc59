"""What all groups of settings have in common. Every field's description is its documentation.

A group `kafka` with a field `request_timeout` is set by the variable `RELAY_KAFKA_REQUEST_TIMEOUT`. Times are in
seconds, sizes in bytes. A stage is handed only its own group.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, le=1_000_000_000, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=2_147_483_647)]
LONGEST = 100_000_000_000
"""Seconds for which something may be kept. PostgreSQL has no time that is much further back."""
LARGEST = 1_099_511_627_776
"""Maximum of what is counted in bytes."""


def upper(value: object) -> object:
    """Text in capitals; anything else as it is, for pydantic to judge."""
    return value.upper() if isinstance(value, str) else value


def lower(value: object) -> object:
    """Text in small letters; anything else as it is, for pydantic to judge."""
    return value.lower() if isinstance(value, str) else value


class Group(BaseModel):
    """Base of the groups: frozen, complete, and silent about the values it refuses."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_by_name=True, validate_by_alias=True
    )
