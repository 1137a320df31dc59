"""The model of the scan, widened by what comes after it: Kafka, failures, held events, what is resumed."""

# A relay of the flow takes the place of the scan's in all of it.
# mypy: disable-error-code="override,arg-type"

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from relay.outcome import FailureKind
from tests.support.models.scan_model import (
    KEYS,
    LANES,
    MOST_RELAYS,
    MOST_WRITERS,
    RARELY,
    ROUNDS_TO_THE_END,
    Model,
)
from tests.support.models.schedule import EndOfSchedule, check_comes_in_order
from tests.support.models.simulated_flow import FlowRelay
from tests.support.models.simulated_kafka import ROOM_FOR_SMALL, SimulatedKafka
from tests.support.models.simulated_postgres import TOPIC, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relay.event import PendingEvent
    from tests.support.models.simulated_postgres import Transaction
    from tests.support.models.simulated_relay import SimulatedRelay

Kind: TypeAlias = "tuple[str, int, Callable[[], None]]"
"""What can happen: its kind, how often compared with others, and what it does."""

MOST_QUIET = 2
LARGE = 13
"""Bytes that exceed the limit ROOM_FOR_SMALL."""

OFTEN = ("begin", "enqueue", "commit", "scan", "send", "answer", "settle", "resume", "advance")
OPTIONAL = (
    *("limit", "fill", "look", "pause", "crash", "expire", "drain", "start", "late", "roll back", "replay"),
    *("quiet", "large"),
)
EVERYTHING: dict[str, int] = {}
QUIET = (
    {"begin": 1, "enqueue": 2, "commit": 1, "scan": 4, "send": 2, "answer": 2, "settle": 12, "resume": 4, "advance": 8}
    | {"quiet": 2, "look": 8, "fill": 4, "sweep": 8, "beat": 12, "crash": 12, "expire": 2, "drain": 2, "late": 12}
    | {"replay": 12, "roll back": 4, "start": 0, "pause": 0, "limit": 0, "large": 0}
)
"""Transactions that stay open and write nothing, looks at them, and lanes that are not read meanwhile."""
TROUBLE = (
    {"begin": 1, "enqueue": 1, "commit": 2, "scan": 2, "send": 4, "answer": 1, "settle": 4, "resume": 8, "advance": 8}
    | {"pause": 8, "crash": 8, "sweep": 1, "beat": 4, "late": 0, "limit": 0, "fill": 0, "quiet": 0, "look": 0}
    | {"expire": 0, "drain": 0, "start": 0, "roll back": 0, "large": 0}
)
"""Owners that are gone with events in flight, while the topic is in trouble."""
LIMITS = (
    {"begin": 1, "enqueue": 1, "commit": 4, "scan": 4, "send": 8, "answer": 2, "settle": 8, "resume": 1, "advance": 8}
    | {"limit": 4, "large": 4, "crash": 16, "sweep": 4, "beat": 2, "replay": 1, "late": 0, "pause": 0, "fill": 0}
    | {"quiet": 0, "look": 0, "expire": 0, "drain": 0, "start": 0, "roll back": 0}
)
"""Events that are too large, beside others in flight."""
THEMES = (EVERYTHING, QUIET, TROUBLE, LIMITS)
"""What a schedule may be about: how often some kinds happen in it. How often others do is drawn."""

REFUSALS = (FailureKind.UNKNOWN, FailureKind.UNKNOWN, FailureKind.CLUSTER, FailureKind.TOPIC)


class FlowModel(Model):
    """Plays one schedule."""

    relays: list[FlowRelay]  # type: ignore[assignment]

    def __init__(self, schedule: Iterable[int], batch_events: int, step_ids: int) -> None:
        numbers = iter(schedule)
        self._schedule = numbers
        self.first_landed: dict[bytes, int] = {}
        self.quiet: list[Transaction] = []
        """Transactions that have not written anything for long."""
        self.kafka = SimulatedKafka(self._landed)
        self._swarm = self._draw_swarm()
        super().__init__(numbers, batch_events, step_ids)
        self.postgres.retries_are_due = True

    def _draw_swarm(self) -> dict[str, int]:
        """How often each kind of action happens in this schedule, or never.

        Each schedule does some things often and others not at all: histories that take many of a few kinds are found
        far sooner so than with all kinds alike (Groce et al., Swarm Testing, ISSTA 2012).
        """
        try:
            swarm = {kind: (1, 1, 1, 4)[self._number(4)] for kind in OFTEN}
            swarm |= {kind: (0, 1, 1, 4)[self._number(4)] for kind in OPTIONAL}
            return swarm | THEMES[self._number(len(THEMES))]
        except EndOfSchedule:
            return {}

    def _possible(self) -> list[Callable[[], None]]:
        kinds: list[Kind] = [("limit", 1, self.change_limit), ("pause", 1, self.ask_for_a_pause)]
        if len(self.writers) < MOST_WRITERS:
            kinds += [("begin", 3, self.begin), ("quiet", 1, self.begin_quiet), ("large", 1, self.write_large)]
        if self.writers:
            kinds += [("enqueue", 4, self.enqueue), ("commit", 2, self.commit), ("roll back", 1, self.roll_back)]
        if self.postgres.unlocking:
            kinds.append(("unlock", 1, self.unlock))
        if len(self.relays) < MOST_RELAYS:
            kinds.append(("start", 1, self.start_relay))
        if self.kafka.left_behind:
            kinds.append(("late", 1, self.land_late))
        if any(failed.state == "failed" for failed in self.postgres.failures.values()):
            kinds.append(("replay", 1, self.replay))
        for relay in self.relays:
            kinds += [("advance", 3, partial(self.advance, relay, stage)) for stage in relay.busy]
            kinds += self._of_scan(relay) + self._of_publish(relay) + self._of_life(relay)
        return [action for kind, weight, action in kinds for _ in range(weight * self._swarm.get(kind, 1))]

    def _of_scan(self, relay: FlowRelay) -> list[Kind]:
        busy = relay.busy
        kinds: list[Kind] = [("fill", 1, partial(self.fill, relay))]
        if "scan" not in busy:
            kinds.append(("scan", 3, relay.begin_scan))
        if "sweep" not in busy:
            kinds += [("sweep", 2, relay.begin_sweep), ("look", 2, relay.begin_quiet_look)]
        if "claim" not in busy:
            kinds.append(("beat", 1, relay.begin_beat))
        return kinds

    def _of_publish(self, relay: FlowRelay) -> list[Kind]:
        busy = relay.busy
        kinds: list[Kind] = [("pause", 1, partial(self.pause, relay))]
        if "settle" not in busy and relay.outcomes.waiting:
            kinds.append(("settle", 4, partial(self.settle, relay)))
        if relay.sendable():
            kinds.append(("send", 4, partial(self.send, relay)))
        if any(producer.unanswered() for producer in relay.producers.all):
            kinds.append(("answer", 4, partial(self.answer, relay)))
        if relay.producers.current is None:
            kinds.append(("producer", 1, partial(self.replace_producer, relay)))
        if "resume" not in busy and (self.postgres.failures or self.postgres.held):
            kinds.append(("resume", 3, relay.begin_resume))
        return kinds

    def _of_life(self, relay: FlowRelay) -> list[Kind]:
        kinds: list[Kind] = [
            ("crash", 1, partial(self.crash, relay)),
            ("expire", 1, partial(self.expire, relay)),
        ]
        if relay.tenure.draining and not relay.tenure.lanes and "claim" not in relay.busy:
            kinds.append(("leave", 1, partial(self.leave, relay)))
        if len(self.relays) > 1 and not relay.tenure.draining:
            kinds.append(("drain", 1, partial(self.drain, relay)))
        return kinds

    def begin_quiet(self) -> None:
        """A transaction of somebody else takes its xid and stays open, or the oldest such one begins to write.

        Perhaps in a burst, just between two writers: it is a snapshot's xmax when only the first one has ended, and
        the second one may have taken the lower ids.
        """
        if len(self.quiet) == MOST_QUIET:
            if self._number(RARELY // 5) == 0:
                self.writers.append(self.quiet.pop(0))
            return
        in_a_burst = bool(self._number(2))
        if in_a_burst:
            self.begin()
        self.quiet.append(self.postgres.begin())
        self.trace.append(f"begin {self.quiet[-1].xid}, quiet")
        if in_a_burst:
            self.begin()
            first, second = self.writers[-2:]
            for transaction in (second, first):
                self.enqueue(transaction, self._free_key())
            self.commit(first)

    def write_large(self) -> None:
        """A transaction enqueues a few events of one key, the last of which is large, and commits at once."""
        self.begin()
        transaction = self.writers[-1]
        key = self._free_key()
        if self.postgres.lock_key(transaction, key):
            for size in (*(1,) * (1 + self._number(3)), LARGE):
                self.postgres.insert(transaction, key, size)
        self.commit(transaction)

    def _free_key(self) -> int:
        """A key that nobody has locked, mostly of the lane with most of them; any if all are locked."""
        locked = {key for transaction in self.writers for key in transaction.keys}
        free = [key for key in range(KEYS) if key not in locked] or list(range(KEYS))
        lane, _ = Counter(key % LANES for key in free).most_common()[0]
        return self._pick([*free, *(key for key in free if key % LANES == lane)])

    def start_relay(self) -> None:
        self.relays.append(FlowRelay(self.postgres, self.kafka, self._taken, self._batch_events, self._step_ids))
        self.trace.append("a relay starts")

    def advance(self, relay: FlowRelay, stage: str) -> None:
        """A statement goes on by an instant, or to its end with nothing between."""
        self.trace.append(f"relay {self.relays.index(relay)}: {stage}")
        move = relay.advance if self._number(3) else relay.finish
        self._run(relay, partial(move, stage))

    def settle(self, relay: FlowRelay) -> None:
        """Some of what is known is recorded."""
        self._tell(relay, f"settles some of {relay.outcomes.events}")
        relay.begin_recording(1 + self._number(6))

    def fill(self, relay: FlowRelay) -> None:
        """A lane has no room for a while, or has some again."""
        lane = self._number(LANES)
        self._tell(relay, f"lane {lane} is full or has room again")
        relay.full ^= {lane}

    def send(self, relay: FlowRelay) -> None:
        """A partition's next batch goes to its producer, or the event at its head fails."""
        number = self._pick(relay.sendable())
        self._tell(relay, f"has its turn at partition {number}")
        relay.begin_turn(number)

    def answer(self, relay: FlowRelay) -> None:
        """The oldest batch of a partition lands, is acknowledged, or is refused."""
        producer = self._pick([each for each in relay.producers.all if each.unanswered()])
        number = self._pick(producer.unanswered())
        batch = producer.sent[number][0]
        self._tell(relay, f"hears of {[event.id for event in batch.events]} in partition {number}")
        refused = self._number(RARELY)
        if batch.landed or refused > 1 + len(REFUSALS):
            producer.land(number)
        elif refused < len(REFUSALS):
            self._tell(relay, f"is refused them: {REFUSALS[refused]}")
            producer.refuse(number, REFUSALS[refused])

    def replace_producer(self, relay: FlowRelay) -> None:
        self._tell(relay, "gets a new producer")
        relay.producers.replace(relay.publish)

    def land_late(self) -> None:
        """What a producer left behind that was given up arrives."""
        left = self._pick(self.kafka.left_behind)
        self.trace.append(f"late: {[event.id for event in left[0].events]}")
        self.kafka.land_late(left)

    def pause(self, relay: FlowRelay) -> None:
        """The topic is in trouble, or works again; or it has room for more of its limited rate."""
        relay.look_at_limit()
        if self._number(RARELY // 4) == 0:
            if relay.watch.paused:
                self._tell(relay, "resumes the topic")
                relay.watch.unpause()
            else:
                self._tell(relay, "pauses the topic")
                relay.watch.pause()

    def ask_for_a_pause(self) -> None:
        """A person pauses the topic, or ends that; relays hear of it with their next look."""
        if self._number(RARELY // 10) == 0:
            lasts = bool(self.postgres.leases.paused_topics())
            self.trace.append("a person ends the pause" if lasts else "a person pauses the topic")
            self.postgres.leases.pause(TOPIC, 0 if lasts else 1e9)

    def replay(self) -> None:
        """A person asks for a failed event to be published."""
        places = [place for place, failed in self.postgres.failures.items() if failed.state == "failed"]
        place = self._pick(places)
        self.trace.append(f"replay of {place[1]}")
        self.postgres.failures[place].state = "replaying"

    def change_limit(self) -> None:
        """The topic takes large events no more, or again."""
        if self._number(RARELY // 10) == 0:
            self.kafka.limit = None if self.kafka.limit else ROOM_FOR_SMALL
            self.trace.append(f"the topic's limit: {self.kafka.limit}")
            for relay in self.relays:
                relay.believe(self.kafka.limit)

    def leave(self, relay: FlowRelay) -> None:
        self.trace.append(f"relay {self.relays.index(relay)} has drained")
        if relay.tenure.room.events:
            raise Violation(f"a relay has drained and leaves {relay.tenure.room.events} events unsettled")
        relay.kill()
        self._gone(relay)

    def _landed(self, events: list[PendingEvent]) -> None:
        for event in events:
            assert event.key is not None
            check_comes_in_order(event, self.postgres.committed[event.key], self.first_landed, "in Kafka")

    def _settled(self, id_: int) -> bool:
        return any(
            (lane, id_) in rows
            for rows in (self.postgres.receipts, self.postgres.failures, self.postgres.held)
            for lane in self.postgres.lanes
        )

    def _tell(self, relay: SimulatedRelay, what: str) -> None:
        self.trace.append(f"relay {self.relays.index(relay)} {what}")

    def _come_to_rest(self) -> None:
        """Writers end, and the relays go on until nothing is left to do."""
        for transaction in (*self.writers, *self.quiet):
            self.postgres.commit(transaction)
        self.writers.clear()
        self.quiet.clear()
        self.postgres.unlocking.clear()
        self.kafka.limit = None
        self.postgres.leases.pauses.clear()
        for _ in range(ROUNDS_TO_THE_END):
            if all((event.lane, event.id) in self.postgres.receipts for event in self.postgres.visible):
                break
            for relay in list(self.relays):
                self._move(relay)
        lost = [event.id for event in self.postgres.visible if (event.lane, event.id) not in self.postgres.receipts]
        if lost:
            raise Violation(f"{lost} are lost, or nothing moves any more")
        if any(len(order) > self.first_landed.get(key, 0) for key, order in self.postgres.committed.items()):
            raise Violation("an event has its receipt and is not in Kafka")

    def _move(self, relay: FlowRelay) -> None:
        """Everything that it can do now, one after the other."""
        relay.full.clear()
        for stage in relay.busy:
            self._run(relay, partial(relay.finish, stage))
        for stage, begin in (("scan", relay.begin_scan), ("sweep", relay.begin_sweep), ("claim", relay.begin_beat)):
            self._run(relay, begin)
            self._run(relay, partial(relay.finish, stage))
        if relay not in self.relays:
            return
        self._move_on_to_kafka(relay)
        if relay not in self.relays:
            return
        if relay.tenure.draining and not relay.tenure.lanes:
            self.leave(relay)

    def _move_on_to_kafka(self, relay: FlowRelay) -> None:
        """What it has taken, up to its receipts; whatever stood in the way is gone."""
        for failed in self.postgres.failures.values():
            failed.state = "replaying"
        relay.believe(None)
        if relay.watch.paused:
            relay.watch.unpause()
        relay.look_at_limit()
        self._run(relay, relay.begin_resume)
        self._run(relay, partial(relay.finish, "resume"))
        if relay in self.relays:
            relay.publish_all()
        while relay.outcomes.waiting and relay in self.relays:
            self._run(relay, partial(relay.begin_recording, 100))
            self._run(relay, partial(relay.finish, "settle"))
