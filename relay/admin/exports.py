"""Events as lines: of JSON, or of CSV. Each line is one event, so that an export can be cut at any line."""

from __future__ import annotations

import base64
import csv
import io
import json
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args
from uuid import UUID

from relay.admin.ahead import ahead
from relay.admin.times import absolute, option_of
from relay.errors import InvalidRequestError
from relay.keys import key_text
from relay.postgres.admin.exports import NO_UUID, ExportFilter
from relay.text import as_json, plain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import datetime, timedelta

    from relay.postgres.admin.exports import Delivery, ExportReads, Part

State: TypeAlias = Literal[
    "pending", "delivered", "failed", "retrying", "replaying", "discarded", "held", "scheduled"
]  # fmt: skip
STATES: tuple[State, ...] = get_args(State)
UNRESOLVED = frozenset({"failed", "retrying", "replaying", "discarded", "held"})

COLUMNS = (
    *("id", "event_id", "state", "topic", "key", "type", "created_at", "headers", "payload"),
    *(
        "kafka_partition",
        "kafka_offset",
        "delivered_at",
        "error",
        "attempts",
        "failed_at",
        "erased_by",
        "deliver_at",
        "timer",
    ),
)
"""Of CSV, in this order."""


class ExportRequest(NamedTuple):
    """Which events a person wants."""

    states: frozenset[str]
    topic: str | None = None
    key: bytes | None = None
    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None
    after: int | UUID = 0
    """The id of the last event of an earlier export; the event_id if that one was scheduled."""


class Lines(NamedTuple):
    """Some whole lines, and how far the export is."""

    data: bytes
    events: int
    done: int
    total: int
    last: int | UUID | None
    """What to go on after; None if nothing has been written yet."""


async def export(reads: ExportReads, request: ExportRequest, line_of: LineOf) -> AsyncGenerator[Lines]:
    """Yield the events as lines, in the order of ids; scheduled ones come last, in the order of event_ids.

    What is written while this runs is not meant. Raises InvalidRequestError for an empty span of time, and BusyError.
    """
    horizon = await reads.horizon()
    since, until = (None if each is None else absolute(each, horizon.now) for each in (request.since, request.until))
    if since is not None and until is not None and since >= until:
        raise InvalidRequestError(f"--since ({option_of(since)}) is not before --until ({option_of(until)})")
    wanted = ExportFilter(request.topic, request.key, since, until)
    of_table = request.states - {"scheduled"}
    last: int | UUID | None = request.after or None
    start = newest = horizon.newest_id
    if of_table and isinstance(request.after, int):
        start = max(request.after, horizon.lowest_id - 1)
        if "delivered" not in of_table:
            start = max(start, await reads.first_id(of_table))
        parts = reads.events(wanted, start, newest, unresolved=of_table <= UNRESOLVED)
        async for part in ahead(parts):
            lines = _lines(part, of_table, line_of)
            last = part.up_to
            yield Lines(b"".join(lines), len(lines), part.up_to - start, newest - start, last)
    if "scheduled" in request.states:
        after = request.after if isinstance(request.after, UUID) else NO_UUID
        async for part in ahead(reads.scheduled(wanted, after)):
            data = b"".join(line_of(_scheduled(row)) for row in part.events)
            last = UUID(part.events[-1]["event_id"]) if part.events else last
            yield Lines(data, len(part.events), max(newest - start, 0), max(newest - start, 0), last)


class Exported(NamedTuple):
    """An event as a line has it; what it does not have is None."""

    id: int | None
    event_id: str
    state: str
    topic: str
    key: bytes | None
    type: str | None
    created_at: datetime
    headers: str
    payload: bytes | None
    delivery: Delivery | None = None
    error: str | None = None
    attempts: int | None = None
    failed_at: datetime | None = None
    erased_by: int | None = None
    """The action by which it was erased."""
    deliver_at: datetime | None = None
    timer: str | None = None


LineOf: TypeAlias = "Callable[[Exported], bytes]"


def json_line(event: Exported) -> bytes:
    """Write an event as a line of JSON: harmless on a terminal, and quick."""
    parts = [
        f'{{"id": {_number(event.id)}, "event_id": "{event.event_id}", "state": "{event.state}"',
        f'"topic": {_text(event.topic)}',
        f'"key": {"null" if event.key is None else _text(key_text(event.key))}',
        f'"type": {"null" if event.type is None else _text(event.type)}',
        f'"created_at": "{event.created_at.isoformat()}"',
        f'"headers": {_headers(event.headers)}',
        f'"payload": {_payload(event.payload)}',
    ]
    if event.delivery is not None:
        partition, offset, at = event.delivery
        parts.append(f'"kafka_partition": {partition}, "kafka_offset": {offset}, "delivered_at": "{at.isoformat()}"')
    if event.error is not None and event.failed_at is not None:
        failed = f'"attempts": {_number(event.attempts)}, "failed_at": "{event.failed_at.isoformat()}"'
        parts.append(f'"error": {_text(event.error)}, {failed}')
    if event.erased_by is not None:
        parts.append(f'"erased_by": {event.erased_by}')
    if event.deliver_at is not None:
        timer = "null" if event.timer is None else _text(event.timer)
        parts.append(f'"deliver_at": "{event.deliver_at.isoformat()}", "timer": {timer}')
    return (", ".join(parts) + "}\n").encode("ascii")


def csv_line(event: Exported) -> bytes:
    """Write an event as a line of CSV. A key or payload that is not readable text of one line is written as `hex:`."""
    partition, offset, delivered_at = event.delivery or (None, None, None)
    return _csv(
        [
            *(event.id, event.event_id, event.state, _one_line(event.topic)),
            None if event.key is None else key_text(event.key),
            _one_line(event.type),
            event.created_at.isoformat(),
            _headers(event.headers),
            None if event.payload is None else key_text(event.payload),
            *(partition, offset, delivered_at and delivered_at.isoformat()),
            *(_one_line(event.error), event.attempts, event.failed_at and event.failed_at.isoformat()),
            event.erased_by,
            *(event.deliver_at and event.deliver_at.isoformat(), _one_line(event.timer)),
        ]
    )


def csv_head() -> bytes:
    """Write the names of the columns."""
    return _csv(list(COLUMNS))


def last_of_json(line: bytes) -> int | UUID:
    """Return what an export goes on after whose last line this is. Raises ValueError."""
    event = json.loads(line)
    if not isinstance(event, dict):
        raise ValueError("not an event")  # noqa: TRY004 the caller handles one error
    return _last(event.get("id"), event.get("event_id"))


def last_of_csv(line: bytes) -> int | UUID:
    """Return what an export goes on after whose last line this is: 0 after the names of columns. Raises ValueError."""
    cells = next(csv.reader([line.decode()]), [])
    if tuple(cells) == COLUMNS:
        return 0
    return _last(int(cells[0]) if cells and cells[0] else None, cells[1] if len(cells) > 1 else None)


def _last(id_: object, event_id: object) -> int | UUID:
    if isinstance(id_, int):
        return id_
    return UUID(str(event_id))


def _lines(part: Part, states: frozenset[str], line_of: LineOf) -> list[bytes]:
    lines = []
    for row in part.events:
        id_, event_id, topic, key, type_, created_at, headers, payload, failure, held, *failed = row
        delivery = part.deliveries.get(id_)
        state = "delivered" if delivery is not None else failure or ("held" if held else "pending")
        if state in states:
            lines.append(
                line_of(
                    Exported(
                        *(id_, event_id, state, topic, key, type_, created_at, headers, payload),
                        *(delivery, *failed),
                    )
                )
            )
    return lines


def _scheduled(row: Any) -> Exported:
    event_id, topic, key, type_, created_at, headers, payload, deliver_at, timer = row
    return Exported(
        *(None, event_id, "scheduled", topic, key, type_, created_at, headers, payload),
        deliver_at=deliver_at,
        timer=timer,
    )


def _one_line(text: str | None) -> str | None:
    return None if text is None else plain(text, most=None)


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _text(value: str) -> str:
    return quoted(value) if value.isprintable() else as_json(value)


def _headers(text: str) -> str:
    return text if text.isascii() and text.isprintable() else as_json(json.loads(text))


def _payload(payload: bytes | None) -> str:
    """Write a payload as `relay failed show --json` does."""
    if payload is None:
        return "null"
    try:
        return f'{{"encoding": "utf-8", "data": {_text(payload.decode())}}}'
    except UnicodeDecodeError:
        return f'{{"encoding": "base64", "data": "{base64.b64encode(payload).decode("ascii")}"}}'


def _csv(cells: list[object]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue().encode()
