"""Requests about what this client may do, which aiokafka has not, or has not new enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeAlias

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class OperationsResponse(Response):
    """Topics, each with what the client may do with it, as bits."""

    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", String()), ("port", Int32), ("rack", String()))),
        ("cluster_id", String()),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String()),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
        ("cluster_operations", Int32),
    )


class OperationsRequestStruct(RequestStruct):
    """The request as it is sent."""

    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = OperationsResponse
    SCHEMA = Schema(
        ("topics", Array(String())),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_operations", Boolean),
        ("include_topic_operations", Boolean),
    )


class AskOperations(Request[OperationsRequestStruct]):
    """Asks for topics, and for what we may do with them. aiokafka's own question is too old to ask for that."""

    API_KEY: ClassVar[int] = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[OperationsRequestStruct]) -> OperationsRequestStruct:
        """Return the request in the version that the broker knows."""
        return request_struct_class(self._topics, False, False, True)


class TransactionalIdResponse(Response):
    """What a broker knows of a transactional id, or why it does not tell."""

    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "states",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("state", CompactString("utf-8")),
                ("timeout_ms", Int32),
                ("start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(
                        ("topic", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class TransactionalIdRequestStruct(RequestStruct):
    """The request as it is sent."""

    FLEXIBLE_VERSION = True
    API_KEY = 65
    API_VERSION = 0
    RESPONSE_TYPE = TransactionalIdResponse
    SCHEMA = Schema(("transactional_ids", CompactArray(CompactString("utf-8"))), ("tags", TaggedFields))


_IdStruct: TypeAlias = TransactionalIdRequestStruct


class DescribeTransactionalId(Request[_IdStruct]):
    """Asks any broker about a transactional id; nothing is made for it, as it is by asking for its coordinator."""

    API_KEY: ClassVar[int] = 65

    def __init__(self, name: str) -> None:
        self._name = name

    def build(self, request_struct_class: type[_IdStruct]) -> _IdStruct:
        """Return the request in the version that the broker knows."""
        return request_struct_class([self._name], {})
