"""How a fence deals with what a coordinator and brokers answer; integration/test_kafka_reconcile.py has a real one."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest

from relay.kafka.reconcile import fence as fences
from relay.kafka.reconcile import transactions
from relay.kafka.reconcile.asking import UnsupportedError
from relay.kafka.reconcile.fence import Fence
from relay.kafka.reconcile.leaders import Leaders
from relay.kafka.reconcile.transactions import new_producer_id
from relay.outcome import PublishError
from relay.stages.reconcile.ports import Place, ProducerId, TroubleKind, UnfenceableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.stages.reconcile.ports import Fenced

COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, CONCURRENT = 15, 16, 51
UNKNOWN_TOPIC, NO_RIGHT, NOT_TRIED = 3, 29, 55
INVALID_EPOCH, NO_RIGHT_TO_ID, STORAGE_ERROR, INVALID_TIMEOUT = 47, 53, 56, 50
PLACES = [Place("orders", number) for number in range(4)]


class Cluster:
    """Answers as one does. Codes that are put into a queue are given first, one per request."""

    def __init__(self) -> None:
        self.leaders = dict.fromkeys(PLACES, 1)
        self.codes: dict[type, deque[int | Exception]] = {
            each: deque()
            for each in (FindCoordinatorRequest, InitProducerIdRequest, AddPartitionsToTxnRequest, EndTxnRequest)
        }
        self.faults: dict[Place, int] = {}
        self.ended = 0
        self.transactions: list[set[Place]] = []
        self.asked: list[type] = []
        self.on_end: Callable[[], None] = lambda: None
        """Called with each request to end a transaction."""

    async def ask_any(self, request: Any) -> Any:
        return await self.ask(-1, request)

    async def ask(self, node: int, request: Any) -> Any:
        kind = type(request)
        self.asked.append(kind)
        if kind is MetadataRequest:
            return self._metadata(request._topics)
        codes = self.codes[kind]
        code = codes.popleft() if codes else 0
        if isinstance(code, Exception):
            raise code
        if kind is AddPartitionsToTxnRequest:
            places = [Place(topic, number) for topic, numbers in request._topics for number in numbers]
            return self._added(places, code)
        if kind is EndTxnRequest:
            self.on_end()
        return SimpleNamespace(error_code=code, coordinator_id=1, producer_id=7, producer_epoch=3)

    def name_topic(self, topic: str) -> None:
        pass

    def learn_brokers(self, metadata: Any) -> None:
        pass

    def _metadata(self, topics: list[str]) -> Any:
        partitions: list[Any] = [(0, place.partition, leader, [], []) for place, leader in self.leaders.items()]
        known = {place.topic for place in self.leaders}
        return SimpleNamespace(
            topics=[
                (0, each, False, partitions) if each in known else (UNKNOWN_TOPIC, each, False, []) for each in topics
            ]
        )

    def _added(self, places: list[Place], code: int) -> Any:
        faults = {place: self.faults[place] for place in places if place in self.faults}
        if not faults and not code:
            self.transactions.append(set(places))
        errors: dict[str, list[tuple[int, int]]] = {}
        for place in places:
            errors.setdefault(place.topic, []).append(
                (place.partition, code or faults.get(place, NOT_TRIED if faults else 0))
            )
        return SimpleNamespace(errors=list(errors.items()))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "BACKOFF", 0.001)
    monkeypatch.setattr(fences, "MARKER_SECONDS", 0.05)


async def fenced(cluster: Any, places: list[Place] = PLACES, seconds: float = 5.0) -> Fenced:
    leaders = Leaders(cluster)
    await leaders.look({place.topic for place in places})
    return await Fence(cluster, leaders, "name").place(places, seconds)


async def test_all_partitions_go_into_transactions_of_bounded_size(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "MOST_PARTITIONS", 3)
    assert await fenced(cluster) == (ProducerId(7, 3), {})
    assert cluster.transactions == [set(PLACES[:3]), set(PLACES[3:])]


async def test_what_passes_is_asked_again(cluster: Cluster) -> None:
    cluster.codes[FindCoordinatorRequest] += [COORDINATOR_NOT_AVAILABLE, KafkaConnectionError("away")]
    cluster.codes[InitProducerIdRequest] += [NOT_COORDINATOR, CONCURRENT, STORAGE_ERROR, KafkaConnectionError("away")]
    cluster.codes[AddPartitionsToTxnRequest] += [CONCURRENT, -1]
    cluster.codes[EndTxnRequest] += [NOT_COORDINATOR, 0, CONCURRENT]
    assert (await fenced(cluster)).unfenced == {}


async def test_partitions_at_fault_are_left_out_and_the_others_fenced(cluster: Cluster) -> None:
    cluster.faults = {PLACES[0]: UNKNOWN_TOPIC, PLACES[1]: NO_RIGHT}
    unfenced = (await fenced(cluster)).unfenced
    assert {place: trouble.kind for place, trouble in unfenced.items()} == {
        PLACES[0]: TroubleKind.GONE,
        PLACES[1]: TroubleKind.RIGHTS,
    }
    assert cluster.transactions == [set(PLACES[2:])]


async def test_a_partition_without_a_leader_gets_no_marker_and_holds_up_nothing(cluster: Cluster) -> None:
    cluster.leaders[PLACES[2]] = -1
    unfenced = (await fenced(cluster)).unfenced
    assert {place: trouble.kind for place, trouble in unfenced.items()} == {PLACES[2]: TroubleKind.WAITS}
    assert cluster.transactions == [{PLACES[0], PLACES[1], PLACES[3]}]


@pytest.mark.parametrize("forgotten", [True, False], ids=["its marker is forgotten", "its marker is waited for"])
async def test_a_leader_that_goes_meanwhile_leaves_only_its_partitions_unfenced(
    cluster: Cluster, forgotten: bool
) -> None:
    def gone() -> None:
        cluster.leaders[PLACES[1]] = -1
        if not forgotten and len(cluster.codes[EndTxnRequest]) < 5:
            cluster.codes[EndTxnRequest].extend([CONCURRENT] * 5)

    cluster.on_end = gone
    unfenced = (await fenced(cluster)).unfenced
    assert {place: trouble.kind for place, trouble in unfenced.items()} == {PLACES[1]: TroubleKind.WAITS}


async def test_when_the_time_is_up_what_was_not_reached_is_unfenced(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "MOST_PARTITIONS", 2)
    cluster.codes[AddPartitionsToTxnRequest] += [0, *[CONCURRENT] * 100_000]
    unfenced = (await fenced(cluster, seconds=0.2)).unfenced
    assert unfenced.keys() == set(PLACES[2:])
    assert {trouble.kind for trouble in unfenced.values()} == {TroubleKind.WAITS}
    assert "ConcurrentTransactions" in next(iter(unfenced.values())).said


@pytest.mark.parametrize(
    ("code", "kind"), [(NO_RIGHT_TO_ID, TroubleKind.RIGHTS), (INVALID_TIMEOUT, TroubleKind.UNSUPPORTED)]
)
async def test_what_does_not_pass_is_said_immediately(cluster: Cluster, code: int, kind: TroubleKind) -> None:
    cluster.codes[InitProducerIdRequest].append(code)
    with pytest.raises(UnfenceableError) as raised:
        await fenced(cluster)
    assert raised.value.trouble.kind is kind


async def test_a_cluster_that_does_not_know_transactions_is_said_immediately(cluster: Cluster) -> None:
    cluster.codes[InitProducerIdRequest].append(UnsupportedError("the broker does not know InitProducerIdRequest"))
    with pytest.raises(UnfenceableError, match="this cluster has no transactions") as raised:
        await fenced(cluster)
    assert raised.value.trouble.kind is TroubleKind.UNSUPPORTED


@pytest.mark.parametrize("request_", [AddPartitionsToTxnRequest, EndTxnRequest])
async def test_another_fencer_is_heard_of(cluster: Cluster, request_: type) -> None:
    cluster.codes[request_].append(INVALID_EPOCH)
    with pytest.raises(PublishError) as raised:
        await fenced(cluster)
    assert raised.value.name == "ProducerFenced"


async def test_a_coordinator_that_never_comes_is_given_up_in_time_with_what_to_check(cluster: Any) -> None:
    cluster.codes[FindCoordinatorRequest] += [COORDINATOR_NOT_AVAILABLE] * 100_000
    with pytest.raises(UnfenceableError, match=r"transaction\.state\.log\.replication\.factor") as raised:
        await new_producer_id(cluster, "name", 0.05)
    assert raised.value.trouble.kind is TroubleKind.UNSUPPORTED
    with pytest.raises(UnfenceableError) as raised:
        await fenced(cluster, seconds=0.05)
    assert raised.value.trouble.kind is TroubleKind.WAITS
