"""The names of the headers that the relay adds to what it publishes, and the bounds on those of writers."""

from __future__ import annotations

PREFIX = "outbox-"
"""The prefix of the relay's own names. No writer's header may have it: consumers take the last header of a name."""

MAX_HEADERS = 256
"""Maximum number of headers of an event; the schema has these bounds, too."""

MAX_BYTES = 32_768
"""Maximum bytes of an event's headers, as the JSON text in which they are stored."""

EVENT_ID = "outbox-event-id"
ID = "outbox-id"
TYPE = "outbox-type"
CREATED_AT = "outbox-created-at"
"""The time at which the event was written, in milliseconds since 1970 (UTC). Only if its record has another time."""
