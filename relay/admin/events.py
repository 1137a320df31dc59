"""Everything about one event, whatever its state."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, NamedTuple

from relay.admin.actions import report
from relay.admin.not_replayable import state_of, unknown
from relay.errors import RefusedError
from relay.keys import key_text
from relay.postgres.admin.failures import FailureFilter

if TYPE_CHECKING:
    from relay.postgres.admin.failures import Failures
    from relay.postgres.admin.rows import Action, Blocker, EventDetails

_FIRST_HELD = 10


class FoundEvent(NamedTuple):
    """An event and what surrounds it."""

    event: EventDetails
    holds_back: int | None
    """Events behind it; None if counting took too long."""
    first_held: list[int]
    behind: Blocker | None
    """What a held event waits for; None if it waits for its topic."""
    action: Action | None

    @property
    def state(self) -> str:
        """Its state."""
        return state_of(self.event.state, delivered=self.event.kafka_partition is not None, held=self.event.held)

    def report(self) -> dict[str, object]:
        """Return all of it for machines."""
        event = self.event
        return {
            **event._asdict(),
            "state": self.state,
            "key": None if event.key is None else key_text(event.key),
            "headers": json.loads(event.headers),
            "payload": _payload(event.payload),
            "history": json.loads(event.history or "[]"),
            "action": None if self.action is None else report(self.action),
            "holds_back": {"events": self.holds_back, "first": self.first_held},
            "held_behind": None if self.behind is None else self.behind._asdict(),
        }


async def find_event(failures: Failures, event_id: int, payload_bytes: int) -> FoundEvent:
    """Find an event, with the first `payload_bytes` of its payload. Raises RefusedError if there is none."""
    event = await failures.event(event_id, payload_bytes)
    if event is None:
        raise RefusedError(unknown(event_id, await failures.id_range()))
    place = event.lane, event.id, event.topic, event.key
    if event.state is None:
        return FoundEvent(event, 0, [], await failures.behind(*place) if event.held else None, None)
    await failures.finish_replays()
    actions = [] if event.action is None else await failures.actions(1, only=event.action)
    holds_back = await failures.held_back(FailureFilter(ids=(event.id,)))
    first = await failures.first_held(*place, _FIRST_HELD) if holds_back != 0 else []
    return FoundEvent(event, holds_back, first, None, actions[0] if actions else None)


def _payload(payload: bytes | None) -> dict[str, str] | None:
    if payload is None:
        return None
    try:
        return {"encoding": "utf-8", "data": payload.decode()}
    except UnicodeDecodeError:
        return {"encoding": "base64", "data": base64.b64encode(payload).decode("ascii")}
