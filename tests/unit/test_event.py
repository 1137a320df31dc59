"""Columns of an event: one order for the statements' rows, the relay's own tuples and the getters."""

from __future__ import annotations

import pytest

from relay import event
from relay.event import EventTuple
from relay.postgres.connect import EventRow
from tests.support.events import event as some_event

COLUMNS = ("LANE", "ID", "EVENT_ID", "TOPIC", "KEY", "PAYLOAD", "HEADERS", "TYPE", "CREATED_MS", "SIZE")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_is_at_the_same_place_in_a_row_and_in_a_tuple(column: str) -> None:
    index, name = getattr(event, column), column.lower()
    assert EventTuple._fields[index] == name
    assert vars(EventRow)[name].fget(range(10)) == index


@pytest.mark.parametrize("name", ["lane", "id", "event_id", "topic", "key", "created_ms", "size"])
def test_a_getter_gets_what_the_name_does(name: str) -> None:
    assert getattr(event, f"{name}_of")(some_event(7)) == getattr(some_event(7), name)
