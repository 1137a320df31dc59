"""The transaction coordinator's four requests, for one transactional id.

aiokafka's transactional producer asks for a missing coordinator, and for an unknown partition, for ever. Here every
wait is bounded by whoever calls, and the last reason for waiting is told.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiokafka.errors as kafka
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest

from relay.kafka.reconcile.asking import UnsupportedError
from relay.kafka.reconcile.leaders import by_topic
from relay.outcome import FailureKind, PublishError
from relay.stages.reconcile.ports import Place, ProducerId, Trouble, TroubleKind, UnfenceableError

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiokafka.protocol.api import Request

    from relay.kafka.reconcile.asking import Asking

BACKOFF = 0.02
"""Seconds between two tries. A marker is written within milliseconds."""

TIMEOUT_MS = 15_000
"""After which Kafka ends a transaction that nobody ends. Brokers take up to 15 minutes, unless they were told less."""

_TRANSACTION = 1
"""The type of coordinator."""

_COORDINATOR_MOVED = frozenset(
    {kafka.CoordinatorNotAvailableError.errno, kafka.NotCoordinatorError.errno, kafka.RequestTimedOutError.errno}
)
_HOPELESS = frozenset({kafka.UnsupportedVersionError.errno, kafka.InvalidRequestError.errno, 50})
"""Errors that do not go away; 50 is INVALID_TRANSACTION_TIMEOUT. Any other may: to go on without a fence is worse than
to ask again."""
_FENCED = frozenset(
    {
        kafka.InvalidProducerEpoch.errno,
        kafka.InvalidProducerIdMapping.errno,
        kafka.InvalidTxnState.errno,
        90,  # PRODUCER_FENCED
    }
)
"""Somebody else has taken over the transactional id."""
_FAULTS = frozenset({kafka.UnknownTopicOrPartitionError.errno, kafka.TopicAuthorizationFailedError.errno})
"""Errors of single partitions, on account of which the others were not tried either."""
_UNAUTHORIZED = frozenset({kafka.TransactionalIdAuthorizationFailed.errno, kafka.ClusterAuthorizationFailedError.errno})


class Transactions:
    """What is asked of the coordinator of one transactional id. Every method tries until it is cancelled.

    Raises UnfenceableError when the id cannot be used, and PublishError when somebody else has taken it over.
    """

    def __init__(self, asking: Asking, name: str) -> None:
        self._asking = asking
        self._name = name
        self._coordinator: int | None = None
        self.waits_for = "no answer from Kafka"
        """Why the last try did not succeed."""

    async def begin(self) -> ProducerId:
        """Take the id over: return its producer id with an epoch that is higher than all before."""
        while True:
            answer = await self._ask(InitProducerIdRequest(self._name, TIMEOUT_MS))
            if await self._succeeded(answer.error_code):
                return ProducerId(answer.producer_id, answer.producer_epoch)

    async def add(self, producer: ProducerId, places: Collection[Place]) -> dict[Place, int]:
        """Add partitions to the transaction; return the error codes of those that are at fault.

        If there are any, none was added.
        """
        while True:
            topics = list(by_topic(places).items())
            answer = await self._ask(AddPartitionsToTxnRequest(self._name, *producer, topics))
            codes = {Place(topic, number): code for topic, of_topic in answer.errors for number, code in of_topic}
            faults = {place: code for place, code in codes.items() if code in _FAULTS}
            if faults or await self._succeeded(max(codes.values(), default=0)):
                return faults

    async def abort(self, producer: ProducerId) -> None:
        """End the transaction. Kafka writes a marker into each of its partitions from then on."""
        while True:
            answer = await self._ask(EndTxnRequest(self._name, *producer, False))
            if await self._succeeded(answer.error_code):
                return

    async def _succeeded(self, code: int) -> bool:
        """Return whether a request succeeded; wait a little if it is to be sent again."""
        if not code:
            return True
        error = kafka.for_code(code)
        if code in _UNAUTHORIZED:
            raise UnfenceableError(
                Trouble(
                    TroubleKind.RIGHTS,
                    f"no right to the transactional id {self._name} ({error.__name__}); "
                    "grant the relay WRITE and DESCRIBE on it",
                )
            )
        if code in _FENCED:
            raise PublishError(
                FailureKind.CLUSTER,
                f"another replica has taken over the transactional id {self._name} meanwhile",
                kafka.ProducerFenced.__name__,
            )
        if code in _COORDINATOR_MOVED:
            self._coordinator = None
        elif code in _HOPELESS:
            raise UnfenceableError(
                Trouble(TroubleKind.UNSUPPORTED, f"Kafka refuses the transactional id {self._name}: {error.__name__}")
            )
        self.waits_for = error.__name__
        await asyncio.sleep(BACKOFF)
        return False

    async def _ask(self, request: Request[Any]) -> Any:
        """Return the coordinator's answer."""
        while True:
            try:
                if self._coordinator is None:
                    self._coordinator = await self._find()
                return await self._asking.ask(self._coordinator, request)
            except UnsupportedError as error:
                raise UnfenceableError(
                    Trouble(TroubleKind.UNSUPPORTED, f"this cluster has no transactions: {error}")
                ) from error
            except (kafka.KafkaError, OSError) as error:
                self._coordinator = None
                self.waits_for = str(error) or type(error).__name__
                await asyncio.sleep(BACKOFF)

    async def _find(self) -> int:
        while True:
            answer = await self._asking.ask_any(FindCoordinatorRequest(self._name, _TRANSACTION))
            if await self._succeeded(answer.error_code):
                coordinator: int = answer.coordinator_id
                return coordinator


async def new_producer_id(asking: Asking, name: str, seconds: float) -> ProducerId:
    """Return the producer id of a transactional id that was never used before, within `seconds`.

    Raises UnfenceableError, which says why there is none. Some clusters never have a coordinator: for a single broker,
    for example, with the default `transaction.state.log.replication.factor`, which is 3.
    """
    transactions = Transactions(asking, name)
    try:
        async with asyncio.timeout(seconds):
            return await transactions.begin()
    except TimeoutError as error:
        raise UnfenceableError(
            Trouble(
                TroubleKind.UNSUPPORTED,
                f"no producer id for the transactional id {name} within {seconds:g} s ({transactions.waits_for}); "
                "check transaction.state.log.replication.factor and transaction.state.log.min.isr of the brokers",
            )
        ) from error
