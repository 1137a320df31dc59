"""Where to read next from a lane: exact, without locking writers.

The state of one lane and the decisions on it, apart from any I/O. SCAN.md beside this file has the reasons and the ten
rules. A scan reads a *sweep* part (ids up to `taken_to`, the highest ever taken, that may have become visible since the
last scan) and a *fresh* part (ids above it). The sweep starts at the exact lower bound of what can be new: transactions
that were running in the last scan's snapshot and have ended since, or that came later.

A lane is in one of two states. While `sweep` is set, it is read by steps and the scan leaves it alone; otherwise the
scan reads it. Both take events by `absorb` and `absorb_step`, which never return an event that was taken before, nor
one that a smaller id of the lane could still have to precede.

A scan does not look up what is settled: `known` says what it must leave aside. A step does where that is not known, as
after a take-over, and adds to `known` what it finds settled, so that the scans and steps after it need not.

Anybody may read the fields; only the methods write them. Who calls which:

* the scan and the sweep: `about_to_read`, `absorb`, `absorb_step`, `absorb_left`, `leave_left`, `start_long_sweep`,
  `leave_to_sweep`, `next_step`, `ask_tables`, `take_unread`
* settle: `settle`, `set_aside`, `take_up_again`
* resume: `resume`;  republish: `republish`, `republished`
* claim: `take_over`, `give_back`, `advance_position`

What must never happen: an id leaves `taken` or `known` while a statement is under way whose snapshot may lack its
receipt; an id leaves `known` that a scan can still meet; and `position` passes an event that is not settled for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from relay.decide.known_ids import KnownIds
from relay.decide.long_sweep import LongSweep
from relay.decide.reach import Reach, cut_off, within
from relay.decide.sweep_start import sweep_start
from relay.event import ID, id_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from relay.decide.ladder import Ladder
    from relay.decide.passed_ids import Gaps
    from relay.decide.snapshot import Snapshot
    from relay.decide.sweep_start import SweepStart
    from relay.event import PendingEvent


class LanePosition(NamedTuple):
    """The position of an owned lane, with the epoch that fences the statement which persists it."""

    lane: int
    epoch: int
    position: int


@dataclass(slots=True)
class LaneScan:
    """The state of a lane that this replica owns, from claim to release."""

    lane: int
    epoch: int
    position: int
    """Everything up to this id is settled, and nothing new can appear there."""
    taken_to: int
    """The highest id ever taken from the lane."""
    sweep: LongSweep | None
    snapshot: Snapshot | None = None
    """Of the last complete scan; None until the sweep of the take-over is done."""
    exhausted: bool = False
    """Whether the last scan was complete and returned every visible event above `taken_to`."""
    taken: set[int] = field(default_factory=set)
    """Ids taken from the lane whose receipt may be missing in the next snapshot: those that are not settled."""
    known: KnownIds = field(init=False)
    """What a scan must not take: all of `taken`, and what is settled of that which it can still meet."""
    resuming: set[int] = field(default_factory=set)
    """Ids with a failure or held row that are on their way to Kafka again. They do not hold the position back."""
    replaying: int = 0
    """Number of delivered events that are on their way to Kafka again and have no receipt of that yet."""
    aside: int = 0
    """Number of unsettled events whose outcome cannot be recorded now. Only the position waits for them."""
    releasing: bool = False

    _settled: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.known = KnownIds(self.position)

    @classmethod
    def take_over(cls, lane: int, epoch: int, position: int, highest_settled: int, snapshot: Snapshot) -> LaneScan:
        """Return the state after a claim: all ids between `position` and the highest settled id have to be swept.

        `snapshot` was taken after the claim and not after `highest_settled` was read.
        """
        taken_to = max(position, highest_settled)
        return cls(lane, epoch, position, taken_to, LongSweep(snapshot, position, taken_to))

    def sweep_start(self, ladder: Ladder) -> SweepStart:
        """Return where the next sweep starts. Only for a lane without a long sweep under way."""
        if self.snapshot is None:
            raise ValueError(f"lane {self.lane} has had no complete scan yet")
        return sweep_start(self.snapshot, self.position, ladder)

    def nothing_new_to(self, start: SweepStart) -> int:
        """Return the id up to which no scan can find anything new, given where the next sweep starts.

        Above it, all is known that was visible in the last complete scan.
        """
        return start.lowest if self.exhausted else min(start.lowest, self.taken_to)

    def about_to_read(self, ladder: Ladder, longest_sweep: int) -> None:
        """Call right before a scan or a step is sent; a scan's request has to be made after it.

        Only receipts that committed before this moment are in its snapshot, so only their ids may leave
        `taken`: one that commits while the scan is under way would be read again, and published twice.

        What is known of the last `longest_sweep` ids is enough: a sweep that starts lower goes by steps.
        """
        self.taken.difference_update(self._settled)
        self._settled.clear()
        self.known.cut(self.taken_to - longest_sweep)
        if self.known.many:
            # Not the start of this scan: if a transaction is open for long, a later one may start far below.
            low = self.position if self.snapshot is None else self.sweep_start(ladder).lowest
            self.known.forget(low, self.taken)

    def settle(self, ids: Iterable[int]) -> None:
        """Take note that the outcome of these events is committed."""
        if self.resuming:
            ids = list(ids)
            self._settled.update([id_ for id_ in ids if id_ not in self.resuming])
            self.resuming.difference_update(ids)
        else:
            self._settled.update(ids)

    def give_back(self, wanted: bool) -> None:
        """Take nothing more from the lane if it is to be given back; go on if it is not to be any more."""
        self.releasing = wanted

    def resume(self, ids: Iterable[int]) -> None:
        """Note events with a failure or held row that go to Kafka again."""
        self.resuming.update(ids)

    def take_unread(self, id_: int) -> None:
        """Take an event that cannot be read: its outcome is a failure."""
        self.taken.add(id_)
        self.known.add([id_])

    def republish(self, events: int) -> None:
        """Note `events` delivered events that go to Kafka again."""
        self.replaying += events

    def republished(self) -> None:
        """Note one of them whose receipt is committed, or that does not go there after all."""
        self.replaying -= 1

    def set_aside(self) -> None:
        """Note an event whose outcome cannot be recorded now."""
        self.aside += 1

    def take_up_again(self) -> None:
        """Note that the outcome of one of those is being recorded once more."""
        self.aside -= 1

    def awaits_settle(self, id_: int) -> bool:
        """Return whether the event was taken and its outcome may not be committed yet."""
        return id_ in self.taken and id_ not in self._settled

    def all_settled_below(self, id_: int) -> bool:
        """Return whether the outcome of every event that was taken below `id_` is committed."""
        return all(taken >= id_ for taken in self.taken if taken not in self._settled)

    @property
    def taken_over(self) -> bool:
        """Whether the sweep of the take-over is over, so that every event before a failed or held one was taken.

        Until then an earlier event of its key may be one that the last owner had in flight, and be found by a later
        step. A later sweep cannot find one. What is failed or held was taken by then, together with all that was
        visible below it; what a later sweep finds was committed later, and a key's events have ids in commit order.
        """
        return self.snapshot is not None

    @property
    def unsettled(self) -> int:
        """Number of events taken, or resumed, and not yet settled, without those that cannot be settled for now."""
        return len(self.taken) - len(self._settled) + len(self.resuming) + self.replaying - self.aside

    def sweep_reach(self, reach: Reach, taken_bytes: int) -> Reach:
        """Return the reach of a read of ids that is to meet all within `reach`; unsettled ones take `taken_bytes`.

        It meets the taken events again, which must not use up its limit.
        """
        return Reach(reach.events + len(self.taken), reach.bytes + taken_bytes)

    def absorb(
        self,
        snapshot: Snapshot,
        new: Sequence[int],
        swept: Sequence[PendingEvent],
        fresh: Sequence[PendingEvent],
        reach: Reach,
    ) -> list[PendingEvent]:
        """Take in a scan's result; returns the events to publish, in order.

        `new` are the ids up to `taken_to` that the scan found and that were not known; `swept` the events that were
        then read by these ids, as many as came; `fresh` what the scan found above `taken_to`. All are in id order. What
        is returned is within `reach`: what does not fit is read again.
        """
        kept, left = within(swept, reach)
        self._take(kept)
        if new and (not kept or kept[-1][ID] < new[-1]):
            # Older events are left: fresh ones would overtake them, and the state must not advance past them.
            self.exhausted = False
            return kept
        # Without others before them they were read within the reach's bytes.
        more = within(fresh, left)[0] if kept else fresh[: reach.events]
        if more:
            self._take(more)
            self.taken_to = more[-1].id
        self.exhausted = len(more) == len(fresh) and not cut_off(fresh, reach)
        self.snapshot = snapshot
        return [*kept, *more]

    def leave_to_sweep(self, snapshot: Snapshot, start: int, up_to: int) -> None:
        """Have everything from `start` to `up_to` looked for by steps, as if the lane had been taken up to there."""
        self.taken_to = max(self.taken_to, up_to)
        self.start_long_sweep(snapshot, start)
        # Above what was taken, a bit may be of an earlier stay of the lane, which ended without the event's outcome.
        self.ask_tables()

    def start_long_sweep(self, snapshot: Snapshot, start: int) -> None:
        """Start a long sweep: the scan with `snapshot` found the sweep from `start` too long for one statement."""
        self.sweep = LongSweep(snapshot, start, self.taken_to)

    def next_step(self, step_ids: int) -> tuple[int, int] | None:
        """Return the ids (above, up to) of the long sweep's next step; end the sweep and return None after the last."""
        sweep = self.sweep
        if sweep is None:
            return None
        if sweep.done_to >= sweep.end:
            self.snapshot = sweep.snapshot
            # No step looked above `taken_to`: the position must not pass it before a complete scan has.
            self.exhausted = False
            self.sweep = None
            return None
        return sweep.done_to, min(sweep.done_to + step_ids, sweep.end)

    @property
    def knows_all(self) -> bool:
        """Whether the next step of the long sweep need not ask what is settled.

        What was visible in the lane's last complete scan is known, above `complete_from`, and so is what steps took
        since. What is not known was not visible then, so it is new: nobody else can have settled it.
        """
        sweep = self._swept()
        return self.snapshot is not None and sweep.done_to >= self.known.complete_from and not sweep.asks_tables

    def may_have_gaps(self, step_ids: int) -> bool:
        """Return whether it is of use to ask for `gaps`."""
        sweep = self._swept()
        return self.knows_all and sweep.end - sweep.done_to > step_ids and sweep.done_to >= sweep.gaps_from

    def gaps(self, step_ids: int, most: int) -> Gaps | None:
        """Return the ids that the next step has to look at, `most` at most; None if they reach no further than a step.

        What the lanes of the tenure know has been noted.
        """
        sweep = self._swept()
        if not self.knows_all:
            # Any more: too much was noted to keep all of it.
            return None
        return sweep.gaps_in(self.known.passed, step_ids, most)

    def ask_tables(self) -> None:
        """Have the steps ask what is settled: something cannot be read."""
        self._swept().asks_tables = True

    def settled_from(self, ladder: Ladder) -> int:
        """Return the id above which a step has to say what is settled: no later scan or step meets what lies below.

        A scan goes by the lane's own set, above `known.start`, and a step by the bits, above `complete_from`; with much
        noted of other lanes, the latter may be the higher one.
        """
        sweep = self._swept()
        met_from = min(self.known.start, self.known.complete_from)
        return max(met_from, sweep_start(sweep.snapshot, self.position, ladder).lowest)

    def absorb_step(
        self,
        snapshot: Snapshot,
        end: int,
        swept: Sequence[PendingEvent],
        left: Iterable[int],
        settled: Iterable[int],
        reach: Reach,
        ladder: Ladder,
    ) -> list[PendingEvent]:
        """Take in the step that read up to id `end` in `snapshot`; returns the events to publish, in order.

        `swept` are the first unsettled events, and `left` the ids of the others. `settled` are the ids that the same
        snapshot shows with a receipt, a failure or a held row, of those above `settled_from`. What is returned is
        within `reach`; what does not fit is left for `absorb_left`. The list is empty, and the sweep goes back, if
        something may have become visible below what earlier steps went through: it would be missed, and of two events
        that one transaction wrote for a key, the one in this step would overtake the other.
        """
        sweep = self._swept()
        bound = sweep_start(sweep.snapshot, self.position, ladder)
        # Without this, rungs that are missing for a while would send an idle database's sweep back for ever.
        start = bound.start(snapshot) if _anything_ended(sweep.snapshot, snapshot) else sweep.done_to
        sweep.snapshot = snapshot
        if start < sweep.done_to:
            sweep.done_to = start
            return []
        # Whatever becomes of a failure or a held row later, a scan must not take its event for new.
        self.known.add(settled)
        found = [event for event in swept if event[ID] not in self.known]
        new, _ = within(found, reach)
        self._take(new)
        sweep.left_to = end
        sweep.leave([*map(id_of, found[len(new) :]), *[id_ for id_ in left if id_ not in self.known]])
        return new

    def next_left(self, reach: Reach) -> list[int]:
        """Return the ids of what the last step left, as many as there is room for."""
        return self.sweep.next_left(reach) if self.sweep is not None else []

    def absorb_left(self, ids: Sequence[int], events: Sequence[PendingEvent], reach: Reach) -> list[PendingEvent]:
        """Take in the events that were read by `ids`, which `next_left` gave; returns those to publish, in order.

        They are of the step's snapshot, in which all that comes before them was taken: it does not matter what became
        visible since. One that is gone was left out of the read, which ends where the reach's bytes do.
        """
        sweep = self._swept()
        new, _ = within(events, reach)
        self._take(new)
        sweep.left_is_read(new[-1][ID] if new else ids[-1])
        return new

    def leave_left(self) -> None:
        """Have a step look again for what the last one left: it cannot be read by its ids."""
        self._swept().left = []

    def _swept(self) -> LongSweep:
        if self.sweep is None:
            raise ValueError(f"lane {self.lane} is not in a long sweep")
        return self.sweep

    def advance_position(self, ladder: Ladder) -> int:
        """Raise `position` as far as is certain, and return it.

        Running transactions count, too: their events may still appear above their floors.
        """
        unsettled = self.taken.difference(self._settled)
        limits = [min(unsettled) - 1] if unsettled else []
        if self.sweep is not None:
            limits.append(self.sweep.done_to)
        if not self.exhausted:
            limits.append(self.taken_to)
        for snapshot in (self.snapshot, self.sweep.snapshot if self.sweep else None):
            if snapshot is not None:
                floor, running = ladder.floors(snapshot)
                limits += [floor, *(low for _, low in running)]
        if limits:
            self.position = max(self.position, min(limits))
        return self.position

    def _take(self, events: Sequence[PendingEvent]) -> None:
        ids = [*map(id_of, events)]
        self.taken.update(ids)
        self.known.add(ids)


def _anything_ended(before: Snapshot, later: Snapshot) -> bool:
    return later.xmax > before.xmax or any(later.ended(xid) for xid in before.running)
