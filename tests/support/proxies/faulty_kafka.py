"""Between the relay and a real Kafka: passes everything on, and answers requests of one kind with an error code.

The clients come through it because the broker advertises it: see tests/support/proxies/delayed_kafka.py.
"""

from __future__ import annotations

import asyncio
import io
import struct
from dataclasses import dataclass, field
from typing import Any

import aiokafka.protocol.admin as admin
import aiokafka.protocol.metadata as metadata
import aiokafka.protocol.produce as produce
import aiokafka.protocol.transaction as transaction
from aiokafka.protocol.api import RequestHeader_v1, RequestStruct

from tests.support.proxies.links import Links

PRODUCE, METADATA, API_VERSIONS, CREATE_TOPICS, INIT_PRODUCER_ID, DESCRIBE_CONFIGS = 0, 3, 18, 19, 22, 32
TIMED_OUT = 7
SASL_HANDSHAKE, SASL_AUTHENTICATE = 17, 36

REQUESTS: dict[tuple[int, int], type[RequestStruct]] = {
    (each.API_KEY, each.API_VERSION): each
    for module in (admin, metadata, produce, transaction)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, RequestStruct) and each is not RequestStruct
}


@dataclass
class Fault:
    """An error code for the next `times` requests of a kind."""

    api: int
    code: int
    times: int
    appended: bool = False
    """The broker did what was asked, and only its answer is another. For produce requests; others change nothing."""
    partition: int | None = None
    """Only produce requests with this partition. The others in them are to be sent again (REQUEST_TIMED_OUT), or, if
    the broker appended them, have its own answer."""
    given: int = 0
    used_up: asyncio.Event = field(default_factory=asyncio.Event)

    def give(self) -> None:
        """It was given once more."""
        self.given += 1
        if self.given >= self.times:
            self.used_up.set()


@dataclass
class Expected:
    """An answer that a client waits for: made here, or to come from the broker and perhaps to be changed."""

    request: RequestStruct | None = None
    fault: Fault | None = None
    made: bytes = b""


class FaultyKafka(Links):
    """Listens on `port`; the broker is at `server_port`."""

    read_limit = 1 << 20

    def __init__(self, server_port: int, port: int) -> None:
        super().__init__(server_port, port)
        self._faults: list[Fault] = []

    def fault(
        self, api: int, code: int, times: int = 1, *, appended: bool = False, partition: int | None = None
    ) -> Fault:
        """Have a fault from now on."""
        fault = Fault(api, code, times, appended, partition)
        self._faults.append(fault)
        return fault

    def end_faults(self) -> None:
        """Answer as the broker does."""
        self._faults.clear()

    async def pass_between(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass requests on in their order, and answer them in that order."""
        expected: asyncio.Queue[Expected] = asyncio.Queue()
        async with asyncio.TaskGroup() as directions:
            directions.create_task(self._ask(client[0], server[1], expected))
            directions.create_task(self._answer(server[0], client[1], expected))

    async def _ask(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, expected: asyncio.Queue[Expected]
    ) -> None:
        while True:
            frame = await read_frame(reader)
            api, version = struct.unpack_from(">hh", frame)
            kind = REQUESTS.get((api, version))
            fault = next((each for each in self._faults if each.api == api and not each.used_up.is_set()), None)
            if kind is None or fault is None:
                expected.put_nowait(Expected())
            else:
                request, correlation_id = _decode_request(kind, frame)
                if fault.partition is not None and fault.partition not in _partitions(request):
                    expected.put_nowait(Expected())
                else:
                    fault.give()
                    if api == PRODUCE and not fault.appended:
                        expected.put_nowait(Expected(made=_refusal(request, correlation_id, fault)))
                        continue
                    expected.put_nowait(Expected(request, fault))
            to_server.write(struct.pack(">i", len(frame)) + frame)
            await to_server.drain()

    async def _answer(
        self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter, expected: asyncio.Queue[Expected]
    ) -> None:
        """In the order of the requests, as a broker answers."""
        while True:
            each = await expected.get()
            answer = each.made or await read_frame(from_server)
            if each.request is not None and each.fault is not None:
                answer = _changed(each.request, answer, each.fault)
            writer.write(struct.pack(">i", len(answer)) + answer)
            await writer.drain()


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read one request or answer, without its length. Raises ConnectionResetError at the end."""
    try:
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError:
        raise ConnectionResetError("the other side closed") from None


def _decode_request(kind: type[RequestStruct], frame: bytes) -> tuple[RequestStruct, int]:
    assert not kind.FLEXIBLE_VERSION, f"{kind.__name__} has a header that is not read here"
    body = io.BytesIO(frame)
    fields: Any = RequestHeader_v1.SCHEMA.decode(body)
    correlation_id: int = fields[2]
    return kind.decode(body), correlation_id


def _partitions(request: Any) -> set[int]:
    return {number for _, partitions in request.topics for number, _ in partitions}


def _refusal(request: Any, correlation_id: int, fault: Fault) -> bytes:
    """The answer to a produce request that the broker never sees."""
    answer_type = request.RESPONSE_TYPE
    rest: list[Any] = [-1, -1, -1, [], None]
    fields = len(answer_type.SCHEMA.fields[0].array_of.fields[1].array_of.fields) - 2
    topics = [
        (topic, [(number, _code(fault, number), *rest[:fields]) for number, _ in partitions])
        for topic, partitions in request.topics
    ]
    return struct.pack(">i", correlation_id) + bytes(answer_type(topics, 0).encode())


def _code(fault: Fault, partition: int) -> int:
    return fault.code if fault.partition in (None, partition) else TIMED_OUT


def _changed(request: RequestStruct, answer: bytes, fault: Fault) -> bytes:
    """A broker's answer with another error code in it, and without what would not come with it."""
    code = fault.code
    head, body = answer[:4], answer[4:]
    decoded: Any = request.RESPONSE_TYPE.decode(io.BytesIO(body))
    fields = {name: getattr(decoded, name) for name in decoded.SCHEMA.names}
    match request.API_KEY:
        case 17:
            fields |= {"error_code": code, "enabled_mechanisms": []}
        case 36:
            fields |= {"error_code": code, "error_message": None, "sasl_auth_bytes": b""}
        case 18:
            fields |= {"error_code": code, "api_versions": []}
        case 22:
            fields |= {"error_code": code, "producer_id": -1, "producer_epoch": -1}
        case 3:
            fields["topics"] = [(code, *rest[:-1], []) for _, *rest in fields["topics"]]
        case 32:
            fields["resources"] = [(code, None, kind, name, []) for _, _, kind, name, _ in fields["resources"]]
        case 19:
            fields["topic_errors"] = [(topic, code, *rest) for topic, _, *rest in fields["topic_errors"]]
        case 0:
            fields["topics"] = [
                (
                    topic,
                    [
                        (number, code if fault.partition in (None, number) else itself, *rest)
                        for number, itself, *rest in partitions
                    ],
                )
                for topic, partitions in fields["topics"]
            ]
    return head + bytes(request.RESPONSE_TYPE(*fields.values()).encode())
