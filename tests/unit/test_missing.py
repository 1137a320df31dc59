"""Thousands of topics that are not there: asked for together, and each known soon after it was made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from relay.outcome import FailureKind, PublishError
from relay.stages.publish import missing as module
from relay.stages.publish.missing import FEW, Missing
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.stages.publish.producers import Keeper

NAMES = [f"missing-{number}" for number in range(1_000)]


class FakeKafka:
    """A keeper and its producer, in one; fails the first question."""

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.asked: list[int] = []

    async def ready(self) -> FakeKafka:
        return self

    async def asked_twice(self) -> bool:
        return len(self.asked) >= 9

    async def existing(self, topics: Sequence[str]) -> list[str]:
        self.asked.append(len(topics))
        if len(self.asked) == 1:
            raise PublishError(FailureKind.CLUSTER, "away")
        return [topic for topic in topics if topic in self.topics]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASKED_EVERY", 0.04)


async def test_few_missing_topics_keep_their_own_pace_and_the_others_are_asked_for_together() -> None:
    kafka = FakeKafka()
    missing = Missing(cast("Keeper", kafka))
    waiting = {name: asyncio.create_task(missing.wait(name, 3_600)) for name in NAMES}
    try:
        await until("all were asked for twice", kafka.asked_twice)
        assert sum(kafka.asked[:4]) == len(NAMES) - FEW
        assert max(kafka.asked) <= module.MOST_NAMES
        assert not any(task.done() for task in waiting.values())

        kafka.topics = {NAMES[-1]}
        async with asyncio.timeout(10):
            await waiting[NAMES[-1]]
        assert sum(task.done() for task in waiting.values()) == 1
    finally:
        for task in waiting.values():
            task.cancel()
        await asyncio.gather(*waiting.values(), return_exceptions=True)
    assert missing._asking is not None
    async with asyncio.timeout(10):
        await missing._asking


async def test_a_missing_topic_is_asked_for_by_itself_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """That may also create it, or tell another reason."""
    monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(module, "LONGEST", 0.05)
    async with asyncio.timeout(10):
        await Missing(cast("Keeper", FakeKafka())).wait("missing", 3_600)
