"""Payloads of unknown origin as a terminal may show them: nothing in them can be mistaken or obeyed."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, NamedTuple

from relay.text import plain

_MAX_LINES = 60
_MAX_CHARACTERS = 4_000
_DUMPED_BYTES = 256
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""No text has these. Others that are not printable, joiners of emoji say, it may have."""


class View(NamedTuple):
    """The beginning of a payload for people."""

    form: str
    """What it is: JSON, text or binary; a tombstone if there is none."""
    text: str
    whole: bool


def payload_view(head: bytes | None, size: int | None) -> View:
    """Return the view of a payload that has `size` bytes, of which `head` is known."""
    if head is None or size is None:
        return View("tombstone (no payload)", "", whole=True)
    if not head:
        return View("empty", "", whole=True)
    complete = len(head) == size
    text = _text(head, complete)
    if text is None:
        return View("binary", _hexdump(head[:_DUMPED_BYTES]), whole=complete and size <= _DUMPED_BYTES)
    laid_out = _laid_out(text) if complete else None
    shown, cut = _cut(laid_out or text)
    return View("JSON" if laid_out else "text", plain(shown, also="\n\t", most=None), whole=complete and not cut)


def _text(head: bytes, complete: bool) -> str | None:
    """Decode it if it is text; the head of a payload may end within a character."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=complete)
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _laid_out(text: str) -> str | None:
    """Lay out JSON over several lines, if that changes nothing but the spaces: no number, no second value of a name."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text, parse_float=_faithful, parse_constant=_refuse, object_pairs_hook=_each_once)
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _faithful(number: str) -> float:
    if repr(value := float(number)) != number:
        raise ValueError(f"{number} would be shown as {value}")
    return value


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(value := dict(pairs)) != len(pairs):
        raise ValueError("a name is there twice")
    return value


def _cut(text: str) -> tuple[str, bool]:
    lines = text.split("\n")
    shown = "\n".join(lines[:_MAX_LINES])[:_MAX_CHARACTERS]
    return shown, len(shown) < len(text)


def _hexdump(data: bytes) -> str:
    lines = []
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        letters = "".join(chr(each) if 32 <= each < 127 else "." for each in part)
        lines.append(f"{start:06x}  {part[:8].hex(' '):<23}  {part[8:].hex(' '):<23}  {letters}")
    return "\n".join(lines)
