"""What Kafka gets of events, and that aiokafka's inner builder makes of them what its public interface makes."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from relay.decide.limits import ANY_TIME
from relay.event import EventTuple, PendingEvent
from relay.kafka import packing
from relay.kafka.packing import Inner, Packer, Public, Way, fastest_way, works

if TYPE_CHECKING:
    from relay.kafka.packing import KafkaBatch

CREATED = 1_700_000_000_123
ALL = 10_000
ROOM = 4_000
WAYS: list[Way] = [Inner(), Public()]
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
events = st.lists(
    st.builds(
        lambda id_, key, payload, headers, type_, created: event(
            id_, key=key, payload=payload, headers=headers, type_=type_, created_ms=created
        ),
        id_=st.integers(1, 2**63 - 1),
        key=st.none() | st.binary(max_size=40),
        payload=st.none() | st.binary(max_size=400),
        headers=st.none() | st.dictionaries(texts, texts, max_size=3),
        type_=st.none() | texts,
        created=st.integers(0, 2**42),
    ),
    min_size=1,
    max_size=30,
)


def event(
    id_: int = 7,
    *,
    key: bytes | None = b"key",
    payload: bytes | None = b"payload",
    headers: dict[str, str] | None = None,
    type_: str | None = None,
    created_ms: int = CREATED,
) -> EventTuple:
    written = None if headers is None else json.dumps(headers)
    size = len(key or b"") + len(payload or b"") + len(written or "")
    return EventTuple(0, id_, UUID(int=id_), "orders", key, payload, written, type_, created_ms, size)


def packer(way: Way, *, created: bool = True, codec: int = 0) -> Packer:
    return Packer(partial(BatchBuilder, ROOM, codec), batch_bytes=ROOM, created=created, way=way)


def built(batch: KafkaBatch) -> bytes:
    return bytes(batch.builder._build())


def read(batch: KafkaBatch) -> list[Any]:
    records = MemoryRecords(built(batch)).next_batch()
    assert records is not None
    assert records.validate_crc()
    return list(records)


def test_the_inner_builder_of_the_installed_aiokafka_is_used() -> None:
    """If this fails after an upgrade, all works as before, but packing takes a quarter longer: see `Inner`."""
    assert works(Inner())
    assert isinstance(fastest_way(), Inner)


@given(events, st.integers(1, 40), st.none() | st.integers(1, 8_000), st.booleans())
def test_both_ways_pack_the_same_events_into_the_same_bytes(
    waiting: list[PendingEvent], most: int, max_bytes: int | None, created: bool
) -> None:
    clock = pytest.MonkeyPatch()
    with clock.context() as patched:
        patched.setattr("time.time_ns", lambda: 1_800_000_000_000_000_000)
        inner, public = (packer(way, created=created).pack(waiting, most, max_bytes, (2**40, 2**41)) for way in WAYS)
    assert inner.events == public.events == waiting[: len(inner.events)]
    assert (inner.size, inner.restamped) == (public.size, public.restamped)
    assert inner.builder.record_count() == len(inner.events)
    assert inner.builder.closed()
    assert inner.builder.size() == public.builder.size()
    assert built(inner) == built(public)


@pytest.mark.parametrize("way", WAYS)
class TestEitherWay:
    def test_a_record_has_key_payload_time_and_the_relays_headers_behind_the_writers(self, way: Way) -> None:
        written = event(7, headers={"outbox-id": "mine", "traceparent": "00-é"}, type_="order.paid")
        (record,) = read(packer(way).pack([written], ALL, None))
        assert (record.key, record.value, record.timestamp) == (b"key", b"payload", CREATED)
        assert list(record.headers) == [
            ("outbox-id", b"mine"),
            ("traceparent", "00-é".encode()),
            ("outbox-event-id", str(UUID(int=7)).encode()),
            ("outbox-id", b"7"),
            ("outbox-type", b"order.paid"),
        ]

    def test_no_key_no_payload_and_empty_ones_are_told_apart(self, way: Way) -> None:
        pairs = [(None, None), (b"", b""), (b"k", None), (None, b"x")]
        batch = packer(way).pack([event(key=key, payload=value) for key, value in pairs], ALL, None)
        assert [(record.key, record.value) for record in read(batch)] == pairs

    def test_a_batch_is_full_to_the_byte(self, way: Way) -> None:
        waiting: list[PendingEvent] = [event(number, payload=b"x" * 100) for number in range(1, 100)]
        batch = packer(way).pack(waiting, ALL, None)
        records = len(batch.events)
        whole = BatchBuilder(1 << 20, 0)
        sizes = []
        for record in read(packer(way).pack(waiting[:records], ALL, None)):
            whole.append(timestamp=CREATED, key=record.key, value=record.value, headers=list(record.headers))
            sizes.append(whole.size())
        assert batch.builder.size() == sizes[-1] < ROOM
        assert sizes[-1] + (sizes[-1] - sizes[-2]) >= ROOM

    def test_an_event_above_the_size_of_a_batch_goes_alone(self, way: Way) -> None:
        waiting: list[PendingEvent] = [event(1, payload=b"x" * 2 * ROOM), event(2)]
        assert packer(way).pack(waiting, ALL, None).events == waiting[:1]
        assert packer(way).pack(waiting[::-1], ALL, None).events == waiting[1:]

    def test_a_batch_stays_below_the_topics_limit(self, way: Way) -> None:
        waiting: list[PendingEvent] = [event(number, payload=b"x" * 100) for number in range(1, 100)]
        limit = packing.MARGIN_BYTES + 3 * (packing.RECORD_OVERHEAD + waiting[0].size)
        assert packer(way).pack(waiting, ALL, limit).events == waiting[:3]
        assert packer(way).pack(waiting, ALL, 1).events == waiting[:1]

    @pytest.mark.parametrize("codec", CODECS)
    def test_compressed_batches_hold_the_same_records(self, way: Way, codec: str) -> None:
        waiting: list[PendingEvent] = [event(number, payload=b"x" * 100) for number in range(1, 10)]
        batch = packer(way, codec=CODECS[codec]).pack(waiting, ALL, None)
        assert [record.value for record in read(batch)] == [b"x" * 100] * 9
        assert (len(built(batch)) < 900) == (codec != "none")

    def test_an_event_of_a_time_that_the_topic_does_not_take_has_the_time_of_packing(self, way: Way) -> None:
        waiting: list[PendingEvent] = [event(1, created_ms=5), event(2), event(3, created_ms=2**42)]
        batch = packer(way).pack(waiting, ALL, None, (1_000, 2**41))
        old, fine, new = read(batch)
        assert batch.restamped == 2
        assert fine.timestamp == CREATED
        assert CREATED < old.timestamp == new.timestamp < 2**41
        assert [dict(record.headers).get("outbox-created-at") for record in (old, fine, new)] == [
            b"5",
            None,
            str(2**42).encode(),
        ]

    def test_the_time_of_packing_can_be_that_of_all_records(self, way: Way) -> None:
        batch = packer(way, created=False).pack([event(1)], ALL, None, ANY_TIME)
        (record,) = read(batch)
        assert record.timestamp > CREATED
        assert batch.restamped == 0
        assert "outbox-created-at" not in dict(record.headers)


class TestAnotherAiokafka:
    """Whatever may be different inside: the public way is taken."""

    def refused(self, builder: type, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packing, "BatchBuilder", builder)
        assert works(Public())
        assert not works(Inner())
        fastest_way.cache_clear()
        try:
            assert isinstance(fastest_way(), Public)
        finally:
            fastest_way.cache_clear()

    def test_without_the_inner_builder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Renamed:
            def __init__(self, *arguments: Any) -> None:
                self._other = BatchBuilder(*arguments)

            def __getattr__(self, name: str) -> Any:
                if name == "_builder":
                    raise AttributeError(name)
                return getattr(self._other, name)

        self.refused(Renamed, monkeypatch)

    def test_with_other_arguments_of_the_inner_builder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused(_with_inner(lambda append, *record: append(*record, "more")), monkeypatch)

    def test_with_seconds_in_place_of_milliseconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def seconds(append: Any, offset: int, timestamp: int, *rest: Any) -> Any:
            return append(offset, timestamp * 1_000, *rest)

        self.refused(_with_inner(seconds), monkeypatch)

    def test_with_a_count_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Counting(BatchBuilder):
            def append(self, **record: Any) -> Any:
                added = super().append(**record)
                self.records = getattr(self, "records", 0) + (added is not None)
                return added

            def record_count(self) -> int:
                return int(getattr(self, "records", 0))

        self.refused(Counting, monkeypatch)


def _with_inner(inner: Any) -> type:
    """A builder whose own `append` works, and whose inner one is called by `inner`."""

    class Other(BatchBuilder):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)  # type: ignore[no-untyped-call]
            self._real: Any = self._builder
            wrapped: Any = _Wrapped(self._real, inner)
            self._builder = wrapped

        def append(self, **record: Any) -> Any:
            self._builder = self._real
            return super().append(**record)

        def _build(self) -> Any:
            self._builder = self._real
            return super()._build()  # type: ignore[no-untyped-call]

    return Other


class _Wrapped:
    def __init__(self, real: Any, inner: Any) -> None:
        self.append = partial(inner, real.append)
