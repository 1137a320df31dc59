"""What a snapshot says about transactions."""

from __future__ import annotations

import pytest

from relay.decide.snapshot import Snapshot


def test_a_snapshot_is_read_from_its_text_form() -> None:
    assert Snapshot.parse("10:20:10,14,15") == Snapshot(10, 20, frozenset({10, 14, 15}))
    assert Snapshot.parse("20:20:") == Snapshot(20, 20, frozenset())
    assert Snapshot.parse("4294967300:4294967301:4294967300").xmin == 4294967300


@pytest.mark.parametrize("text", ["", "1:2", "1:2:3:4", "a:2:", "1:2:,"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Snapshot.parse(text)


def test_a_transaction_has_ended_when_it_is_below_xmax_and_not_running() -> None:
    snapshot = Snapshot(10, 20, frozenset({10, 14}))
    assert [xid for xid in range(8, 23) if snapshot.ended(xid)] == [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]
