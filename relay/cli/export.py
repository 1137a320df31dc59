"""`relay export`: events as lines, for whatever comes behind a pipe."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from uuid import UUID

import click

from relay.admin.connection import open_outbox
from relay.admin.counts import counted
from relay.admin.exports import (
    STATES,
    ExportRequest,
    csv_head,
    csv_line,
    export,
    json_line,
    last_of_csv,
    last_of_json,
)
from relay.admin.selections import parse_topic
from relay.cli.options import exit_codes, key_option, read, since_option, until_option
from relay.cli.show.lines import bytes_out, say
from relay.cli.show.progress import followed
from relay.errors import RefusedError
from relay.postgres.admin.exports import ExportReads
from relay.settings import load_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EPILOG = exit_codes("all was written", "it was not")

_MAX_LINE = 1 << 30
"""Bytes: more than a line can have."""


def _parse_after(text: str) -> int | UUID:
    try:
        return int(text) if text.isdecimal() else UUID(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an id nor the event_id of a scheduled event") from None


class _Written:
    """How much has been written."""

    def __init__(self, after: int | UUID) -> None:
        self.events = 0
        self.after = after

    def told(self) -> str:
        """Say how an export that was stopped can go on."""
        return (
            f"stopped after {counted(self.events, 'event')}, all of them whole lines; go on with --after {self.after}"
        )


@click.command(name="export", epilog=EPILOG)
@click.option(
    "--state", "states", type=click.Choice(STATES), multiple=True, help="Only in this state; can be repeated."
)
@click.option(
    "--topic", callback=read(parse_topic), metavar="PATTERN", help="Only this topic; * stands for any characters."
)
@key_option
@since_option("written")
@until_option("written")
@click.option(
    "--after", callback=read(_parse_after), metavar="ID", help="Go on after this event: the last one that you have."
)
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write to a new FILE, not to the standard output.",
)
@click.option("--resume", is_flag=True, help="Go on after the last event in the FILE.")
def command(form: str, output: Path | None, resume: bool, after: int | UUID | None, **options: Any) -> None:
    """Write events as lines: one event, one line.

    \b
      relay export --state failed --state held
      relay export --topic orders --since 7d --output orders.ndjson
      relay export --topic orders --since 7d --output orders.ndjson --resume

    Events come in the order of their ids, scheduled ones last. What is written after the beginning is not in it. The
    command reads in small parts: it needs little memory, and nothing in PostgreSQL waits for it. It may be stopped at
    any time, and leaves whole lines.
    """
    if resume and output is None:
        raise click.UsageError("--resume needs the file: --output FILE")
    if resume and after is not None:
        raise click.UsageError("--resume finds out itself where to go on: leave out --after")
    place = _place(output, form, resume=resume, after=after)
    options["states"] = frozenset(options["states"] or STATES)
    written = _Written(place.after)
    with place.opened() as out, _terminated_like_interrupted():

        async def work(report: Callable[[int, int, str], None]) -> None:
            request = ExportRequest(**options, after=place.after)
            settings = load_postgres()
            async with open_outbox(settings) as outbox:
                reads = ExportReads(outbox.connection, outbox.schema)
                async for lines in export(reads, request, csv_line if form == "csv" else json_line):
                    _write(out, lines.data)
                    written.events += lines.events
                    written.after = written.after if lines.last is None else lines.last
                    report(lines.done, lines.total, "")

        try:
            _write(out, place.head)
            followed(work, total=None, left=written.told, doing="exporting")
        except BrokenPipeError:
            # Whoever reads has seen enough.
            raise
        except OSError as error:
            place_name, way = (output, "--resume") if output else ("the standard output", f"--after {written.after}")
            raise RefusedError(
                f"writing to {place_name} failed ({error.strerror}) after {counted(written.events, 'event')}; the last "
                f"line may not be whole, go on with {way}"
            ) from error
    say(f"{counted(written.events, 'event')} exported", err=True)


def _write(out: BinaryIO, data: bytes) -> None:
    """Write all of it. Python's streams write less when a signal comes, if they have no buffer (PYTHONUNBUFFERED)."""
    left = memoryview(data)
    while left:
        left = left[out.write(left) :]
    if data:
        out.flush()


class _Place(NamedTuple):
    """Where lines go, and what is there already."""

    path: Path | None
    head: bytes
    after: int | UUID
    keep: int = 0
    """Bytes at the beginning of the file that are whole lines."""

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open it behind its last whole line."""
        if self.path is None:
            yield bytes_out()
            return
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | (0 if self.keep else os.O_EXCL), 0o600)
        except OSError as error:
            raise RefusedError(f"{self.path} cannot be written: {error.strerror}; nothing was exported") from error
        with os.fdopen(handle, "wb") as file:
            file.truncate(self.keep)
            file.seek(self.keep)
            yield file


def _place(output: Path | None, form: str, *, resume: bool, after: int | UUID | None) -> _Place:
    head = csv_head() if form == "csv" and after is None else b""
    if output is None or not resume:
        if output is not None and output.exists():
            raise RefusedError(f"{output} is there already; go on behind its last line with --resume, or remove it")
        return _Place(output, head, after or 0)
    try:
        keep, line = _last_line(output)
    except FileNotFoundError:
        return _Place(output, head, 0)
    except OSError as error:
        raise RefusedError(f"{output} cannot be read: {error.strerror}; nothing was exported") from error
    if not keep:
        output.unlink()
        return _Place(output, head, 0)
    try:
        return _Place(output, b"", (last_of_csv if form == "csv" else last_of_json)(line), keep)
    except (ValueError, TypeError, IndexError):
        raise RefusedError(
            f"the last line of {output} is not an event of this format; nothing was exported: correct --format, or "
            "the file"
        ) from None


def _last_line(path: Path) -> tuple[int, bytes]:
    """Return how many bytes of a file are whole lines, and the last of these; 0 if there is none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail, start = b"", size
        while start > 0 and tail.count(b"\n") < 2 and len(tail) < _MAX_LINE:
            start = max(start - (1 << 20), 0)
            file.seek(start)
            tail = file.read(size - start)
    end = tail.rfind(b"\n") + 1
    if not end:
        return 0, b""
    return start + end, tail[tail.rfind(b"\n", 0, end - 1) + 1 : end]


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Have SIGTERM end the command as Ctrl-C does: between two lines."""
    if threading.current_thread() is not threading.main_thread():
        # Python handles signals in the main thread only.
        yield
        return
    former = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
