"""A topic that takes no events: what it goes through until it takes them again. No I/O, no clock.

| state    | meaning                                        | next                                                   |
|----------|------------------------------------------------|--------------------------------------------------------|
| Fine     | the topic takes events, as far as is known     | Troubled: refused, or a partition is stuck             |
| Troubled | it takes none; its events wait in memory       | Paused: after a moment, or if its events need room     |
| Paused   | its events are held back; others have the room | Probing: due, and Kafka says that it may work          |
| Probing  | its events go again, to see whether it works   | Paused: refused again, or hangs. Fine: nothing to send |

From every state the topic is Fine again once Kafka acknowledges a batch of the last partition that took none, or once
its partitions have been found out.

Publish reports Kafka's answers (`refused`, `acknowledged`, `resolved`). The watch looks several times a second
(`look`; `needs_room` if topics together take too much). Each call returns what is to be done, in order. The watch alone
calls and acts (relay/stages/publish/watch.py); everybody else only reads the state. It outlives tenures.

What must never happen: that a paused topic is neither asked about nor tried again, so that its events stay held back
for ever; that one topic's trouble stops the others; that a topic whose trouble is Kafka's own is paused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, assert_never

from relay.decide.stuck import STUCK_AFTER, Partitions
from relay.decide.trouble_actions import (
    Chill,
    End,
    HoldBack,
    LookUp,
    Pause,
    Probe,
    ResolveAgain,
    Suspect,
    Tell,
)
from relay.retry import delay_after

if TYPE_CHECKING:
    from collections.abc import Collection

    from relay.decide.stuck import PartitionView, TopicView
    from relay.decide.trouble_actions import Action, Answer
    from relay.outcome import PublishError


PAUSE_AFTER = 2.0
"""Seconds of trouble after which a topic's events are held back and its lanes go on."""

PROBE_FIRST = 2.0
PROBE_MOST = 30.0
"""Seconds, at most, until a paused topic is tried again: at first, and after many tries that did not help."""

LOOK_UP_INTERVAL = 2.0
"""Seconds between questions to Kafka about a paused topic. The answer shows whether a try is worth it: one that hangs
fills the buffer with what was held back, and stops the other topics meanwhile."""

MAX_SHARE_OF_ROOM = 1 / 8
"""Part of the buffer that events may take whose topics do not exist. With more, these topics are paused immediately:
the other topics would stand still until they are."""


@dataclass(frozen=True, slots=True)
class Fine:
    """The topic takes events, as far as is known."""


@dataclass(frozen=True, slots=True)
class Troubled:
    """The topic takes no events, which wait in memory: it may be over in a moment."""

    error: PublishError
    partitions: frozenset[int]
    """Those that take none; that other partitions of the topic take theirs does not end the trouble. Empty when the
    topic as a whole was refused."""
    since: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The topic's events are held back, so that they do not take up the room of others."""

    error: PublishError
    partitions: frozenset[int]
    probe_at: float
    """When it is to be tried again (monotonic seconds), if Kafka says that it may work."""


@dataclass(frozen=True, slots=True)
class Probing:
    """The topic's events go again, to see whether it works."""

    error: PublishError
    partitions: frozenset[int]
    since: float
    """Monotonic seconds."""


TopicState: TypeAlias = Fine | Troubled | Paused | Probing

FINE = Fine()


class TopicTrouble:
    """The trouble of one topic, if it has any. `now` is monotonic seconds, `draw` a random number in [0, 1)."""

    __slots__ = ("_look_up_at", "_partitions", "_pauses", "_state")

    def __init__(self) -> None:
        self._state: TopicState = FINE
        self._pauses = 0
        self._look_up_at = 0.0
        self._partitions = Partitions()

    def __repr__(self) -> str:
        return f"<TopicTrouble {self._state}>"

    @property
    def state(self) -> TopicState:
        """The state as of the last call."""
        return self._state

    @property
    def fine(self) -> bool:
        """Whether there is no trouble."""
        return self._state is FINE

    @property
    def paused(self) -> bool:
        """Whether the topic's events are held back."""
        return isinstance(self._state, Paused)

    def refused(self, error: PublishError, now: float, draw: float, partition: int | None = None) -> list[Answer]:
        """Take note that the topic, or one `partition` of it, took no events for `error`."""
        state = self._state
        # Not the frames that it came by: there may be thousands of such.
        error = error.with_traceback(None)
        if isinstance(state, Fine):
            self._state = Troubled(error, _with(frozenset(), partition), now)
            return [Tell(error)]
        answer: list[Answer] = [Tell(error)] if str(state.error) != str(error) else []
        partitions = _with(state.partitions, partition)
        match state:
            case Troubled(since=since):
                self._state = Troubled(error, partitions, since)
            case Paused() | Probing():
                # It was resumed to see whether it works again. It does not.
                answer += self._pause(error, partitions, now, draw)
            case _ as never:
                assert_never(never)
        return answer

    def acknowledged(self, partition: int, busy: Collection[int]) -> list[Answer]:
        """Take note that Kafka took a batch of `partition`; events wait or are in flight in those that are `busy`."""
        state = self._state
        if isinstance(state, Fine) or partition not in state.partitions:
            return []
        left = state.partitions - {partition}
        self._state = replace(state, partitions=left)
        return self._end() if left.isdisjoint(busy) else []

    def resolved(self) -> list[Answer]:
        """Take note that the topic's partitions were found out: Kafka has it, and says so."""
        return [] if self.fine else self._end()

    def needs_room(self, now: float, draw: float) -> list[Answer]:
        """Pause the topic immediately, if it is in trouble: its events take the room of others."""
        state = self._state
        if isinstance(state, Troubled | Probing):
            return self._pause(state.error, state.partitions, now, draw)
        return []

    def look(self, view: TopicView, others_since: float | None, now: float, draw: float) -> list[Action]:
        """See how the topic does, and decide what is to be done.

        `others_since` is since when Kafka has acknowledged batches of whatever topic; None while it does not.
        """
        actions: list[Action] = []
        if view.known is not None and view.routed_to is not None and view.known != view.routed_to:
            actions.append(Chill())
            # 0: not known at the moment, perhaps deleted, perhaps a new producer: what is routed waits there.
            if view.known:
                actions.append(ResolveAgain())
                view = view._replace(routed_to=None)
        for partition, error in self._partitions.stuck(view, others_since, now):
            actions += self._stuck(partition, error, now, draw)
        was_fine = self.fine
        told = self._partitions.stalled(view, now, others_move=others_since is not None and was_fine)
        if was_fine:
            # A topic in trouble is named for that already.
            actions += told
        else:
            actions += self._next(view, now, draw)
        return actions

    def _stuck(self, partition: PartitionView, error: PublishError, now: float, draw: float) -> list[Action]:
        # aiokafka makes a broker's other partitions wait for the retries of this one: not in the main producer.
        actions: list[Action] = [] if partition.suspect else [Suspect(partition.number, str(error))]
        state = self._state
        if isinstance(state, Fine | Probing):
            actions += self.refused(error, now, draw, partition.number)
        elif partition.number not in state.partitions:
            # There is nothing new to tell.
            self._state = replace(state, partitions=state.partitions | {partition.number})
        return actions

    def _next(self, view: TopicView, now: float, draw: float) -> list[Action]:
        """What time brings a topic in trouble."""
        state = self._state
        actions: list[Action] = []
        match state:
            case Fine():
                pass
            case Troubled():
                if now - state.since > PAUSE_AFTER:
                    actions += self._pause(state.error, state.partitions, now, draw)
            case Paused():
                if view.routed_to is not None and now >= self._look_up_at:
                    self._look_up_at = now + LOOK_UP_INTERVAL
                    actions.append(LookUp())
                if now >= state.probe_at and _may_work(view, state.partitions):
                    self._state = Probing(state.error, state.partitions, now)
                    actions.append(Probe())
            case Probing():
                # What was resumed to see whether it works again hangs, or there was nothing to resume.
                if now - state.since > PAUSE_AFTER + STUCK_AFTER:
                    nothing_left = all(each.idle for each in view.partitions if each.number in state.partitions)
                    if view.routed_to is not None and nothing_left:
                        actions += self._end()
                    else:
                        actions += self._pause(state.error, state.partitions, now, draw)
            case _ as never:
                assert_never(never)
        return actions

    def _pause(self, error: PublishError, partitions: frozenset[int], now: float, draw: float) -> list[Answer]:
        answer: Answer = HoldBack() if self.paused else Pause(error)
        delay = delay_after(self._pauses, first=PROBE_FIRST, most=PROBE_MOST, draw=draw)
        self._pauses += 1
        self._state = Paused(error, partitions, now + delay)
        return [answer]

    def _end(self) -> list[Answer]:
        self._state = FINE
        self._pauses = 0
        self._look_up_at = 0.0
        return [End()]


def takes_too_much_room(share: float) -> bool:
    """Whether events whose topics do not exist, which together take this `share` of the buffer, are in others' way.

    Of thousands of such topics each may have but a few events.
    """
    return share > MAX_SHARE_OF_ROOM


def _may_work(view: TopicView, troubled: frozenset[int]) -> bool:
    """Whether Kafka has the topic and leads each partition that took no events, and nothing of the topic is in hand."""
    return (
        view.routed_to is not None
        and bool(view.known)
        and all(each.idle for each in view.partitions)
        and not any(each.leaderless for each in view.partitions if each.number in troubled)
    )


def _with(partitions: frozenset[int], partition: int | None) -> frozenset[int]:
    return partitions if partition is None else partitions | {partition}
