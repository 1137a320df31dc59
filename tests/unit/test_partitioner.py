"""The partition hash is Kafka's."""

from __future__ import annotations

import aiokafka.partitioner
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.kafka.partitioner import murmur2


@given(st.binary(max_size=200))
def test_it_equals_the_hash_of_the_kafka_client(data: bytes) -> None:
    assert murmur2(data) == aiokafka.partitioner.murmur2(data) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "signed"),
    # From Kafka's own UtilsTest.testMurmur2.
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_it_gives_the_values_that_the_java_client_is_tested_with(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed & 0xFFFFFFFF
