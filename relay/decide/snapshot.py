"""A PostgreSQL snapshot: which transactions had ended when it was taken."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_XID = 3
"""The first normal transaction id; smaller ones are reserved."""

XIDS = 1 << 32
"""Number of distinct 32-bit transaction ids, which PostgreSQL shows where it leaves out their epoch."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The value of `pg_current_snapshot()`: which transactions had ended when it was taken.

    Transactions below `xmin` had ended, those from `xmax` on had not started, those in `running` were under way.
    `xmax` is the latest *completed* xid + 1: a running transaction may well have a smaller one.
    """

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read PostgreSQL's text form `xmin:xmax:xip,xip,...`. Raises ValueError for anything else."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())

    def text(self) -> str:
        """Return PostgreSQL's text form."""
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.running)))}"

    def ended(self, xid: int) -> bool:
        """Return whether the transaction had ended, by commit or rollback, when the snapshot was taken."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)


def next_xid(age: int, snapshot: Snapshot) -> int:
    """Return the xid of the next transaction that needs one, given the `age` of FIRST_XID read beside `snapshot`.

    PostgreSQL's age() counts modulo XIDS; the snapshot tells the round.
    """
    ahead = (age + FIRST_XID - snapshot.xmax) % XIDS
    return snapshot.xmax + (ahead if ahead < XIDS // 2 else ahead - XIDS)
