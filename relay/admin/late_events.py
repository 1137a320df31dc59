"""Events that came after later ones of their key because a person had a failed one replayed."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from relay.keys import key_text

if TYPE_CHECKING:
    from relay.decide.verify.examine import Examiner
    from relay.postgres.admin.verify import FailedReplay, Late, VerifyReads

_AT_ONCE = 1_000


async def late_by_decision(reads: VerifyReads, examiner: Examiner) -> None:
    """Judge the events out of order, knowing which ones a person had replayed: under `skip` these come late."""
    ids = [late[0] for late in examiner.found.late]
    if not ids:
        return
    replays = await reads.failed_replays()
    late: dict[int, Late] = {}
    for at in range(0, len(ids) if replays else 0, _AT_ONCE):
        late.update((each.id, each) for each in await reads.late(ids[at : at + _AT_ONCE]))
    examiner.settle_late(lambda id_: id_ in late and any(_may_be_of(replay, late[id_]) for replay in replays))


def _may_be_of(replay: FailedReplay, event: Late) -> bool:
    """Whether the event may be one that the replay was about. What became of it is not recorded any more."""
    asked = replay.filter
    if not event.created_at <= replay.requested_at <= event.delivered_at:
        return False
    if "ids" in asked:
        return event.id in asked["ids"]
    if "topic" in asked and not fnmatchcase(event.topic, str(asked["topic"])):
        return False
    return "key" not in asked or (event.key is not None and key_text(event.key) == asked["key"])
