"""The names of the headers that the relay adds to what it publishes, and the bounds on those of writers."""

from __future__ import annotations

PREFIX = "outbox-"
"""The prefix of the relay's own names. No writer's header may have it: consumers take the last header of a name."""

MAX_HEADERS = 256
"""Maximum number of headers of an event; the schema has these bounds, too."""

MAX_BYTES = 32_768
"""Maximum bytes of an event's headers, as the JSON text in which they are stored."""

EVENT_ID = "outbox-event-id"
"""The event's UUID, which its writer chose or had made: what a consumer drops repeats by."""
ID = "outbox-id"
"""The number that the sequence gave it, which grows within a key."""
TYPE = "outbox-type"
"""What happened, if its writer named it."""
CREATED_AT = "outbox-created-at"
"""The time at which the event was written, in milliseconds since 1970 (UTC). Only if its record has another time."""

REPLAY = "outbox-replay"
"""The number of the action by which a person had a delivered event published again; the statement adds it."""
REPLAY_TOPIC = "outbox-replay-topic"
"""The event's own topic, if the replay goes to another one."""
REPLAY_GROUP = "outbox-replay-group"
"""The consumer group that the replay is meant for, if it is for one: consumers of others skip the record."""

DEAD_LETTER_TOPIC = "outbox-dead-letter-topic"
"""Where the event of a dead letter was to go."""
DEAD_LETTER_PARTITION = "outbox-dead-letter-partition"
"""The partition of that topic; -1 when no event may go there at all."""
DEAD_LETTER_ERROR = "outbox-dead-letter-error"
"""Why it did not."""
