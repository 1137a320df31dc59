"""A producer that cannot be fenced is found to be outdated as soon as another one could be."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, cast

import pytest

from relay.outcome import FailureKind, PublishError
from relay.stages.reconcile import refencing
from relay.stages.reconcile.refencing import until_fenceable
from tests.support.waiting import until

if TYPE_CHECKING:
    from relay.stages.reconcile.ports import KafkaReconcilePort


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refencing, "AGAIN_AFTER", 0.001)


class Names:
    """Names that were never used."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def name(self) -> str | None:
        return f"outbox-p-{next(self._numbers)}"

    def is_fenceable(self, name: str) -> bool:
        return not name.startswith("producer-")


class Kafka:
    """Answers whether there are producer ids, one answer after the other; the last one for ever."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def can_fence(self, name: str, seconds: float) -> bool:
        assert seconds > 0
        self.asked.append(name)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_it_is_when_the_coordinator_answers_though_kafka_was_away_meanwhile() -> None:
    kafka = Kafka(False, PublishError(FailureKind.CLUSTER, "away"), False, True)
    async with asyncio.timeout(30):
        await until_fenceable(cast("KafkaReconcilePort", kafka), Names(), "producer-7")
    assert kafka.asked == [f"outbox-p-{number}" for number in range(1, 5)], "each id once"


async def test_it_is_not_while_there_is_no_coordinator() -> None:
    kafka = Kafka(False)
    waiting = asyncio.create_task(until_fenceable(cast("KafkaReconcilePort", kafka), Names(), "producer-7"))

    async def asked() -> bool:
        return len(kafka.asked) > 20

    await until("it was tried often", asked)
    assert not waiting.done()
    waiting.cancel()


@pytest.mark.parametrize("producer", ["outbox-p-1", None])
async def test_one_that_can_be_fenced_or_is_not_noted_never_is(producer: str | None) -> None:
    kafka = Kafka(True)
    waiting = asyncio.create_task(until_fenceable(cast("KafkaReconcilePort", kafka), Names(), producer))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    assert kafka.asked == []
    waiting.cancel()
