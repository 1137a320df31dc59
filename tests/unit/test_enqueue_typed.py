"""Typed events: how objects of declared classes become events, and which are refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, ClassVar
from uuid import UUID

import attrs
import pydantic
import pytest

from relay.enqueue import EnqueueError, EventType, Serialized
from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.json import to_json

msgspec = pytest.importorskip("msgspec")

PLACED = EventType("orders", key="order_id", type="order.placed", headers={"source": "shop"})


@dataclasses.dataclass(frozen=True, slots=True)
class OfDataclass:
    """A dataclass."""

    order_id: int
    total: Decimal
    __event__ = PLACED


class OfPydantic(pydantic.BaseModel):
    """A Pydantic model."""

    order_id: int
    total: Decimal
    __event__: ClassVar[EventType] = PLACED


OfMsgspec = msgspec.defstruct(
    "OfMsgspec", [("order_id", int), ("total", Decimal)], namespace={"__event__": PLACED}, module=__name__
)


@attrs.define
class OfAttrs:
    """An attrs class."""

    order_id: int
    total: Decimal
    __event__ = PLACED


@pytest.mark.parametrize("kind", [OfDataclass, OfPydantic, OfMsgspec, OfAttrs])
def test_an_object_of_each_kind_of_class_becomes_the_same_event(kind: Any) -> None:
    event = event_of(kind(order_id=42, total=Decimal("9.90")), {})
    assert (event.topic, event.key, event.type, event.headers) == (
        *("orders", b"42", "order.placed"),
        {"source": "shop"},
    )
    assert event.payload == b'{"order_id":42,"total":"9.90"}'
    assert [each.payload for each in events_of([kind(order_id=1, total=Decimal(1)), event])][1] == event.payload


NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 the point


class Colour(Enum):
    """An enum."""

    RED = "red"


class Size(IntEnum):
    """An enum of numbers."""

    SMALL = 1


class Word(StrEnum):
    """An enum of words."""

    YES = "yes"


@dataclasses.dataclass
class Holder:
    """Something that holds any value."""

    value: Any


class Safe(str):
    """Text that is itself again when it is made a str, as Django's safe strings are."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class Masked(str):
    """Text that shows something else."""

    __slots__ = ()

    def __str__(self) -> str:
        return "***"


class Mixed(str, Enum):  # noqa: UP042 not a StrEnum, whose str() is its value
    """An enum whose str() is its name."""

    A = "a"


class Number(int, Enum):
    """An enum of numbers whose str() is its name."""

    ONE = 1


class OfRoot(pydantic.RootModel[list[int]]):
    """A model that is no object in JSON."""


@pydantic.dataclasses.dataclass
class OfPydanticDataclass:
    """Pydantic's dataclass, which is no model."""

    value: int


JSON = [
    (datetime(2026, 3, 29, 1, 30, tzinfo=UTC), "2026-03-29T01:30:00+00:00"),
    (datetime(2026, 3, 29, 1, 30, tzinfo=timezone(timedelta(hours=2))), "2026-03-29T01:30:00+02:00"),
    (date(2026, 3, 29), "2026-03-29"),
    (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (Decimal("1.10"), "1.10"),
    (Decimal("1E+2"), "1E+2"),
    (Colour.RED, "red"),
    (Size.SMALL, 1),
    (Word.YES, "yes"),
    (1.5, 1.5),
    (2**64 - 1, 2**64 - 1),
    ('grün 😀 \u2028 "\\', 'grün 😀 \u2028 "\\'),
    ({"a": [1, (2, None)], "b": {}}, {"a": [1, [2, None]], "b": {}}),
    ([Holder(Holder(True))], [{"value": {"value": True}}]),
    ([Safe("<b>"), Masked("x"), Mixed.A, Number.ONE], ["<b>", "x", "a", 1]),
    ({Safe("<b>"): 1, Masked("x"): 2, Mixed.A: 3}, {"<b>": 1, "x": 2, "a": 3}),
    (OfRoot([1, 2]), [1, 2]),
    (OfPydanticDataclass(1), {"value": 1}),
    (OfPydantic(order_id=1, total=Decimal("2.50")), {"order_id": 1, "total": "2.50"}),
]


@pytest.mark.parametrize(("value", "expected"), JSON)
def test_values_become_json_on_purpose(value: Any, expected: Any) -> None:
    assert json.loads(to_json(Holder(value))) == {"value": expected}


def test_json_is_the_same_without_orjson() -> None:
    code = (
        "import sys; sys.modules['orjson'] = None; sys.path.insert(0, '.')\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'orjson' else find(name)\n"
        "from tests.unit.test_enqueue_typed import JSON, Holder, to_json\n"
        "sys.stdout.buffer.write(b'\\n'.join(to_json(Holder(value)) for value, _ in JSON))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.stderr == b""
    assert done.stdout == b"\n".join(to_json(Holder(value)) for value, _ in JSON)


class OfNaive(pydantic.BaseModel):
    """A model that Pydantic writes without a word."""

    at: datetime
    rate: float = 1.0


class OfAnything(pydantic.BaseModel):
    """A model with what it does not know beforehand."""

    model_config = pydantic.ConfigDict(extra="allow")
    value: Any = None
    times: set[datetime] = set()

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def seen_at(self) -> datetime:
        """A time that is computed."""
        return NAIVE if self.value == "naive" else datetime(2026, 1, 1, tzinfo=UTC)


def in_itself(made: Any) -> Any:
    """A container that holds itself."""
    made.append(made) if isinstance(made, list) else made.update(a=made)
    return made


def deep(value: Any, times: int) -> Any:
    """A list in a list, and so on."""
    for _ in range(times):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "Holder.value is nan, which JSON has no number for"),
        ([1.0, float("-inf")], r"Holder.value\[1\] is -inf"),
        (Decimal("NaN"), "Holder.value is NaN"),
        (datetime(2026, 1, 1), "Holder.value is a datetime without a time zone"),  # noqa: DTZ001 the point
        ({"a": {1: 2}}, "Holder.value.a has a key of type int"),
        (2**64, "Holder.value has more than 64 bits"),
        (b"x", "Holder.value is of type bytes, which has no form in JSON"),
        ({1, 2}, "Holder.value is of type set"),
        (timedelta(1), "Holder.value is of type timedelta"),
        (object(), "Holder.value is of type object"),
        ("\ud800", "Holder cannot be written as JSON in UTF-8"),
        (OfNaive(at=datetime(2026, 1, 1)), "Holder.value.at is a datetime without"),  # noqa: DTZ001 the point
        (OfNaive(at=datetime(2026, 1, 1, tzinfo=UTC), rate=float("nan")), "Holder.value.rate is nan"),
        (OfAnything(value={"a": [float("inf")]}), r"Holder.value.value.a\[0\] is inf"),
        (OfAnything.model_validate({"more": NAIVE}), "Holder.value.more is a datetime without"),
        (OfAnything(times={NAIVE}), r"Holder.value.times\[0\] is a datetime without"),
        (OfAnything(value="naive"), "Holder.value.seen_at is a datetime without"),
        (OfAnything(value=b"\xff"), "Holder.value cannot be written as JSON: .* invalid utf-8"),
        (OfAnything(value=object()), "Holder.value cannot be written as JSON: Unable to serialize"),
        (OfAnything(value=in_itself([])), "Holder(.value cannot be written as JSON: Circular| contains itself)"),
        (in_itself([]), "Holder contains itself, or is nested too deeply for JSON"),
        (in_itself({}), "Holder contains itself, or is nested too deeply for JSON"),
        (deep(1, 100_000), "Holder contains itself, or is nested too deeply for JSON"),
    ],
)
def test_values_without_a_form_in_json_are_refused_with_their_path(value: Any, message: str) -> None:
    with pytest.raises(EnqueueError, match=message):
        to_json(Holder(value))


def declared(key: Any, **options: Any) -> Any:
    """A class with this declaration."""
    return type("Made", (Holder,), {"__event__": EventType("orders", key=key, **options)})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("value", "k", b"k"),
        ("value", 7, b"7"),
        ("value", UUID(int=7), b"00000000-0000-0000-0000-000000000007"),
        ("value", b"\xff", b"\xff"),
        ("value", Mixed.A, b"a"),
        ("value", Number.ONE, b"1"),
        ("value", Masked("x"), b"x"),
        (lambda made: f"{made.value}-x", 7, b"7-x"),
        (None, 7, None),
    ],
)
def test_the_key_is_a_field_or_a_function_of_the_object(key: Any, value: Any, expected: bytes | None) -> None:
    assert event_of(declared(key, serialize=lambda _: b"")(value), {}).key == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("value", None, "the key of Made is None"),
        ("value", 1.5, "the key of Made is of type float"),
        ("value", True, "the key of Made is of type bool"),
        (lambda _: 10**5000, 1, "the key of Made is a number of thousands of digits"),
        ("valve", 1, "Made has no field 'valve'"),
    ],
)
def test_a_key_that_is_none_or_of_another_type_is_refused(key: Any, value: Any, message: str) -> None:
    with pytest.raises(EnqueueError, match=message):
        event_of(declared(key, serialize=lambda _: b"")(value), {})


def test_a_serializer_may_add_headers_and_must_return_bytes() -> None:
    made = event_of(declared("value", serialize=lambda each: Serialized(b"\0", {"schema-id": "7"}))(1), {})
    assert (made.payload, made.headers) == (b"\0", {"schema-id": "7"})
    with pytest.raises(EnqueueError, match="the serializer of Made returned str; it must return bytes"):
        event_of(declared("value", serialize=lambda each: "x")(1), {})


def test_a_declaration_that_no_event_can_have_is_refused_when_it_is_made() -> None:
    with pytest.raises(EnqueueError, match="is not a topic name"):
        EventType("a b", key=None)
    with pytest.raises(EnqueueError, match="the relay's own"):
        EventType("a", key=None, headers={"outbox-id": "1"})
    wrong: Any = 5
    with pytest.raises(EnqueueError, match="key must be the name of a field, a function or None, not int"):
        EventType("a", key=wrong)
    with pytest.raises(EnqueueError, match="serialize must be a function of the object, not int"):
        EventType("a", key=None, serialize=wrong)


def test_an_object_without_a_declaration_is_refused() -> None:
    with pytest.raises(EnqueueError, match=r"Holder is not an event; .* declare __event__"):
        event_of(Holder(1), {})
