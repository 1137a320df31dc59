"""Text from outside, made fit to be shown: nothing in it is obeyed by a terminal, hidden from a reader, or without end.

Names, reasons, topics, keys, errors of servers: whoever may write a row, or runs a broker, chooses them. Everything the
relay tells people, in commands, logs and HTTP answers, goes through `plain` or `as_json`.
"""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 2_000
"""Maximum number of characters of one text: more than any sentence of ours has, few enough for a screen."""

MAX_NAMED = 20
"""Topics that one answer or finding lists, the others being counted: thousands would not be an answer."""

_STACKED = 4
"""Maximum number of marks on one letter. Languages need up to three; hundreds cover the lines above and below."""

_INVISIBLE = frozenset(
    chr(point)
    for first, last in (
        # Default_Ignorable_Code_Point of Unicode, as far as `isprintable` lets it pass, and the empty Braille cell.
        (0x034F, 0x034F),
        (0x115F, 0x1160),
        (0x17B4, 0x17B5),
        (0x180B, 0x180F),
        (0x2800, 0x2800),
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),
        (0xFFA0, 0xFFA0),
        (0xE0100, 0xE01EF),
    )
    for point in range(first, last + 1)
)


def plain(text: object, also: str = "", *, most: int | None = MOST) -> str:
    r"""The text with everything escaped (`\x1b`) that is not visible, but for `also`; cut after `most` characters.

    Not visible are control characters, with those of ANSI and C1 sequences; marks that turn the direction of writing;
    spaces and letters without width or ink; halves of surrogate pairs; marks stacked on a letter beyond what languages
    need. Markup is harmless where a console takes none: see `relay.cli.show`.
    """
    whole = str(text)
    return _escaped(whole if most is None else clip(whole, most), also, _as_python)


def clip(text: str, most: int = MOST) -> str:
    """Return the beginning of a text, and the number of characters that were left out."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most:,} more characters)"


def one_line(text: object) -> str:
    """`plain`, with line ends and runs of spaces as one space: for errors of servers, which come laid out."""
    return plain(" ".join(clip(str(text)).split()), most=None)


def visible(text: str, also: str = "") -> bool:
    """Return whether `plain` would change nothing but the length."""
    return _escaped(text, also, _as_python) == text


def as_json(
    value: object,
    *,
    indent: int | None = None,
    default: Callable[[Any], Any] = str,
    only_ascii: bool = True,
) -> str:
    """JSON that says exactly what `value` is, and is harmless on a terminal: what is not visible has JSON's escapes.

    What a program makes of it is the text as it was: `jq -r` writes it raw to its terminal.
    """
    text = json.dumps(value, indent=indent, default=default, ensure_ascii=only_ascii)
    # Outside of strings JSON is of visible ASCII and, when indented, line ends. JSON lets DEL pass as it is.
    return _escaped(text, "\n", _as_json_escape)


def _escaped(text: str, also: str, escape: Callable[[str], str]) -> str:
    if text.isascii() and text.isprintable():
        return text
    found = []
    marks = 0
    for each in text:
        marks = marks + 1 if unicodedata.category(each) in ("Mn", "Me") else 0
        shown = each in also or (each.isprintable() and each not in _INVISIBLE and marks <= _STACKED)
        found.append(each if shown else escape(each))
    return "".join(found)


def _as_python(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _as_json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
