"""What `relay status` says is wrong, judged from values alone."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from relay.admin.findings import Finding, findings
from relay.decide.chores import CHECK
from relay.postgres.admin.lanes import Replica
from relay.postgres.admin.status import Blocker, Count, Lane, PutOff, Status

ALIVE = Replica(
    id=UUID(int=1),
    name="relay-1",
    version="0.1.0",
    running_seconds=3_600.0,
    lease_seconds=12.0,
    alive=True,
    lanes=list(range(16)),
)
LANES = [
    Lane(
        lane=number,
        owner=ALIVE.id,
        replica=ALIVE.name,
        epoch=1,
        position=0,
        owned_seconds=60.0,
        pending=0,
        oldest_seconds=None,
    )
    for number in range(16)
]
WELL = Status(
    schema="outbox",
    version=11,
    database="shop",
    server="18.4",
    in_recovery=False,
    newest_id=1_000,
    backlog=Count(0, "exact"),
    oldest_seconds=None,
    delivered=Count(1_000, "exact"),
    last_delivered_seconds=1.0,
    failures={"retrying": 1},
    held=Count(0, "exact"),
    lanes=LANES,
    replicas=[ALIVE],
    segments=[],
    stranded=False,
)
LOCKING = Blocker("the session with pid 7 (role shop, 60 s old)", 7, ["event"], None, 5.0)
WAITING = Blocker("the session with pid 8 (role shop, 60 s old)", 8, ["held"], [3, 4], 5.0)


SHOWN = [f"t{n} ({n})" for n in range(5)]


def told(status: Status) -> list[str]:
    """Return the findings as people read them."""
    return [str(finding) for finding in findings(status)]


def test_a_replica_that_ended_without_handing_over_and_not_its_lanes_are_named() -> None:
    ended = replace(ALIVE, name="gone", alive=False, ended_seconds=7.0, partitions=12, lanes=[3, 4])
    lanes = [replace(lane, replica=None) if lane.lane in (3, 4) else lane for lane in WELL.lanes]
    (found,) = told(replace(WELL, replicas=[ALIVE, ended], lanes=lanes))
    assert found.startswith(
        "replica gone ended 7.0 s ago without handing over lanes 3-4; their events wait while Kafka is"
    )


def test_why_the_lanes_of_such_a_replica_wait_is_told_and_for_how_long() -> None:
    ended = replace(ALIVE, name="gone", alive=False, ended_seconds=7.0, partitions=1, lanes=[3])
    lanes = [replace(lane, replica=None) if lane.lane == 3 else lane for lane in WELL.lanes]
    waits = replace(ended, waits_for="partition 1 of orders has no leader")
    (found,) = told(replace(WELL, replicas=[ALIVE, waits], lanes=lanes))
    assert ": partition 1 of orders has no leader; after 30 s" in found


def test_nothing_is_found_when_all_is_well() -> None:
    assert findings(WELL) == []


def test_a_finding_is_one_line_of_what_it_is_what_it_means_and_what_to_do() -> None:
    assert str(Finding("error", "it rains", "you get wet", "take an umbrella")) == (
        "it rains; you get wet; take an umbrella"
    )
    assert str(Finding("warning", "it rains", do="stay at home")) == "it rains; stay at home"


def test_without_a_live_replica_orphaned_lanes_are_not_told_besides() -> None:
    dead = replace(ALIVE, alive=False, lease_seconds=-60.0)
    orphaned = [replace(lane, replica=None) for lane in LANES]
    (found,) = findings(replace(WELL, replicas=[dead], lanes=orphaned))
    assert (found.severity, found.what) == ("error", "no replica is alive")


def test_lanes_without_an_owner_are_named_and_parked_ones_are_told_apart() -> None:
    lanes = [replace(LANES[0], replica=None), replace(LANES[1], replica=None, parked=True, intent_seconds=90.0)]
    first, second = findings(replace(WELL, lanes=[*lanes, *LANES[2:]]))
    assert (first.severity, first.what) == ("error", "lanes without a live owner: 0")
    assert str(second) == (
        "lanes that a person released for a time: 1; their events wait for at most 1 min 30 s more; "
        "`relay lanes release 1` gives them back now"
    )


def test_a_silent_replica_is_told_with_when_others_take_over() -> None:
    (found,) = told(replace(WELL, replicas=[replace(ALIVE, silent_seconds=10.0, lanes=[3, 4])]))
    assert (
        found == "replica relay-1 has been silent for 10 s; unless it comes back, others claim its lanes in 12 s: 3-4"
    )


def test_a_session_that_locks_a_table_can_be_ended_by_what_is_told() -> None:
    (found,) = findings(replace(WELL, unread=["pending"], blockers=[LOCKING, WAITING]))
    assert found.what == "not shown, because others lock the tables: pending"
    assert found.means == (
        "the session with pid 7 (role shop, 60 s old) locks event, its last statement began 5.0 s ago; "
        "the session with pid 8 (role shop, 60 s old) waits to lock held, held up by the sessions 3, 4, "
        "its last statement began 5.0 s ago"
    )
    assert found.do == "if it is no longer needed, end it: SELECT pg_terminate_backend(7)"


def test_a_prepared_transaction_has_no_session_to_end() -> None:
    prepared = replace(LOCKING, pid=None, who="the prepared transaction 'x' (role shop)", statement_seconds=None)
    (found,) = findings(replace(WELL, unread=["held"], blockers=[prepared]))
    assert found.do == "commit it or roll it back if it is forgotten"


def test_of_many_blockers_the_first_are_named() -> None:
    (found,) = findings(replace(WELL, unread=["held"], blockers=[LOCKING] * 5))
    assert found.means.endswith("; 2 more")


def test_what_could_not_be_read_for_another_reason_is_only_unknown() -> None:
    assert told(replace(WELL, unread=["delivered"], delivered=Count(None, "unknown"))) == []


def test_unread_lanes_are_not_taken_for_free_ones() -> None:
    found = findings(replace(WELL, lanes=[], replicas=[], unread=["replicas and lanes"], blockers=[LOCKING]))
    assert [each.what for each in found] == ["not shown, because others lock the tables: replicas and lanes"]


@pytest.mark.parametrize(
    ("change", "severity", "what"),
    [
        ({"in_recovery": True}, "error", "this server is a standby"),
        ({"failures": {"failed": 2}}, "error", "2 events failed and wait for a person"),
        ({"backlog": Count(5, "at most")}, "warning", "counting pending events took too long"),
        ({"stranded": True}, "warning", "there are rows in the DEFAULT partitions"),
        ({"newest_id": 2**63 - 201}, "warning", "200 ids are left"),
        (
            {"waiting": {f"t{n}": n for n in range(6)}},
            "error",
            f"events wait for topics that did not take events at the last look: {', '.join(SHOWN)}, and others",
        ),
    ],
)
def test_each_has_its_severity(change: dict[str, object], severity: str, what: str) -> None:
    (found,) = findings(replace(WELL, **change))  # type: ignore[arg-type]
    assert (found.severity, found.what) == (severity, what)
    assert found.means or found.do


def test_a_chore_that_several_replicas_put_off_for_one_reason_is_told_once_and_the_check_comes_first() -> None:
    put_off = [PutOff("one", "drop segments", 60.0, "locked"), PutOff("two", "drop segments", 90.0, "locked")]
    assert told(replace(WELL, put_off=[*put_off, PutOff("one", CHECK, 30.0, "event 5 was passed over")])) == [
        "event 5 was passed over (found 30 s ago)",
        "not done for 1 min 30 s: drop segments (replicas one, two); locked",
    ]
