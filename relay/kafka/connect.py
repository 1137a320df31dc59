"""Waits for Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from relay.kafka.producer import KafkaProducer
from relay.outcome import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.settings import KafkaSettings, TopicSettings


async def wait_for_producer(
    settings: KafkaSettings, topics: TopicSettings, on_failure: Callable[[PublishError], None]
) -> KafkaProducer:
    """Connect a producer, trying until it works, with exponential backoff and jitter up to 5 s between tries.

    Whatever Kafka says, it is waited for: a wrong password is put right on one side or the other, and nothing is
    lost meanwhile. `on_failure` hears of every failed try.
    """

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, PublishError):
            on_failure(error)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(PublishError),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        before_sleep=report,
    )
    return await retrying(KafkaProducer.connect, settings, topics)
