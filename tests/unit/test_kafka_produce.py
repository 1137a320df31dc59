"""A produce request on the wire is byte for byte what aiokafka writes."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceResponse_v8
from hypothesis import given
from hypothesis import strategies as st

from relay.kafka.connection import Connection
from relay.kafka.produce import COPIED_BYTES, Produce, QuickResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

BATCH = bytearray(70_000)
TOPICS = [("orders", [(0, bytearray(b"first")), (11, BATCH)]), ("ördérs", [(3, b"")])]


class Wire:
    """A connection's writer, which keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.broken: OSError | None = None
        self.transport = None
        self.pieces: list[Any] = []

    def write(self, data: bytes) -> None:
        self.writelines([data])

    def writelines(self, data: Iterable[bytes]) -> None:
        if self.broken is not None:
            raise self.broken
        self.pieces = list(data)
        self.written += b"".join(self.pieces)

    def close(self) -> None:
        """Nothing is open."""


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
numbers = st.integers(0, 2**31 - 1)
record_batches = st.binary(max_size=50) | st.integers(COPIED_BYTES - 1, COPIED_BYTES + 1).map(bytes)
acknowledgements = st.tuples(
    numbers, st.just(0), st.integers(-1, 2**63 - 1), st.just(-1), st.integers(0, 9), st.just([]), st.none()
)
refusals = st.tuples(
    numbers,
    st.integers(-1, 90),
    st.just(-1),
    st.just(-1),
    st.just(-1),
    st.lists(st.tuples(numbers, st.none() | texts), max_size=2),
    st.none() | texts,
)
answers = st.lists(
    st.tuples(texts, st.lists(acknowledgements, max_size=4) | st.lists(acknowledgements | refusals, max_size=4)),
    max_size=3,
)


@pytest.fixture
async def connection() -> Any:
    return connected(asyncio.get_running_loop(), 8)


def connected(loop: asyncio.AbstractEventLoop, version: int) -> Any:
    new: Any = Connection
    made = new("kafka", 9092, client_id="relay", request_timeout_ms=50)
    made._writer = Wire()
    made._versions = {Produce.API_KEY: (0, version), MetadataRequest.API_KEY: (0, 5)}
    made._loop = loop
    return made


def request(topics: Any = TOPICS, transactional_id: str | None = None) -> Produce:
    return Produce(transactional_id=transactional_id, required_acks=-1, timeout=30_000, topics=topics)


@given(
    st.none() | texts,
    st.lists(st.tuples(texts, st.lists(st.tuples(numbers, record_batches), max_size=4)), max_size=3),
)
def test_the_parts_joined_are_what_aiokafka_encodes(transactional_id: str | None, topics: Any) -> None:
    asked = request(topics, transactional_id)
    for version in range(3, 9):
        struct = asked.prepare({Produce.API_KEY: (0, version)})
        assert {struct.API_VERSION} == {version}
        message = b"header" + struct.encode()
        assert b"".join(asked.frame(b"header")) == len(message).to_bytes(4, "big") + message


@given(answers, st.integers(0, 60_000), st.none() | st.integers(0, 300))
def test_an_answer_is_read_as_aiokafka_reads_it(topics: Any, throttled: int, cut: int | None) -> None:
    answer = ProduceResponse_v8(topics, throttled).encode()[:cut]
    try:
        expected: Any = ProduceResponse_v8.decode(answer)
    except ValueError:
        for data in (answer, BytesIO(answer)):
            with pytest.raises(ValueError, match=r"hit error|underrun|codec"):
                QuickResponse.decode(data)
    else:
        for data in (answer, BytesIO(answer)):
            read: Any = QuickResponse.decode(data)
            assert (read.topics, read.throttle_time_ms, read.API_VERSION) == (
                expected.topics,
                expected.throttle_time_ms,
                8,
            )


@pytest.mark.parametrize("version", range(3, 9))
async def test_a_connection_writes_what_that_of_aiokafka_writes(version: int) -> None:
    ours, theirs = (connected(asyncio.get_running_loop(), version) for _ in range(2))
    answers = [
        asyncio.ensure_future(ours.send(request())),
        asyncio.ensure_future(AIOKafkaConnection.send(theirs, request())),
    ]
    assert ours._writer.written == theirs._writer.written
    for mine, other in zip(ours._requests, theirs._requests, strict=True):
        assert mine[:2] == other[:2]
        assert type(mine[1]) is type(other[1])
    # Nobody answers: both give up, and in the same way.
    for answer in answers:
        with pytest.raises(TimeoutError):
            await answer


async def test_a_record_batch_is_written_and_not_copied(connection: Any) -> None:
    answer = asyncio.ensure_future(connection.send(request()))
    assert any(piece is BATCH for piece in connection._writer.pieces)
    connection._requests[0][2].set_result("answered")
    assert await answer == "answered"


async def test_small_record_batches_are_written_as_one_piece(connection: Any) -> None:
    small = [("orders", [(number, bytearray(600)) for number in range(12)])]
    answer = asyncio.ensure_future(connection.send(request(small)))
    assert len(connection._writer.pieces) == 1
    connection._requests[0][2].set_result("answered")
    assert await answer == "answered"


async def test_other_requests_are_written_by_aiokafka(connection: Any) -> None:
    answer = asyncio.ensure_future(connection.send(MetadataRequest([])))
    assert len(connection._writer.pieces) == 1
    connection._requests[0][2].set_result("answered")
    assert await answer == "answered"


async def test_a_connection_that_breaks_is_closed_and_its_requests_hear_of_it(connection: Any) -> None:
    earlier = asyncio.ensure_future(connection.send(request()))
    connection._reader = object()
    connection._read_task = connection._loop.create_future()
    connection._read_task.set_result(None)
    connection._writer.broken = BrokenPipeError("broken pipe")
    with pytest.raises(KafkaConnectionError, match="broken pipe"):
        connection.send(request())
    assert connection._writer is None
    with pytest.raises(KafkaConnectionError, match="closed"):
        await earlier


async def test_nothing_is_sent_on_a_closed_connection(connection: Any) -> None:
    connection._writer = None
    with pytest.raises(KafkaConnectionError):
        connection.send(request())
