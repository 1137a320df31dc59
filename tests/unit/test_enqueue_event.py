"""An event is checked when it is made: every bad argument has a message that names it."""

from __future__ import annotations

import dataclasses
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.enqueue import Event
from relay.enqueue.event import RESERVED, row, size
from relay.errors import EnqueueError


def event(**changes: Any) -> Event:
    """An event with some fields changed."""
    return Event(changes.pop("topic", "orders"), **{"key": "k", "payload": "x", **changes})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("topic", "", "topic is empty"),
        ("topic", "a b", "topic 'a b' is not a topic name"),
        ("topic", "a\n", "not a topic name"),
        ("topic", "ä", "not a topic name"),
        ("topic", ".", "not a topic name"),
        ("topic", "..", "not a topic name"),
        ("topic", "x" * 250, "not a topic name"),
        ("topic", None, "topic must be a str, not NoneType"),
        ("topic", b"a", "topic must be a str, not bytes"),
        ("key", 7, "key must be bytes, str or None, not int (write str(key))"),
        ("key", uuid4(), "key must be bytes, str or None, not UUID (write str(key))"),
        ("key", {"a": 1}, "key must be bytes, str or None, not dict"),
        ("key", "\ud800", "key contains a lone surrogate"),
        ("payload", {"a": 1}, "payload must be bytes, str or None, not dict (for JSON, json.dumps it first)"),
        ("payload", [1], "payload must be bytes, str or None, not list (for JSON, json.dumps it first)"),
        ("payload", bytearray(b"x"), "payload must be bytes, str or None, not bytearray (write bytes(payload))"),
        ("payload", 7.5, "payload must be bytes, str or None, not float (serialize it first)"),
        ("headers", [("a", "b")], "headers must be a mapping of str to str, not list"),
        ("headers", {"a": 1}, "header 'a' must be a str, not int"),
        ("headers", {"a": None}, "header 'a' must be a str, not NoneType"),
        ("headers", {"a": b"b"}, "header 'a' must be a str, not bytes"),
        ("headers", {1: "b"}, "a header's name must be a str, not int"),
        ("headers", {"a": "\0"}, "header 'a' contains a NUL"),
        ("headers", {"a": "\ud800"}, "header 'a' contains a lone surrogate"),
        ("headers", {"outbox-id": "7"}, "header 'outbox-id': names that begin with outbox- are the relay's own"),
        ("headers", {"ce_type": "x"}, "header 'ce_type': names that begin with ce_ are attributes of CloudEvents"),
        ("headers", {f"h{n}": "v" for n in range(257)}, "there are 257 headers, more than the 256"),
        ("headers", {"h": "v" * 32_760}, "the headers have 32,769 bytes as JSON, more than the 32,768"),
        ("type", 5, "type must be a str, not int"),
        ("type", "a\0", "type contains a NUL"),
        ("event_id", "5f6bd6a5", "event_id must be a uuid.UUID, not str"),
    ],
)
def test_a_bad_argument_is_named(argument: str, value: object, message: str) -> None:
    with pytest.raises(EnqueueError) as refused:
        event(**{argument: value})
    assert message in str(refused.value)
    assert isinstance(refused.value, ValueError)


def test_text_becomes_bytes_and_missing_headers_none() -> None:
    made = event(key="grün", payload="ü")
    assert (made.key, made.payload, made.headers) == ("grün".encode(), "ü".encode(), {})
    assert made == event(key="grün".encode(), payload="ü".encode(), headers={}, event_id=made.event_id)


def test_each_event_gets_an_id_of_its_own_unless_given() -> None:
    assert event().event_id != event().event_id
    given_id = UUID(int=7)
    assert event(event_id=given_id).event_id == given_id


def test_an_event_does_not_change_any_more() -> None:
    headers = {"a": "b"}
    made = event(headers=headers)
    headers["a"] = "c"
    assert made.headers == {"a": "b"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.topic = "other"  # type: ignore[misc]


def test_headers_are_stored_as_the_text_postgresql_counts() -> None:
    made = event(key="k", payload="xyz", headers={"ä": "b"}, type="t")
    assert row(made)[4] == '{"ä": "b"}'
    assert size(made) == 1 + 3 + len('{"ä": "b"}'.encode()) + 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Outbox-Id": "a", "x-outbox-id": "b", "id": "outbox-id"},
        {f"h{n}": "v" for n in range(256)},
        {"h": "v" * 32_759},
        {"h": "\x01" * 5_459},
    ],
)
def test_headers_up_to_the_bounds_are_taken(headers: dict[str, str]) -> None:
    assert event(headers=headers).headers == headers


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
names = text.filter(lambda name: not name.startswith(RESERVED))


@given(key=st.none() | text | st.binary(), payload=st.none() | text | st.binary(), headers=st.dictionaries(names, text))
def test_everything_that_can_be_stored_is_taken(
    key: str | bytes | None, payload: str | bytes | None, headers: dict[str, str]
) -> None:
    made = event(key=key, payload=payload, headers=headers)
    assert made.headers == headers
    assert made.key == (key.encode() if isinstance(key, str) else key)
