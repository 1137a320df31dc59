"""Topics as people look at them, pause and resume them; only the relays act on it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from relay.admin.times import duration
from relay.errors import RefusedError
from relay.names import LONGEST_TOPIC, is_topic
from relay.postgres.admin.topics import TopicState, ask_topics, read_paused, read_topics
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.admin.connection import Outbox
    from relay.decide.held_back import PausedTopic
    from relay.postgres.admin.topics import Topics


def parse_topic_name(text: str) -> str:
    """Read the whole name of a topic. Raises ValueError."""
    if is_topic(text):
        return text
    if "*" in text:
        raise ValueError(f"{text!r} is a pattern; name each topic, `relay topics` lists them")
    raise ValueError(
        f"{text!r} is not a topic name; topics have up to {LONGEST_TOPIC} letters, digits and the characters . _ -"
    )


async def look_at_topics(outbox: Outbox) -> Topics:
    """Read all topics for which there is something to tell, those that need a person's eye first."""
    found = await read_topics(outbox.connection, outbox.schema)
    found.topics.sort(
        key=lambda each: (
            each.trouble is None,
            each.paused is None,
            -(each.pending + each.held + each.failed),
            each.topic,
        )
    )
    return found


async def pause_topics(outbox: Outbox, topics: Sequence[str], *, seconds: float, reason: str, who: str) -> list[str]:
    """Ask that the topics' events be held back for so many seconds.

    Returns what to warn of, a line each: a name that no event has had lately is perhaps a typing error.
    """
    known = [each.topic for each in (await read_topics(outbox.connection, outbox.schema)).topics]
    await ask_topics(outbox.connection, outbox.schema, topics, seconds=seconds, reason=reason, requested_by=who)
    return [_unknown(topic, known) for topic in topics if topic not in known]


async def resume_topics(outbox: Outbox, topics: Sequence[str], *, reason: str, who: str) -> None:
    """Ask that the topics' events go on. Raises RefusedError if a person has not paused one of them."""
    paused = {each.topic for each in await read_paused(outbox.connection, outbox.schema)}
    if others := [topic for topic in topics if topic not in paused]:
        raise RefusedError(
            f"{plain(others[0])} is not paused by a person; a topic that takes no events is tried again by itself, see "
            "`relay topics`; nothing was changed"
        )
    await ask_topics(outbox.connection, outbox.schema, topics, seconds=0.0, reason=reason, requested_by=who)


def pause_in_words(pause: PausedTopic) -> str:
    """Say how long a pause lasts, who asked for it, and why."""
    why = f": {pause.reason}" if pause.reason else ""
    return f"for {duration(pause.seconds)} more, by {pause.requested_by}{why}"


def state_in_words(state: TopicState) -> str:
    """Say whether a topic is paused and why; nothing if it is not."""
    told = []
    if state.paused is not None:
        told.append(f"paused {pause_in_words(state.paused)}")
    if state.trouble is not None:
        told.append(f"takes no events: {state.trouble}")
    if state.limit is not None:
        told.append(f"goes at its limit, {state.limit} of each replica")
    elif state.waiting and not told:
        told.append("its held events are on their way; if they stay held, `/readyz` says why")
    return "; ".join(told)


def _unknown(topic: str, known: list[str]) -> str:
    near = difflib.get_close_matches(topic, known, 1)
    return f"no event of topic {topic} was seen lately" + (f"; did you mean {plain(near[0])}?" if near else "")
