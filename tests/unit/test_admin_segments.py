"""What is said of segments: what is needed of them, what keeps them, and what the doctor makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from relay.admin.doctor.segments import of_segments
from relay.admin.segments import kept_in_words, needed_in_words, why_kept
from relay.postgres.admin.segments import COUNT_NEEDED, Segment

DAY = 86_400.0


def segment(number: int = 1, **given: Any) -> Segment:
    lower = 1 + 100 * number
    settled = {"name": f"event_{lower}", "lower_id": lower, "upper_id": lower + 100, "bytes": 2**20}
    return Segment(**{**settled, "age_seconds": 5 * DAY, **given})


def test_what_is_needed_is_told_by_state_and_as_far_as_it_was_counted() -> None:
    assert needed_in_words(segment()) == ""
    told = needed_in_words(segment(needed={"held": COUNT_NEEDED, "failed": 1, "discarded": 2}))
    assert told == "1 failed, at least 10,000 held, 2 discarded"
    assert kept_in_words(segment(kept=True)) == "kept: delivered or discarded lately"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"lanes_behind": [0, 1, 2, 7]}, "the positions of the lanes 0-2 7 must pass it first"),
        ({"lanes_behind": [3]}, "the position of the lane 3 must pass it first"),
        ({"replays": [5]}, "replay 5 of delivered events must read it first"),
        ({"age_seconds": 3600.0}, "its newest event is 1 h 0 min old, and is kept for 1 d 0 h"),
        ({"needed": {"held": 7}}, "so much of it is needed that copying would free little: 7 held"),
        ({"needed": {"discarded": 7}}, "events of it were delivered less than 1 d 0 h ago"),
    ],
)
def test_the_first_thing_that_keeps_a_segment_is_told(given: dict[str, Any], why: str) -> None:
    assert why_kept(segment(**given), DAY) == why


def test_the_doctor_names_what_keeps_old_segments_and_what_they_take() -> None:
    found = list(
        of_segments(
            [
                segment(0, kept=True, needed={"failed": 2}),
                segment(1, kept=True, needed={"failed": 1, "held": 4}),
                *(segment(number, replays=[5]) for number in range(2, 6)),
                segment(6, needed={"held": 90}),
                segment(7, age_seconds=2 * DAY),
                segment(8, lanes_behind=[3]),
            ],
            800,
            DAY,
        )
    )
    assert [check.state for check in found] == ["ok", "warning", "warning"]
    assert found[0].what == ("of segments that were dropped, 2 small ones with 2.0 MiB are left: 3 failed, 4 held")
    assert "4 old segments with 4.0 MiB (event_201, event_301, event_401, ...) are not dropped" in found[1].what
    assert (found[1].means, found[1].do) == (
        "replay 5 of delivered events must read it first",
        "wait for its end, or `relay replay cancel 5`",
    )
    assert "`relay failed list`" in found[2].do


def test_the_segment_in_use_is_not_old_however_old_its_events_are() -> None:
    assert list(of_segments([segment(lanes_behind=[1])], 150, DAY)) == []
