"""What is asked of Kafka for a replica that ended, and what follows from the answers. Pure, no I/O.

Rules and reasons are in RECONCILE.md.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping
    from typing import TypeVar

    Where = TypeVar("Where", bound=Hashable)


class Mode(Enum):
    """What is done about what a replica had published that ended without handing over."""

    AUTO = "auto"
    """It is looked for, as well as the rights and the cluster allow."""
    OFF = "off"
    """Nothing: it is published again."""
    REQUIRE = "require"
    """It is looked for; what cannot be looked for waits."""


class Reason(Enum):
    """Why something of a partition is published again although it may be in Kafka: the label of a metric."""

    HOLE = "hole"
    BYTES = "bytes"
    RIGHTS = "rights"
    UNFENCED = "unfenced"
    WAITED = "waited"


class Fate(NamedTuple):
    """What becomes of a partition that was not read to its end."""

    again: bool
    """Whether it is tried again."""
    gave_up: Reason | None = None


DONE = Fate(again=False)
AGAIN = Fate(again=True)


def fate(kind: str, mode: Mode) -> Fate:
    """Return what becomes of a partition with a trouble of this kind (the value of a TroubleKind).

    What is gone can be neither found nor repeated. What was deleted, or lies behind the limit, will not come back.
    """
    match kind:
        case "gone":
            return DONE
        case "hole":
            return Fate(again=False, gave_up=Reason.HOLE)
        case "bytes":
            return Fate(again=False, gave_up=Reason.BYTES)
        case "rights" | "unsupported":
            return AGAIN if mode is Mode.REQUIRE else Fate(again=False, gave_up=Reason.RIGHTS)
        case _:
            return AGAIN


def ends(
    noted: Mapping[str, int],
    fenced: Mapping[str, tuple[int, int]],
    unmarked: Mapping[Where, Collection[str]],
    where: Where,
) -> dict[int, int | None]:
    """Return up to what to read a partition: by producer id the epoch of its marker; None where there is none.

    `noted` are the producers of the replica by name, with their ids; `fenced` has the id and the epoch of the markers
    of those that could be fenced; `unmarked` names, for a partition, those whose marker is not there.

    If Kafka has forgotten a transactional id, the fence was that of a new producer id: the noted one has no marker.
    """
    found: dict[int, int | None] = {}
    for name, producer in noted.items():
        fence = fenced.get(name)
        marked = fence is not None and fence[0] == producer and name not in unmarked.get(where, ())
        found[producer] = fence[1] if fence is not None and marked else None
    return found


def forgotten(noted: Mapping[str, int], fenced: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return the producers whose transactional id Kafka has forgotten, so that the fence does not stop them."""
    return [name for name, (producer, _) in fenced.items() if noted[name] != producer]
