"""Text from outside is shown and never obeyed."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.text import as_json, clip, one_line, plain, visible
from tests.support.hostile import NASTY, hostile_text, unseen


@pytest.mark.parametrize("text", ["relay-1", "größer, naïve, 日本語, नमस्ते, 🚚", "relay[/prod]", r"C:\temp", "", "Å"])
def test_what_is_visible_stays_as_it_is(text: str) -> None:
    assert plain(text) == text
    assert visible(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\nb\tc\x07", r"a\r\nb\tc\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("\x7f", r"\x7f"),
        ("abc\u202etxt", r"abc\u202etxt"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("a\u200bb\u200d\ufeff", r"a\u200bb\u200d\ufeff"),
        ("\u3164\uffa0\u115f", r"\u3164\uffa0\u115f"),
        ("x\ufe0f\U000e0100", r"x\ufe0f\U000e0100"),
        ("\U000e0041", r"\U000e0041"),
        ("\ud800", r"\ud800"),
        ("a\u2028b", r"a\u2028b"),
        ("a\xa0b", r"a\xa0b"),
    ],
)
def test_what_is_not_visible_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert not visible(text)


def test_marks_are_stacked_no_higher_than_languages_need() -> None:
    assert plain("a" + "\u0301" * 6) == "a" + "\u0301" * 4 + r"\u0301\u0301"


@pytest.mark.parametrize("text", NASTY)
def test_every_nasty_text_is_shown_harmlessly(text: str) -> None:
    assert not unseen(plain(text))
    assert not unseen(as_json(text, only_ascii=False))


@given(hostile_text())
def test_nothing_unseen_is_left_and_nothing_is_done_twice(text: str) -> None:
    shown = plain(text)
    assert not unseen(shown)
    assert "\n" not in shown
    assert plain(shown) == shown
    assert not unseen(one_line(text))


@given(
    st.recursive(
        hostile_text() | st.integers() | st.none(),
        lambda each: st.lists(each) | st.dictionaries(hostile_text(), each),
        max_leaves=5,
    )
)
def test_json_says_exactly_what_was_said(value: object) -> None:
    for only_ascii in (True, False):
        for indent in (None, 2):
            told = as_json(value, indent=indent, only_ascii=only_ascii)
            # Two halves that meet are one character to every reader of JSON.
            assert json.loads(told) == json.loads(json.dumps(value))
            assert not unseen(told.replace("\n", ""))
            assert not only_ascii or told.isascii()


def test_json_of_a_log_keeps_letters_readable() -> None:
    assert as_json("größer\x9b", only_ascii=False) == r'"größer\u009b"'


def test_a_long_text_is_cut_and_says_so() -> None:
    assert clip("a" * 10, 10) == "a" * 10
    assert clip("a" * 1_010, 10) == "a" * 10 + "... (1,000 more characters)"
    assert len(plain("\u202e" * 10**6)) < 20_000
    assert len(one_line("x y\n" * 10**6)) < 20_000


def test_the_invisible_ones_are_those_of_unicode() -> None:
    """What Python calls printable and has neither ink nor width; assigned code points only."""
    for point in (0x034F, 0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800, 0xFE0F, 0x180B, 0x17B4):
        assert chr(point).isprintable(), unicodedata.name(chr(point))
        assert not visible("a" + chr(point))
