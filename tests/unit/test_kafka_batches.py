"""What is taken from the end of a partition, and where that stops."""

from __future__ import annotations

from uuid import UUID

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from relay.headers import EVENT_ID, ID
from relay.kafka.reconcile.batches import HEADER, Walk, events_of
from relay.stages.reconcile.ports import Found, FoundEvent, Place, Tail, TroubleKind

PLACE = Place("orders", 3)
MINE, OTHER = 7, 8
EPOCH = 4
MOST = 1 << 20
CONTROL = 0x20


def batch(
    base: int,
    *ids: int,
    producer: int = MINE,
    epoch: int = 0,
    sequence: int = 0,
    compression: int = 0,
    attributes: int = 0,
) -> bytes:
    """A record batch as a broker returns it, of events with these ids."""
    builder = DefaultRecordBatchBuilder(2, compression, 0, producer, epoch, sequence, 1 << 20)
    for at, number in enumerate(ids):
        headers: list[tuple[str, bytes | None]] = [
            (EVENT_ID, b"mine"),
            (ID, b"x"),
            (EVENT_ID, str(UUID(int=number)).encode()),
            (ID, b"%d" % number),
        ]
        builder.append(at, 1, b"k", b"v", headers)
    return edited(bytes(builder.build()), base=base, attributes=attributes or None)


def edited(raw: bytes, **fields: int | None) -> bytes:
    """A batch with other values in its header."""
    names = (
        "base",
        "length",
        "leader",
        "magic",
        "crc",
        "attributes",
        "last",
        "first",
        "max",
        "id",
        "epoch",
        "seq",
        "count",
    )
    values = dict(zip(names, HEADER.unpack_from(raw), strict=True))
    values |= {name: value for name, value in fields.items() if value is not None}
    return HEADER.pack(*values.values()) + raw[HEADER.size :]


def marker(base: int, *, producer: int = MINE, epoch: int = EPOCH) -> bytes:
    """A transaction's marker."""
    return batch(base, 0, producer=producer, epoch=epoch, attributes=CONTROL)


def found(base: int, *ids: int) -> Found:
    """What is to be found of a batch."""
    return Found(PLACE, base, [FoundEvent(number, UUID(int=number), b"k") for number in ids])


def walk(begin: int = 0, ends: dict[int, int | None] | None = None, most: int = MOST) -> Walk:
    """A walk up to the marker of the one producer."""
    return Walk(Tail(PLACE, begin, {MINE: EPOCH} if ends is None else ends), most)


def test_only_batches_of_the_wanted_producer_are_found_up_to_its_marker() -> None:
    it = walk()
    log = batch(0, 1, 2) + batch(2, 3, producer=OTHER) + batch(3, 4) + marker(4) + batch(5, 5)
    assert it.take(log) == [found(0, 1, 2), found(3, 4)]
    assert it.ended
    assert it.trouble is None
    assert it.fetch_from == 5
    assert it.bytes == len(log) - len(batch(5, 5))


@pytest.mark.parametrize("compression", range(5), ids=["none", "gzip", "snappy", "lz4", "zstd"])
def test_compressed_batches_are_unpacked(compression: int) -> None:
    assert walk().take(batch(0, 1, 2, 3, compression=compression)) == [found(0, 1, 2, 3)]


def test_a_marker_of_an_earlier_fence_or_of_another_producer_is_not_the_end() -> None:
    it = walk()
    it.take(marker(0, epoch=EPOCH - 1) + marker(1, producer=OTHER))
    assert not it.ended
    it.take(marker(2, epoch=EPOCH + 1))
    assert it.ended


def test_each_of_several_producers_has_its_marker() -> None:
    it = walk(ends={MINE: 1, OTHER: 2})
    assert it.take(marker(0, epoch=1) + batch(1, 1, producer=OTHER)) == [found(1, 1)]
    assert not it.ended
    it.take(marker(2, producer=OTHER, epoch=2))
    assert it.ended


def test_a_batch_in_which_reading_begins_is_found_from_there_on() -> None:
    assert walk(begin=12).take(batch(10, 1, 2, 3, 4)) == [found(12, 3, 4)]
    assert walk(begin=14).take(batch(10, 1, 2, 3, 4) + batch(14, 5)) == [found(14, 5)]


@pytest.mark.parametrize(
    "damaged",
    [
        batch(3, 9),
        edited(batch(2, 9, 10), count=1),
        edited(batch(2, 9), last=1),
        edited(batch(2, 9), magic=1),
        edited(batch(2, 9), count=0),
    ],
    ids=["offsets are missing", "a record was compacted away", "the last one was", "an old format", "all were"],
)
def test_behind_a_hole_nothing_is_found(damaged: bytes) -> None:
    it = walk()
    assert it.take(batch(0, 1, 2) + damaged + batch(4, 11)) == [found(0, 1, 2)]
    assert it.ended
    assert it.trouble is not None
    assert it.trouble.kind is TroubleKind.HOLE
    assert "partition 3 of orders cannot be read from offset 2 on" in it.trouble.said


def test_a_hole_of_somebody_elses_records_is_one_too() -> None:
    it = walk()
    assert it.take(edited(batch(0, 1, 2, producer=OTHER), count=1) + batch(2, 3)) == []
    assert it.trouble is not None


def test_a_batch_that_was_cut_off_is_taken_when_it_comes_whole() -> None:
    it = walk()
    first, second = batch(0, 1), batch(1, 2)
    for cut in (len(second) - 1, HEADER.size, HEADER.size - 1, 5, 0):
        it = walk()
        assert it.take(first + second[:cut]) == [found(0, 1)]
        assert it.fetch_from == 1
        assert it.bytes == len(first)
        assert it.take(second) == [found(1, 2)]


def test_a_batch_that_cannot_be_unpacked_is_a_hole() -> None:
    raw = batch(0, 1, 2, compression=4)
    it = walk()
    assert it.take(raw[:70] + b"\xff" * (len(raw) - 70)) == []
    assert it.trouble is not None
    assert it.trouble.kind is TroubleKind.HOLE


def test_the_limit_ends_reading_and_the_end_before_it_does_not_count() -> None:
    it = walk(most=len(batch(0, 1)) + 1)
    assert it.take(batch(0, 1)) == [found(0, 1)]
    assert not it.ended
    assert it.take(batch(1, 2)) == [found(1, 2)]
    assert it.trouble is not None
    assert it.trouble.kind is TroubleKind.BYTES
    at_its_end = walk(most=1)
    at_its_end.take(marker(0))
    assert at_its_end.trouble is None


def test_an_offset_that_is_not_in_the_log_is_a_hole() -> None:
    it = walk(begin=5)
    it.out_of_range()
    assert it.trouble is not None
    assert it.trouble.kind is TroubleKind.HOLE


class TestWithoutMarker:
    def test_reading_begins_one_below_where_the_last_batch_may_be_that_is_waited_for(self) -> None:
        it = walk(begin=2, ends={MINE: None})
        assert it.fetch_from == 1
        it.expect({MINE: 1, OTHER: 9})
        it.saw_high_watermark(2)
        assert not it.ended
        assert it.take(batch(0, 1, 2)) == []
        assert it.ended

    def test_that_offset_may_be_gone(self) -> None:
        it = walk(begin=2, ends={MINE: None})
        it.out_of_range()
        assert (it.fetch_from, it.trouble) == (2, None)
        it.out_of_range()
        assert it.trouble is not None

    def test_the_last_sequence_is_waited_for_beyond_the_end_of_what_can_be_read_now(self) -> None:
        it = walk(ends={MINE: None})
        it.expect({MINE: 2**31 - 1})
        it.saw_high_watermark(2)
        it.take(batch(0, 1, 2, sequence=2**31 - 4))
        assert it.at_end
        assert not it.ended
        assert it.take(batch(2, 3, 4, sequence=2**31 - 2)) == [found(2, 3, 4)]
        assert it.ended

    def test_sequences_begin_again_at_their_end(self) -> None:
        it = walk(ends={MINE: None})
        it.expect({MINE: 1})
        it.saw_high_watermark(0)
        it.take(batch(0, 1, 2, 3, sequence=2**31 - 1))
        assert it.ended

    def test_a_producer_that_the_leader_does_not_know_leaves_only_what_can_be_read_now(self) -> None:
        it = walk(ends={MINE: None})
        it.expect({})
        it.saw_high_watermark(1)
        it.saw_high_watermark(9)
        assert not it.ended
        it.take(batch(0, 1, producer=OTHER))
        assert it.ended


class TestHeaders:
    def test_the_last_ones_are_the_relays(self) -> None:
        assert events_of(batch(0, 5)) == [FoundEvent(5, UUID(int=5), b"k")]

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(ID, b"1")],
            [(EVENT_ID, str(UUID(int=1)).encode())],
            [(EVENT_ID, b"no uuid"), (ID, b"1")],
            [(EVENT_ID, b"\xff\xfe"), (ID, b"1")],
            [(EVENT_ID, str(UUID(int=1)).encode()), (ID, b"-1")],
            [(EVENT_ID, str(UUID(int=1)).encode()), (ID, b"")],
            [(EVENT_ID, str(UUID(int=1)).encode()), (ID, b"9223372036854775808")],
            [(EVENT_ID, None), (ID, None)],
        ],
    )
    def test_a_record_without_both_is_none_of_the_outbox(self, headers: list[tuple[str, bytes | None]]) -> None:
        builder = DefaultRecordBatchBuilder(2, 0, 0, MINE, 0, 0, 1 << 20)
        builder.append(0, 1, b"k", b"v", headers)
        assert events_of(bytes(builder.build())) == [None]
