"""A request that is recorded is followed on, though PostgreSQL may take too long to answer a look."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest

from relay.admin import failures, lanes, replays
from relay.admin.connection import Outbox
from relay.errors import BusyError
from relay.postgres.admin.failures import Failures
from relay.postgres.admin.lanes import OwnedLane, Replica

if TYPE_CHECKING:
    from collections.abc import Sequence

BUSY = BusyError("PostgreSQL took too long to answer; nothing was changed, see `relay status` and try again")
REPLICA = Replica(UUID(int=1), "one", "1.0", 1.0, 10.0, alive=True, lanes=[])


class Answers:
    """Gives one answer after the other, and the last one for ever; an error is raised."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)

    async def __call__(self, *_: object, **__: object) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_lanes_that_were_asked_for_are_waited_for_though_a_look_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owned = OwnedLane(3, REPLICA.id, REPLICA.name, 1, 0, 1.0)
    read = Answers(([REPLICA], []), BUSY, ([REPLICA], [owned]))
    recorded: list[Sequence[int]] = []

    async def record_intent(_connection: object, _schema: str, lanes: Sequence[int], **_: object) -> dict[int, int]:
        recorded.append(lanes)
        return dict.fromkeys(lanes, 1)

    monkeypatch.setattr(lanes, "read_ownership", read)
    monkeypatch.setattr(lanes, "record_intent", record_intent)
    outbox = Outbox(cast("Any", None), "outbox")
    asked, _ = await lanes.move_lanes(outbox, [3], "one", seconds=60, reason="", who="me", wait=5)
    assert recorded == [[3]]
    assert asked.ready == [3]


async def test_lanes_of_which_nothing_could_be_read_in_time_are_still_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "read_ownership", Answers(BUSY))
    monkeypatch.setattr(lanes, "record_intent", Answers({3: 1}))
    asked = await lanes.release_lanes(
        Outbox(cast("Any", None), "outbox"), [3], seconds=60, reason="", who="me", wait=0.2
    )
    assert asked.to_go == [3]


async def test_a_replay_of_failures_is_followed_though_a_look_takes_too_long() -> None:
    under_way, over = SimpleNamespace(to_go=1), SimpleNamespace(to_go=0)
    asked = SimpleNamespace(
        actions=Answers(BUSY, [under_way], BUSY, [over]), live_replicas=Answers(BUSY, 1), finish_replays=Answers(None)
    )
    reported: list[int] = []
    action = await failures.follow(cast("Any", asked), 7, lambda now, _: reported.append(now.to_go))
    assert action is cast("Any", over)
    assert reported == [1, 0]


async def test_a_replay_of_delivered_events_is_followed_though_a_look_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replays, "_PAUSE", 0.0)
    over = SimpleNamespace(published=1, failed=0, finished_at=datetime.now(UTC))
    asked = SimpleNamespace(listed=Answers(BUSY, [over]), live_replicas=Answers(1))
    assert await replays.follow(cast("Any", asked), 7, lambda *_: None) is cast("Any", over)


async def test_who_has_cancelled_a_replay_is_told_so_though_nobody_knows_how_far_it_came() -> None:
    asked = SimpleNamespace(cancel=Answers(True), listed=Answers(BUSY))
    with pytest.raises(BusyError, match="replay 7 is cancelled") as told:
        await replays.cancel_replay(cast("Any", asked), 7, "me")
    assert "nothing was changed" not in str(told.value)


async def test_a_search_for_failures_that_takes_too_long_advises_a_narrower_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.postgres.admin.failures.read_in_time", Answers(None))
    with pytest.raises(BusyError, match="try a narrower filter"):
        await Failures(cast("Any", None), "outbox").live_replicas()
