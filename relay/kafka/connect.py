"""Connects producers, and waits for Kafka until that works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from relay.errors import SettingsError
from relay.kafka.errors import unreachable
from relay.kafka.options import FileError, Security
from relay.kafka.producer import KafkaProducer

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.decide.cloud_events import CloudEvents
    from relay.outcome import PublishError
    from relay.settings import KafkaSettings, TopicSettings
    from relay.stages.reconcile.ports import Enlistment


def check_files(settings: KafkaSettings) -> None:
    """Raise SettingsError when a certificate, key or password in a file cannot be used.

    To be called at the start, when the person who made the mistake is watching. Later the relay waits: the file may be
    in the middle of being written.
    """
    try:
        Security(settings).check_files()
    except FileError as error:
        raise SettingsError(str(error)) from error


async def wait_for_producer(
    settings: KafkaSettings,
    topics: TopicSettings,
    on_failure: Callable[[PublishError], None],
    *,
    security: Security | None = None,
    cloud_events: CloudEvents | None = None,
    enlistment: Enlistment | None = None,
) -> KafkaProducer:
    """Connect a producer; try until it works, with exponential backoff and jitter of up to 5 s between tries.

    `security` is shared by the producers of a process, so that they share a token and what was read from files.

    No error ends the wait: a wrong password is corrected on one side or the other, and no event is lost until then.
    `on_failure` hears of every failed try, and `enlistment` of each producer before it can be used.
    """

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Exception):
            on_failure(unreachable(error))

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Exception),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        before_sleep=report,
    )
    return await retrying(
        KafkaProducer.connect,
        settings,
        topics,
        security=security,
        cloud_events=cloud_events,
        enlistment=enlistment,
    )
