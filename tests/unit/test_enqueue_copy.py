"""The binary COPY format, read back by the rules of its documentation."""

from __future__ import annotations

import struct
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from relay.enqueue import copy
from relay.enqueue.copy import binary_copy


def read_back(data: bytes) -> list[list[bytes | None]]:
    """The fields of every row in one binary COPY."""
    assert data[:11] == b"PGCOPY\n\xff\r\n\0"
    flags, extension = struct.unpack_from("!ii", data, 11)
    assert (flags, extension) == (0, 0)
    at, rows = 19, []
    while (count := struct.unpack_from("!h", data, at)[0]) != -1:
        at += 2
        fields: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from("!i", data, at)
            at += 4
            fields.append(None if length == -1 else data[at : at + length])
            at += max(length, 0)
        rows.append(fields)
    assert at + 2 == len(data)
    return rows


Row = st.tuples(
    st.uuids(),
    st.sampled_from(["orders", "bills"]),
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.sampled_from(['{"a": "ü"}', "{}"]),
    st.sampled_from([None, "", "ö"]),
)


@given(st.lists(Row, max_size=5))
def test_rows_can_be_read_back(rows: list[tuple[UUID, str, bytes | None, bytes | None, str, str | None]]) -> None:
    expected = [
        [
            event_id.bytes,
            topic.encode(),
            key,
            payload,
            b"\x01" + headers.encode(),
            None if kind is None else kind.encode(),
        ]
        for event_id, topic, key, payload, headers, kind in rows
    ]
    assert read_back(b"".join(binary_copy(rows))) == expected


def test_of_many_types_only_so_many_are_kept() -> None:
    rows = [(UUID(int=n), "orders", None, b"", "{}", f"type-{n}") for n in range(2 * copy._MAX_KNOWN_TEXTS)]
    found = [row[5] for row in read_back(b"".join(binary_copy(rows)))]
    assert found == [f"type-{n}".encode() for n in range(2 * copy._MAX_KNOWN_TEXTS)]


def test_text_is_in_the_encoding_of_the_connection() -> None:
    (row,) = read_back(b"".join(binary_copy([(UUID(int=1), "orders", None, b"", '{"a": "ü"}', "ö")], "latin-1")))
    assert row[4:] == [b'\x01{"a": "\xfc"}', b"\xf6"]


def test_a_scheduled_event_has_three_columns_more() -> None:
    rows = [(UUID(int=n), "orders", None, b"x", "{}", None) for n in range(2)]
    more = [(b"12345678", None, None), (None, b"0" * 16, b"t")]
    found = read_back(b"".join(binary_copy(rows, "utf-8", more)))
    assert [len(row) for row in found] == [9, 9]
    assert [tuple(row[6:]) for row in found] == more


def test_much_is_handed_over_in_portions() -> None:
    rows = [(UUID(int=n), "orders", None, bytes(1000), "{}", None) for n in range(2000)]
    portions = list(binary_copy(rows))
    assert len(portions) > 5
    assert max(map(len, portions)) < copy.PORTION_BYTES + 2000
    assert len(read_back(b"".join(portions))) == 2000
