"""What a snapshot says about transactions."""

from __future__ import annotations

import pytest

from relay.decide.snapshot import FIRST_XID, XIDS, Snapshot, next_xid


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


@pytest.mark.parametrize("xmax", [700, XIDS - 2, XIDS, 5 * XIDS + 17, 6 * XIDS - 1])
@pytest.mark.parametrize("ahead", [0, 1, 4, 100_000, -1])
def test_the_next_xid_is_found_in_its_round_of_32_bits(xmax: int, ahead: int) -> None:
    """Behind xmax by a little if PostgreSQL read it before it took the snapshot."""
    signed = (xmax + ahead - FIRST_XID + XIDS // 2) % XIDS - XIDS // 2
    assert next_xid(signed, Snapshot(xmax, xmax, frozenset())) == xmax + ahead
