"""JSON of typed events, the same with and without orjson.

| value | as JSON |
|---|---|
| datetime | ISO 8601 with its offset; one without a time zone is refused |
| date, time | ISO 8601 |
| UUID, Decimal | a string, so that nothing is lost |
| Enum | its value |
| float | a number; NaN and the infinities are refused |
| int | a number of up to 64 bits; larger ones are refused |
| dataclass, Pydantic model, msgspec struct, attrs class | an object |
| dict with str as keys, list, tuple | object, array |

All else is refused: sets have no order, bytes no encoding, and durations no single form.
"""

from __future__ import annotations

import dataclasses
import math
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from importlib.util import find_spec
from uuid import UUID

from relay.errors import EnqueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _encoder() -> Callable[[Any], bytes]:
    if find_spec("orjson") is not None:
        import orjson

        dumps: Callable[[Any], bytes] = orjson.dumps
        return dumps
    from json import JSONEncoder

    encode = JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
    return lambda value: encode(value).encode()


_dumps = _encoder()


def to_json(subject: object) -> bytes:
    """The object as JSON in UTF-8. Raises EnqueueError, which names the field."""
    name = subject.__class__.__name__
    try:
        return _dumps(_plain(subject, name))
    except RecursionError:
        raise EnqueueError(f"{name} contains itself, or is nested too deeply for JSON") from None
    except (UnicodeEncodeError, TypeError) as error:
        # A lone surrogate: the two encoders have errors of their own for it.
        raise EnqueueError(f"{name} cannot be written as JSON in UTF-8: {error}") from error


def _plain(value: Any, path: str) -> Any:
    """The value made of what every encoder writes alike."""
    kind = value.__class__
    if kind is str or value is None or kind is bool:
        return value
    if kind is int:
        return _integer(value, path)
    if kind is float:
        if not math.isfinite(value):
            raise EnqueueError(f"{path} is {value}, which JSON has no number for; leave the field out or write None")
        return value
    if kind is dict:
        return _object(value.items(), path)
    if kind is list or kind is tuple:
        return [_plain(each, f"{path}[{index}]") for index, each in enumerate(value)]
    return _special(value, path)


def _integer(value: int, path: str) -> int:
    if not -(2**63) <= value < 2**64:
        raise EnqueueError(f"{path} has more than 64 bits; write it as a str")
    return value


def _object(items: Any, path: str) -> dict[str, Any]:
    found = {}
    for name, each in items:
        if not isinstance(name, str):
            raise EnqueueError(f"{path} has a key of type {name.__class__.__name__}; JSON has str alone")
        found[str.__str__(name)] = _plain(each, f"{path}.{name}")
    return found


def _special(value: Any, path: str) -> Any:
    """What is not of a type that JSON itself has."""
    if isinstance(value, Enum):
        return _plain(value.value, path)
    if (text := _text(value, path)) is not None:
        return text
    if is_model(value):
        return _plain(_json_of_model(value, path), path)
    if (fields := fields_of(value)) is not None:
        return _object(fields, path)
    for known, base in _SUBCLASSES:
        if isinstance(value, known):
            return _plain(base(value), path)
    raise EnqueueError(
        f"{path} is of type {value.__class__.__name__}, which has no form in JSON; convert it, or give the EventType a "
        "serializer"
    )


# What a subclass holds, and not what it says: str() of Django's safe strings is the same object again, and str() of an
# enum is its name.
_SUBCLASSES: tuple[tuple[Any, Any], ...] = (
    *((str, str.__str__), (int, int.__int__), (float, float.__float__)),
    *((dict, dict), (list, list), (tuple, tuple)),
)


def is_model(value: Any) -> bool:
    """Whether the value is a model of Pydantic; its dataclasses are taken for dataclasses."""
    kind = value.__class__
    return hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_dump")


def _json_of_model(value: Any, path: str) -> Any:
    """A model by Pydantic's own rules: its users have serializers of their own."""
    try:
        refuse_naive(value, path, numbers=True)
        return value.model_dump(mode="json", by_alias=True)
    except EnqueueError:
        raise
    except ValueError as error:
        raise EnqueueError(f"{path} cannot be written as JSON: {error}") from error


def _text(value: Any, path: str) -> str | None:
    """The string for a value that JSON has no type for, but one form."""
    if isinstance(value, datetime):
        refuse_naive(value, path)
        return value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal) and not value.is_finite():
        raise EnqueueError(f"{path} is {value}, which JSON has no number for; leave the field out or write None")
    return str(value) if isinstance(value, UUID | Decimal) else None


def fields_of(value: Any) -> Any:
    """Pairs (name, value) of an object of a class with fields, which is no model of Pydantic; else None."""
    kind = value.__class__
    if dataclasses.is_dataclass(kind):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(kind)]
    if hasattr(kind, "__struct_fields__"):
        values = (getattr(value, name) for name in kind.__struct_fields__)
        found = dict(zip(kind.__struct_encode_fields__, values, strict=True))
        config = kind.__struct_config__
        return ({config.tag_field: config.tag, **found} if config.tag_field else found).items()
    if hasattr(kind, "__attrs_attrs__"):
        return [(field.name, getattr(value, field.name)) for field in kind.__attrs_attrs__]
    return None


def refuse_naive(value: Any, path: str, *, numbers: bool = False) -> None:
    """Refuse a datetime without a time zone anywhere in the value: libraries take it for UTC, or for local time.

    With `numbers`, refuse NaN and the infinities as well, some of which Pydantic writes as null.
    """
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise EnqueueError(f"{path} is a datetime without a time zone; write datetime.now(UTC), for example")
    elif numbers and isinstance(value, float):
        _plain(value, path)
    elif isinstance(value, dict):
        for name, each in value.items():
            refuse_naive(each, f"{path}.{name}", numbers=numbers)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, each in enumerate(value):
            refuse_naive(each, f"{path}[{index}]", numbers=numbers)
    elif is_model(value):
        # With what is computed and what is extra, as the model's own serializers write it.
        refuse_naive(value.model_dump(by_alias=True), path, numbers=numbers)
    elif (fields := fields_of(value)) is not None:
        refuse_naive(dict(fields), path, numbers=numbers)
