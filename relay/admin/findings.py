"""What a person should look at first: judged from the status of an outbox, without asking anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from relay.admin.counts import counted, plural, ranges
from relay.admin.times import duration
from relay.decide.chores import CHECK
from relay.postgres.flow.segments import LAST_ID
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relay.postgres.admin.lanes import OwnedLane, Replica
    from relay.postgres.admin.status import Blocker, PutOff, Status

Severity: TypeAlias = Literal["error", "warning"]

TOPICS_SHOWN = 5
"""Topics that a finding names."""

BLOCKERS_SHOWN = 3

LATE = 10.0
"""Seconds for which a scheduled event may be due before that is worth a word."""


class Finding(NamedTuple):
    """Something that is not as it should be."""

    severity: Severity
    """An error: events do not flow, or a person must decide. A warning: they may stop flowing, or are hard to see."""
    what: str
    means: str = ""
    do: str = ""

    def __str__(self) -> str:
        """All of it in one line."""
        return "; ".join(filter(None, (self.what, self.means, self.do)))


def findings(status: Status) -> list[Finding]:
    """Return what somebody who was woken up should look at first; empty when all is well."""
    return [
        *_server(status),
        *_unread(status),
        *_owners(status),
        *_silent(status.replicas),
        *_ended(status.replicas),
        *_parked(status.lanes),
        *_events(status),
        *_ids(status),
        *_chores(status.put_off),
    ]


def _server(status: Status) -> Iterator[Finding]:
    if status.in_recovery:
        yield Finding(
            "error",
            "this server is a standby",
            "what it shows may be old, and no relay can work on it",
            "name the primary in RELAY_POSTGRES_DSN",
        )


def _unread(status: Status) -> Iterator[Finding]:
    """Say who keeps which parts from being read. Without a lock it is counting that takes long, which counts say."""
    if not status.blockers:
        return
    what = f"not shown, because others lock the tables: {', '.join(status.unread)}"
    named = [_blocking(each) for each in status.blockers[:BLOCKERS_SHOWN]]
    more = len(status.blockers) - len(named)
    ends = [f"SELECT pg_terminate_backend({each.pid})" for each in status.blockers if each.pid is not None]
    yield Finding(
        "error",
        what,
        "; ".join(named) + (f"; {more} more" if more else ""),
        f"if it is no longer needed, end it: {ends[0]}" if ends else "commit it or roll it back if it is forgotten",
    )


def _blocking(blocker: Blocker) -> str:
    began = blocker.statement_seconds
    since = "" if began is None else f", its last statement began {duration(began)} ago"
    if blocker.waits_for is None:
        return f"{plain(blocker.who)} locks {', '.join(blocker.tables)}{since}"
    others = f"{plural('session', len(blocker.waits_for))} {', '.join(map(str, blocker.waits_for))}"
    return f"{plain(blocker.who)} waits to lock {', '.join(blocker.tables)}, held up by the {others}{since}"


def _owners(status: Status) -> Iterator[Finding]:
    if not status.lanes:
        return
    asked = {lane for replica in status.replicas if replica.ended_seconds is not None for lane in replica.lanes}
    orphans = [
        lane.lane for lane in status.lanes if lane.replica is None and not lane.parked and lane.lane not in asked
    ]
    if not any(replica.alive for replica in status.replicas):
        yield Finding(
            "error", "no replica is alive", "nothing is being published", "start `relay run`, or read its log"
        )
    elif orphans:
        yield Finding(
            "error",
            f"lanes without a live owner: {ranges(orphans)}",
            "their events wait until a replica claims them, normally within seconds",
            "if they stay free, read the replicas' logs",
        )


def _silent(replicas: Sequence[Replica]) -> Iterator[Finding]:
    for replica in replicas:
        if replica.alive and replica.silent_seconds is not None and replica.lanes:
            yield Finding(
                "warning",
                f"replica {plain(replica.name)} has been silent for {duration(replica.silent_seconds)}",
                f"unless it comes back, others claim its lanes in {duration(replica.lease_seconds)}: "
                f"{ranges(replica.lanes)}",
            )


def _ended(replicas: Sequence[Replica]) -> Iterator[Finding]:
    for replica in replicas:
        if replica.ended_seconds is not None and replica.lanes:
            where = counted(replica.partitions, "partition")
            yield Finding(
                "error",
                f"replica {plain(replica.name)} ended {duration(replica.ended_seconds)} ago without handing over lanes "
                f"{ranges(replica.lanes)}",
                f"their events wait while Kafka is asked what it had published in {where}"
                + (f": {plain(replica.waits_for)}" if replica.waits_for else ", normally for seconds"),
                "after 30 s the lanes go on without partitions that cannot be read, unless "
                'RELAY_REPLICA_RECONCILE=require; see "Lanes without an owner" in the run book'
                if replica.waits_for
                else "if it takes long, the replicas' logs say why",
            )


def _parked(lanes: Sequence[OwnedLane]) -> Iterator[Finding]:
    if parked := [lane for lane in lanes if lane.parked]:
        longest = max(lane.intent_seconds or 0.0 for lane in parked)
        yield Finding(
            "warning",
            f"lanes that a person released for a time: {ranges([lane.lane for lane in parked])}",
            f"their events wait for at most {duration(longest)} more",
            f"`relay lanes release {ranges([lane.lane for lane in parked]).replace(', ', ' ')}` gives them back now",
        )


def _events(status: Status) -> Iterator[Finding]:
    if status.backlog.precision == "at most":
        yield Finding(
            "warning",
            "counting pending events took too long",
            "positions are far behind the newest id",
            "look for a transaction that has been open for long",
        )
    if failed := status.failures.get("failed", 0):
        yield Finding(
            "error",
            f"{counted(failed, 'event')} failed and {'waits' if failed == 1 else 'wait'} for a person",
            do="see `relay failed list`",
        )
    if status.due_seconds is not None and status.due_seconds < -LATE:
        yield Finding(
            "error",
            f"scheduled events have been due for {duration(-status.due_seconds)} and do not enter the outbox",
            do='see "Scheduled events that do not come" in the run book',
        )
    wanted = {pause.topic for pause in status.paused} | status.limited.keys()
    if waiting := {topic: events for topic, events in status.waiting.items() if topic not in wanted}:
        yield Finding(
            "error",
            f"events wait for topics that did not take events at the last look: {_topics(waiting)}",
            do="`relay topics` says why",
        )


def _ids(status: Status) -> Iterator[Finding]:
    if status.stranded:
        yield Finding(
            "warning",
            "there are rows in the DEFAULT partitions",
            "no segment was ready for them",
            "a running relay moves them",
        )
    if (left := LAST_ID - status.newest_id) < LAST_ID // 10:
        yield Finding(
            "warning",
            f"{left:,} ids are left",
            "after that, writers fail",
            "let writers use a new outbox (another RELAY_POSTGRES_SCHEMA)",
        )


def _chores(put_off: Sequence[PutOff]) -> Iterator[Finding]:
    """Yield one finding for each chore and error, however many replicas have it; what the check found comes first."""
    by_cause: dict[tuple[str, str], list[PutOff]] = {}
    for each in put_off:
        by_cause.setdefault((each.chore, each.error), []).append(each)
    for (chore, error), same in sorted(by_cause.items(), key=lambda cause: cause[0][0] != CHECK):
        since = duration(max(each.seconds for each in same))
        if chore == CHECK:
            yield Finding("error", f"{error} (found {since} ago)")
        else:
            replicas = f"{plural('replica', len(same))} {', '.join(each.replica for each in same)}"
            yield Finding("warning", f"not done for {since}: {chore} ({replicas})", error)


def _topics(waiting: dict[str, int]) -> str:
    shown = [f"{topic} ({events:,})" for topic, events in list(waiting.items())[:TOPICS_SHOWN]]
    return ", ".join(shown) + (", and others" if len(waiting) > TOPICS_SHOWN else "")
