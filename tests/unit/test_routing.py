"""Which partition of its topic an event goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decide import routing
from relay.decide.routing import KnownKeys, Router
from relay.kafka.partitioner import murmur2, murmur2_of_many

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize(
    ("key", "signed"),
    # What the Java client's Utils.murmur2 returns, from its UtilsTest; a negative one loses its sign before the
    # remainder is taken.
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_a_key_goes_where_the_java_client_would_send_it(key: bytes, signed: int) -> None:
    for partitions in (1, 3, 12, 100):
        router = Router(partitions, murmur2_of_many, KnownKeys())
        assert router.partitions_of({key})[key] == (signed & 0x7FFFFFFF) % partitions


@given(st.lists(st.lists(st.none() | st.binary(max_size=4))), st.integers(1, 20), st.integers(0, 600))
def test_a_key_always_goes_to_the_partition_of_its_hash(
    batches: list[list[bytes | None]], partitions: int, bound: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "KNOWN_BYTES", bound)
        router = Router(partitions, murmur2_of_many, KnownKeys())
        for batch in batches:
            found = router.partitions_of(set(batch))
            for key in batch:
                assert key is None or found[key] == murmur2(key) % 2**31 % partitions


def test_remembering_keys_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "KNOWN_BYTES", 3 * (routing.KNOWN_KEY_BYTES + 1))
    hashed: list[bytes] = []

    def hash_keys(keys: Sequence[bytes]) -> list[int]:
        hashed.extend(keys)
        return murmur2_of_many(keys)

    router = Router(12, hash_keys, KnownKeys())
    keys = [b"%d" % number for number in range(10)]
    for key in keys * 2:
        known = router.partitions_of({key})
        assert known[key] == murmur2(key) % 2**31 % 12
        assert len(known) <= 3
    hashed.clear()
    router.partitions_of(set(keys[-2:]))
    assert hashed == [], "a key that is remembered is hashed again"
    batch: set[bytes | None] = {keys[0], keys[1], keys[-1]}
    assert set(router.partitions_of(batch)) == batch
    assert set(hashed) == batch, "what was forgotten to make room for others of the batch is hashed again"


def test_the_bound_is_one_for_all_topics_and_counts_the_bytes_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "KNOWN_BYTES", 100_000)
    known_keys = KnownKeys()
    routers = [Router(12, murmur2_of_many, known_keys) for _ in range(50)]
    known = [router.partitions_of(set()) for router in routers]
    for number in range(20):
        for router in routers:
            router.partitions_of({b"%d" % number * 500})
            assert sum(len(key) + routing.KNOWN_KEY_BYTES for keys in known for key in keys) <= 100_000
    assert known[-1], "nothing is remembered any more"


def test_events_without_a_key_go_round_a_batch_at_a_time() -> None:
    router = Router(3, murmur2_of_many, KnownKeys())
    assert [router.next_turn() for _ in range(4)] == [0, 1, 2, 0]


def test_an_empty_key_is_a_key() -> None:
    router = Router(7, murmur2_of_many, KnownKeys())
    assert router.partitions_of({b"", None}) == {b"": (murmur2(b"") & 0x7FFFFFFF) % 7}


def test_a_topic_without_partitions_is_no_topic() -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        Router(0, murmur2_of_many, KnownKeys())
