"""The names of the headers that the relay adds to what it publishes. All begin with `outbox-`."""

from __future__ import annotations

EVENT_ID = "outbox-event-id"
ID = "outbox-id"
TYPE = "outbox-type"
CREATED_AT = "outbox-created-at"
"""When the event was written, in milliseconds since 1970 (UTC). Only if its record has another time than that."""
