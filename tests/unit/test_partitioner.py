"""The partition hash is Kafka's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiokafka.partitioner
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.kafka.partitioner import murmur2, murmur2_of_many

if TYPE_CHECKING:
    from random import Random


@given(st.binary(max_size=200))
def test_the_hash_of_a_key_equals_that_of_the_kafka_client(data: bytes) -> None:
    assert murmur2(data) == aiokafka.partitioner.murmur2(data) & 0xFFFFFFFF


@given(st.integers(0, 40), st.integers(0, 60), st.randoms(use_true_random=False), st.lists(st.binary(max_size=9)))
def test_many_keys_at_once_have_the_hashes_that_each_has_alone(
    length: int, count: int, random: Random, others: list[bytes]
) -> None:
    keys = others + [random.randbytes(length) for _ in range(count)]
    random.shuffle(keys)
    assert murmur2_of_many(keys) == [aiokafka.partitioner.murmur2(key) & 0xFFFFFFFF for key in keys]


@pytest.mark.parametrize(
    ("data", "signed"),
    # From Kafka's own UtilsTest.testMurmur2.
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_the_hash_of_a_key_has_the_values_that_the_java_client_is_tested_with(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed & 0xFFFFFFFF
