"""Which partition of its topic an event goes to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decide import routing
from relay.decide.routing import KnownKeys, Router
from relay.kafka.partitioner import murmur2


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
        assert Router(partitions, murmur2, KnownKeys()).partition(key) == (signed & 0x7FFFFFFF) % partitions


@given(st.lists(st.binary(max_size=4)), st.integers(1, 20))
def test_a_key_always_goes_to_the_same_partition(keys: list[bytes], partitions: int) -> None:
    router = Router(partitions, murmur2, KnownKeys())
    first = [router.partition(key) for key in keys]
    router.next_turn()
    assert [router.partition(key) for key in keys] == first
    assert all(0 <= partition < partitions for partition in first)


def test_remembering_keys_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "KNOWN_BYTES", 3 * (routing.KNOWN_KEY_BYTES + 1))
    hashed: list[bytes] = []

    def hash_key(key: bytes) -> int:
        hashed.append(key)
        return murmur2(key)

    router = Router(12, hash_key, KnownKeys())
    keys = [b"%d" % number for number in range(10)]
    assert [router.partition(key) for key in keys * 2] == [murmur2(key) % 2**31 % 12 for key in keys * 2]
    assert len(router.known) <= 3
    hashed.clear()
    router.partition(keys[-1])
    assert hashed == [], "a key that is remembered is hashed again"


def test_the_bound_is_one_for_all_topics_and_counts_the_bytes_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "KNOWN_BYTES", 100_000)
    known_keys = KnownKeys()
    routers = [Router(12, murmur2, known_keys) for _ in range(50)]
    for number in range(20):
        for router in routers:
            router.partition(b"%d" % number * 500)
            known = [each.known for each in routers]
            assert sum(len(key or b"") + routing.KNOWN_KEY_BYTES for keys in known for key in keys) <= 100_000
    assert routers[-1].known, "nothing is remembered any more"


def test_events_without_a_key_go_round_a_batch_at_a_time() -> None:
    router = Router(3, murmur2, KnownKeys())
    turns = []
    for _ in range(4):
        turns.append((router.partition(None), router.partition(None)))
        router.next_turn()
    assert turns == [(0, 0), (1, 1), (2, 2), (0, 0)]


def test_an_empty_key_is_a_key() -> None:
    router = Router(7, murmur2, KnownKeys())
    first = router.partition(b"")
    router.next_turn()
    assert router.partition(b"") == first == (murmur2(b"") & 0x7FFFFFFF) % 7


def test_a_topic_without_partitions_is_no_topic() -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        Router(0, murmur2, KnownKeys())
