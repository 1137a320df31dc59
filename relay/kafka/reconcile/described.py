"""Asks leaders for the last sequence number of each producer in a partition (KIP-664, brokers from 2.8 on).

It is that of the log's end, of which consumers see nothing yet as long as followers are behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from relay.kafka.reconcile.leaders import by_topic
from relay.stages.reconcile.ports import Place

if TYPE_CHECKING:
    from collections.abc import Collection

    from relay.kafka.reconcile.asking import Asking


class DescribeProducersResponse(Response):
    """What a broker knows of the producers of partitions that it leads."""

    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition_index", Int32),
                        ("error_code", Int16),
                        ("error_message", CompactString("utf-8")),
                        (
                            "active_producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("current_txn_start_offset", Int64),
                                ("tags", TaggedFields),
                            ),
                        ),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeProducersRequestStruct(RequestStruct):
    """The request as it is sent."""

    FLEXIBLE_VERSION = True
    API_KEY = 61
    API_VERSION = 0
    RESPONSE_TYPE = DescribeProducersResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("partition_indexes", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


_Struct: TypeAlias = DescribeProducersRequestStruct


class DescribeProducersRequest(Request[_Struct]):
    """Asks for the producers of partitions."""

    API_KEY = 61

    def __init__(self, places: Collection[Place]) -> None:
        self._places = places

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        topics: list[Any] = [(topic, partitions, {}) for topic, partitions in by_topic(self._places).items()]
        return request_struct_class(topics, {})


async def last_sequences(asking: Asking, node: int, places: Collection[Place]) -> dict[Place, dict[int, int] | int]:
    """Return the last sequence of each producer, or Kafka's error code, for partitions that the broker `node` leads.

    A producer that has written nothing but a marker has none. Raises UnsupportedError where brokers do not know that
    question, and KafkaError or OSError.
    """
    answer: Any = await asking.ask(node, DescribeProducersRequest(places))
    return {
        Place(topic, partition): code or {producer: last for producer, _, last, *_ in producers if last >= 0}
        for topic, partitions, _ in answer.topics
        for partition, code, _, producers, _ in partitions
    }
