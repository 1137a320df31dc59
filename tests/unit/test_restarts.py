"""What follows when a tenure ends that should not have."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import PostgresLostError, SchemaError, StatementFailedError, UnreachableError, describe
from relay.run.health import Health
from relay.run.restarts import Restarts
from relay.settings import HealthSettings
from relay.stages.tenure import LanesCededError, LeaseLostError
from relay.telemetry import Telemetry

LOST = PostgresLostError("the connection was lost")


def failed(text: str = "no more") -> StatementFailedError:
    error = StatementFailedError(text)
    error.statement = "settle"
    return error


class Lines:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log(self, level: int, event: str, /, **fields: object) -> None:
        self.lines.append({"level": level, **fields})

    def loud(self, happening: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["happening"] == happening and line["level"] > 10]


class Restarting:
    def __init__(self) -> None:
        self.log = Lines()
        self.telemetry = Telemetry(self.log)
        self.health = Health(HealthSettings(), 0.0)
        self.health.postgres_ok()
        self.health.kafka_ok()
        self.restarts = Restarts(lambda: 1.0, self.health, self.telemetry)


def test_a_connection_that_is_lost_once_is_made_again_at_once() -> None:
    here = Restarting()
    assert here.restarts.ended(LOST) == 0
    assert here.health.ready(0.0) == []
    here.restarts.worked()
    assert here.restarts.ended(LeaseLostError("the lease ran out")) == 0
    assert here.log.loud("tenure.works") == []


def test_tenures_that_end_at_once_are_tried_again_with_growing_pauses_up_to_a_bound() -> None:
    here = Restarting()
    lost = [here.restarts.ended(LOST) for _ in range(8)]
    assert lost == [0, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    here.restarts.worked()
    unforeseen = [here.restarts.ended(failed()) for _ in range(8)]
    assert unforeseen == [0.5, 1, 2, 4, 8, 16, 30, 30]
    here.restarts.worked()
    assert here.restarts.ended(failed()) == 0.5


def test_a_cause_is_told_once_and_each_time_counted_until_a_tenure_has_lasted() -> None:
    here = Restarting()
    for _ in range(3):
        here.restarts.ended(failed())
    assert [(line["error"], line["statement"]) for line in here.log.loud("tenure.failing")] == [("no more", "settle")]
    assert here.telemetry.value("flow_failed_total") == 3
    assert here.health.ready(0.0) == ["the flow keeps failing: no more"]
    here.restarts.ended(failed("another"))
    assert len(here.log.loud("tenure.failing")) == 2
    for _ in range(3):
        here.restarts.worked()
    assert here.health.ready(0.0) == []
    assert len(here.log.loud("tenure.works")) == 1
    here.restarts.ended(failed())
    assert len(here.log.loud("tenure.failing")) == 3


def test_lanes_that_are_left_to_another_replica_again_and_again_are_not_a_connection_that_keeps_breaking() -> None:
    here = Restarting()
    for _ in range(3):
        assert here.restarts.ended(LanesCededError("lanes [0] are left to another replica, which can publish")) == 0
    assert here.health.ready(0.0) == []
    assert here.restarts.ended(LOST) == 0


def test_losses_one_after_the_other_make_the_replica_unready() -> None:
    here = Restarting()
    here.restarts.ended(LOST)
    here.restarts.ended(LOST)
    assert here.health.ready(0.0) == ["the connection to PostgreSQL keeps breaking: the connection was lost"]


@pytest.mark.parametrize("reason", [SchemaError("run `relay migrate`"), UnreachableError("wrong password")])
def test_what_a_person_must_mend_ends_the_process_only_as_long_as_nothing_has_worked(reason: Exception) -> None:
    here = Restarting()
    assert not here.restarts.waits_for(reason)
    here.restarts.registered()
    assert here.restarts.waits_for(reason)


@pytest.mark.parametrize("reason", [LOST, failed(), ValueError("a bug"), LeaseLostError("taken")])
def test_everything_else_is_waited_for_from_the_start(reason: Exception) -> None:
    assert Restarting().restarts.waits_for(reason)


def test_a_bug_is_described_in_one_line_that_says_where() -> None:
    try:
        Health(HealthSettings(), 0.0).flow_fails(7, "")  # type: ignore[arg-type]
    except AttributeError as error:
        text = describe(error)
    assert text.startswith("AttributeError: 'int' object has no attribute 'say' (at relay/run/health.py:")
