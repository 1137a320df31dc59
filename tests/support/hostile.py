"""Texts that somebody would write to fool a reader, a terminal or a log, and how to see that one got through."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

NASTY = (
    "relay[/prod]",
    "[bold red]all is well[/]",
    "[link=https://example.org]look[/link] :smile:",
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07\x1b]8;;https://example.org\x1b\\here\x1b]8;;\x1b\\",
    "\x1bP+q544e\x1b\\",
    "\x9b31m\x9d0;title\x9c\x90q\x9c",
    "one\rtwo\nrelay: three\x0b\x0c\x85\u2028\u2029",
    "2026-01-01T00:00:00Z [info     ] Relay stopped\n",
    "\x08\x08\x7f\x00"[:3],
    "user\u202etxt.exe\u2066\u2067\u2069\u061c",
    "a\u200b\u200c\u200d\u2060\ufeffb\xad",
    "\u3164\u115f\uffa0\u2800\u034f",
    "x\ufe0f\U000e0100\U000e0041",
    "e" + "\u0301" * 200,
    '"; DROP TABLE x; -- \\u001b {"a": 1}',
    "%s %n {0} $HOME `id` \\",
    "x" * 5_000,
)
"""Without halves of surrogate pairs and NUL: PostgreSQL takes neither."""

_PIECES = st.sampled_from(
    [
        *("[", "]", "[/", "[b]", ":x:", "=", '"', "\\", "a", " ", "é"),
        *("\x1b", "\x1b[", "\x9b", "\n", "\r", "\t", "\x7f"),
        *("\u202e", "\u200b", "\ufeff", "\u3164", "\xa0", "\u2028", "\u0301" * 9),
    ]
)


def hostile_text(*, for_postgres: bool = False, max_size: int = 30) -> st.SearchStrategy[str]:
    """Any text, mixed of what does harm; without what PostgreSQL has no place for, if asked."""
    letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0") if for_postgres else st.characters()
    mixed = st.lists(_PIECES | letters, max_size=max_size).map("".join)
    return mixed if for_postgres else mixed | st.text(st.characters(categories=["Cs", "Cc", "Cf"]), max_size=5)


def unseen(text: str) -> str:
    """What of a text a reader does not see, or a terminal obeys: nothing, if the text is fit to be shown."""
    found = [
        each
        for each in text
        if unicodedata.category(each)[0] == "C" or unicodedata.category(each) in ("Zl", "Zp") or each in _EMPTY
    ]
    stacked = 0
    for each in text:
        stacked = stacked + 1 if unicodedata.category(each) in ("Mn", "Me") else 0
        if stacked > 10:
            found.append(each)
    return "".join(found)


_EMPTY = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\ufe0f\uffa0\xa0\U000e0100"
"""Empty ones that are no control characters to Unicode, listed apart from the program's own list."""
