"""The names of the headers that the relay adds to what it publishes, and the bounds on those of writers."""

from __future__ import annotations

PREFIX = "outbox-"
"""All of the relay's own names begin with it, and none of a writer's may: consumers take the last header of a name."""

MAX_HEADERS = 256
"""Of an event; the schema has these bounds, too."""

MAX_BYTES = 32_768
"""Of an event's headers, as the JSON text in which they are stored."""

EVENT_ID = "outbox-event-id"
ID = "outbox-id"
TYPE = "outbox-type"
CREATED_AT = "outbox-created-at"
"""When the event was written, in milliseconds since 1970 (UTC). Only if its record has another time than that."""
