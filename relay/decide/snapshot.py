"""What a PostgreSQL snapshot says about transactions."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_XID = 3
"""Of a server's life: the smaller ones are not transactions'."""

XIDS = 1 << 32
"""How many PostgreSQL tells apart where it shows them without their epoch."""


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
        """From PostgreSQL's text form `xmin:xmax:xip,xip,...`. Raises ValueError for anything else."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())

    def ended(self, xid: int) -> bool:
        """Whether the transaction had ended, by commit or rollback, when the snapshot was taken."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)


def next_xid(age: int, snapshot: Snapshot) -> int:
    """The xid that the next transaction to need one takes, when the `age` of FIRST_XID was read beside `snapshot`.

    PostgreSQL's age() counts modulo XIDS; the snapshot tells in which round.
    """
    ahead = (age + FIRST_XID - snapshot.xmax) % XIDS
    return snapshot.xmax + (ahead if ahead < XIDS // 2 else ahead - XIDS)
