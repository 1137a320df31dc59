"""Lines, JSON and bytes: the ways out that need no console. Apart from it, because rich takes long to load."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from relay.text import as_json, plain

if TYPE_CHECKING:
    from collections.abc import Callable


def say(text: str, *, err: bool = False) -> None:
    """Write lines for people. The lines are ours: text from outside that is put into one has to be `plain` before."""
    click.echo(plain(text, also="\n", most=None), err=err)


def say_json(value: object, *, indent: int | None = 2, default: Callable[[Any], Any] = str) -> None:
    """Write JSON, exactly, and harmless on a terminal."""
    click.echo(as_json(value, indent=indent, default=default))


def say_bytes(data: bytes) -> None:
    """Write bytes as they are: only where a person asked for just that."""
    click.echo(data, nl=False)


def bytes_out() -> BinaryIO:
    """Return the stream that takes bytes, for output that is too much for one string."""
    return sys.stdout.buffer


def never_fail_to_encode() -> None:
    """Let the streams write escapes for what their encoding has no place for, instead of failing with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
