"""What is asked of Kafka for a replica that ended, and what follows from the answers."""

from __future__ import annotations

import pytest

from relay.decide.reconciling import AGAIN, DONE, Fate, Mode, Reason, ends, fate, forgotten

NOTED = {"outbox-p-1": 7, "outbox-p-2": 8, "producer-9": 9}


def test_a_partition_is_read_to_all_markers_and_to_the_last_sequence_of_producers_without() -> None:
    fenced = {"outbox-p-1": (7, 3), "outbox-p-2": (8, 5)}
    assert ends(NOTED, fenced, {}, "here") == {7: 3, 8: 5, 9: None}
    assert ends(NOTED, fenced, {"here": {"outbox-p-2"}}, "here") == {7: 3, 8: None, 9: None}
    assert ends(NOTED, fenced, {"here": {"outbox-p-2"}}, "there") == {7: 3, 8: 5, 9: None}


def test_the_fence_of_an_id_that_kafka_has_forgotten_is_none_of_the_noted_producer() -> None:
    fenced = {"outbox-p-1": (7, 3), "outbox-p-2": (4711, 0)}
    assert forgotten(NOTED, fenced) == ["outbox-p-2"]
    assert ends(NOTED, fenced, {}, "here") == {7: 3, 8: None, 9: None}


@pytest.mark.parametrize(
    ("kind", "mode", "expected"),
    [
        ("gone", Mode.REQUIRE, DONE),
        ("hole", Mode.REQUIRE, Fate(again=False, gave_up=Reason.HOLE)),
        ("bytes", Mode.REQUIRE, Fate(again=False, gave_up=Reason.BYTES)),
        ("rights", Mode.AUTO, Fate(again=False, gave_up=Reason.RIGHTS)),
        ("rights", Mode.REQUIRE, AGAIN),
        ("unsupported", Mode.AUTO, Fate(again=False, gave_up=Reason.RIGHTS)),
        ("waits", Mode.AUTO, AGAIN),
        ("waits", Mode.REQUIRE, AGAIN),
    ],
)
def test_what_will_not_come_back_is_given_up_and_the_rest_is_tried_again(kind: str, mode: Mode, expected: Fate) -> None:
    assert fate(kind, mode) == expected
