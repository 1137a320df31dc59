"""`relay failed` without a server: what is refused before anything is asked, and how strange bytes are shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import click
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text

from relay.admin.actions import progress
from relay.admin.failures import FailureList
from relay.admin.not_replayable import refusal, state_of, unknown
from relay.admin.selections import Selection, in_words, parse_key, parse_topic, recorded
from relay.admin.times import moment, parse_time
from relay.cli import main
from relay.cli.failed import command
from relay.cli.failed.listing import summary
from relay.cli.show import cells
from relay.cli.show.payloads import payload_view
from relay.errors import InvalidRequestError
from relay.keys import key_bytes, key_text
from relay.postgres.admin.failures import FailureFilter
from relay.postgres.admin.rows import Action, FailureGroup, IdRange
from relay.text import plain

NOW = datetime(2026, 5, 17, 3, 10, tzinfo=UTC)


def usage_error(*arguments: str) -> str:
    """What the command says when it ends with 2, which it does before it looks for settings."""
    result = CliRunner().invoke(main, ["failed", *arguments], env={"RELAY_POSTGRES_DSN": ""})
    assert result.exit_code == 2, result.output
    assert "RELAY_POSTGRES_DSN" not in result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["replay"], "--all for every failure"),
        (["discard", "--reason", "x"], "--all for every failure"),
        (["replay", "--dry-run", "--yes"], "--all for every failure"),
        (["replay", "5", "--topic", "orders"], "not both"),
        (["replay", "5", "--all"], "not both"),
        (["replay", "--all", "--error", "x"], "leave it out, or the filters"),
        (["discard", "5"], "needs --reason"),
        (["discard", "5", "--reason", "  "], "needs --reason"),
        (["replay", "five"], "'five' is not a valid event id"),
        (["replay", "0"], "0 is not in the range"),
        (["show", str(2**63)], "is not in the range"),
        (["show", "5", "--raw", "--json"], "exclude each other"),
        (["list", "--since", "yesterday"], "'yesterday' is not a time; write how long ago"),
        (["replay", "--until", "2026-13-01"], "is not a time"),
        (["replay", "--until", "5"], "is not a time"),
        (["list", "--topic", "or?ers"], "'or?ers' is not a topic"),
        (["list", "--topic", ""], "is not a topic"),
        (["list", "--key", "hex:0"], "pairs of hexadecimal digits"),
        (["list", "--state", "pending"], "'pending' is not one of"),
        (["replay", "--state", "discarded"], "'discarded' is not one of"),
        (["list", "--limit", "0"], "0 is not in the range"),
        (["nothing"], "No such command"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(arguments: list[str], told: str) -> None:
    assert told in usage_error(*arguments)


def test_the_exit_codes_stand_in_every_help() -> None:
    for name in ("", *command.commands):
        result = CliRunner().invoke(main, ["failed", *([name] if name else []), "--help"])
        assert result.exit_code == 0
        for line in (
            "0  done",
            "1  nothing was changed: refused, or nothing matched",
            "2  the command or the settings",
            "3  PostgreSQL",
        ):
            assert line in result.output


def test_the_commands_stand_in_the_order_of_their_use() -> None:
    assert command.list_commands(click.Context(command)) == ["list", "show", "replay", "discard", "actions"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        (" 2 h ", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
        ("1w", timedelta(weeks=1)),
        ("9" * 30 + "w", timedelta(days=36_500)),
        ("2026-05-17T03:10:00+02:00", datetime(2026, 5, 17, 1, 10, tzinfo=UTC)),
        ("2026-05-17T03:10Z", NOW),
        ("2026-05-17 03:10", datetime(2026, 5, 17, 3, 10).astimezone()),
        ("2026-05-17", datetime(2026, 5, 17).astimezone()),
    ],
)
def test_a_time_is_how_long_ago_or_a_date(text: str, expected: datetime | timedelta) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    ("failures", "held_back", "told"),
    [
        (1, 0, "1 failed"),
        (1, 1, "1 failed; 1 event held back behind it"),
        (1, 3, "1 failed; 3 events held back behind it"),
        (2, 1, "2 failed; 1 event held back behind them"),
        (1, None, "1 failed; counting the events held back behind it took too long"),
        (2, None, "2 failed; counting the events held back behind them took too long"),
    ],
)
def test_the_list_says_how_many_wait_behind_one_failure_or_several(
    failures: int, held_back: int | None, told: str
) -> None:
    groups = [FailureGroup("orders", "EventTooLarge", "failed", failures, 0, 1.0, 1.0)]
    assert summary(FailureList({}, [], groups, held_back, None, 0)) == told


@pytest.mark.parametrize("text", ["", "2x", "h", "-2h", "2026", "2026-02-30", "03:10", "now", "1.5h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_time(text)


def test_times_ago_are_counted_from_the_servers_time() -> None:
    wanted = Selection(since=timedelta(hours=2), until=NOW)
    assert wanted.filter(NOW) == FailureFilter(since=NOW - timedelta(hours=2), until=NOW)


@pytest.mark.parametrize(("since", "until"), [(timedelta(hours=1), timedelta(hours=2)), (NOW, NOW)])
def test_a_span_of_time_that_is_empty_is_refused(since: datetime | timedelta, until: datetime | timedelta) -> None:
    with pytest.raises(InvalidRequestError, match="is not before"):
        Selection(since=since, until=until).filter(NOW)


def test_an_id_given_twice_counts_once() -> None:
    wanted = Selection(ids=(5, 3, 5))
    assert wanted.filter(NOW).ids == (5, 3)


def test_a_topic_may_have_stars_and_nothing_else_that_topics_have_not() -> None:
    assert parse_topic("orders.*-v2_*") == "orders.*-v2_*"
    for text in ("or ders", "orders%", "[ab]", "ordérs", "x" * 250):
        with pytest.raises(ValueError, match="is not a topic"):
            parse_topic(text)


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
@example(b"")
@example(b"hex:6b")
@example(b"\x1b[31m")
def test_a_key_that_is_shown_can_be_given_back(key: bytes) -> None:
    shown = key_text(key)
    assert shown.isprintable()
    assert parse_key(shown) == key_bytes(shown) == key


def test_a_readable_key_is_shown_as_it_is() -> None:
    assert [key_text(key) for key in (b"customer-17", "größe".encode(), b"0x4f")] == ["customer-17", "größe", "0x4f"]
    assert [key_text(key) for key in (b"\x00\xff", b"", b"hex:1")] == ["hex:00ff", "hex:", "hex:6865783a31"]


@given(st.text(max_size=60))
def test_no_control_sequence_gets_through(text: str) -> None:
    assert plain(text).isprintable()
    assert all(each.isprintable() or each == "\n" for each in plain(text, also="\n"))
    assert cells.text(text).plain.isprintable()


def test_markup_in_a_text_is_a_text() -> None:
    assert cells.text("[red]x[/red]") == Text("[red]x[/red]")


@given(st.binary(max_size=200), st.integers(0, 50))
def test_any_payload_can_be_shown(payload: bytes, beyond: int) -> None:
    view = payload_view(payload, len(payload) + beyond)
    assert all(each.isprintable() or each in "\n\t" for each in view.text)
    assert not (beyond and payload and view.whole)


def test_a_payload_is_json_text_or_binary() -> None:
    forms = {
        b'{"a": [1, 2.5, "\xc3\xa4"]}': "JSON",
        b"[]": "JSON",
        b'"text"': "text",
        b"{not json": "text",
        "two\nlines\r\n\tand 👩‍🚀".encode(): "text",
        b"\x00\x01": "binary",
        b"\x1b[31mred": "binary",
        b"\xff": "binary",
        b"": "empty",
    }
    assert {payload: payload_view(payload, len(payload)).form for payload in forms} == forms
    assert payload_view(None, None) == ("tombstone (no payload)", "", True)


@pytest.mark.parametrize(
    "text",
    ['{"amount": 1.10}', '{"a": 1, "a": 2}', '{"n": NaN}', '{"n": 1e400}', "[" * 100_000, '{"n": ' + "9" * 5_000 + "}"],
)
def test_json_that_could_not_be_laid_out_as_it_is_stays_text(text: str) -> None:
    view = payload_view(text.encode(), len(text))
    assert view.form == "text"
    assert text.startswith(view.text)


def test_json_is_laid_out_and_says_the_same() -> None:
    payload = '{"name": "größe", "lines": [{"n": 1.5}], "escape": "\\ud800 \\u001b"}'
    view = payload_view(payload.encode(), len(payload.encode()))
    assert json.loads(view.text) == json.loads(payload)
    assert '  "lines": [\n' in view.text
    assert "größe" in view.text


def test_the_beginning_of_a_long_payload_may_end_within_a_character() -> None:
    text = "ä" * 10_000
    view = payload_view(text.encode()[:9_999], 20_000)
    assert (view.form, view.whole) == ("text", False)
    assert text.startswith(view.text)
    assert len(payload_view(b"x\n" * 10_000, 20_000).text) < 5_000
    assert payload_view(b"\x00" * 10_000, 10_000).text.count("\n") < 20


def test_a_hexadecimal_dump_can_be_read() -> None:
    assert payload_view(b"\x00ABC\xffabcdefghijklm", 18).text.splitlines() == [
        "000000  00 41 42 43 ff 61 62 63  64 65 66 67 68 69 6a 6b  .ABC.abcdefghijk",
        "000010  6c 6d                                             lm",
    ]


def test_the_audit_has_the_filter_that_was_given() -> None:
    matching = FailureFilter(topic="orders.*", key=b"\xff", error="E*", since=NOW, states=("failed",))
    asked = recorded(matching)
    assert json.loads(json.dumps(asked)) == {
        "topic": "orders.*",
        "key": "hex:ff",
        "error": "E*",
        "since": "2026-05-17T03:10:00+00:00",
        "states": ["failed"],
    }
    assert in_words(asked) == f"topic orders.*, key hex:ff, error E*, since {moment(NOW)}, states failed"
    assert recorded(FailureFilter()) == {"all": True}
    assert in_words({"all": True}) == "all"
    assert in_words({"ids": list(range(1, 13))}, max_ids=3) == "ids 1, 2, 3 and 9 more"


def action(kind: str, counts: dict[str, object], to_go: int = 0, failed: int = 0, finished: bool = False) -> Action:
    """An action."""
    return Action(1, kind, {}, "", "kim", NOW, 1.0, NOW if finished else None, counts, to_go, failed)


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (action("replay", {"events": 9}, to_go=5), "4 delivered, 5 to go"),
        (action("replay", {"events": 9}, to_go=1, failed=2), "6 delivered, 2 failed again, 1 to go"),
        (action("replay", {"events": 9}), "9 delivered"),
        (action("discard", {"events": 9}, finished=True), "done"),
        (action("replay-delivered", {"events": 9, "published": 3}), "in progress, events 9, published 3"),
    ],
)
def test_progress_in_words(of: Action, told: str) -> None:
    assert progress(of) == told


@pytest.mark.parametrize(
    ("event_id", "there_are", "told"),
    [
        (9, IdRange(1, 8), "the newest id is 8"),
        (4, IdRange(5, 8), "events below 5 have been pruned"),
        (6, IdRange(5, 8), "its segment may have been pruned"),
        (6, IdRange(None, 8), "its segment may have been pruned"),
    ],
)
def test_why_there_is_no_such_event(event_id: int, there_are: IdRange, told: str) -> None:
    assert told in unknown(event_id, there_are)


def test_a_refusal_says_that_nothing_was_changed() -> None:
    assert str(refusal("replay", [1], ["event 1 is odd"])) == "event 1 is odd; nothing was changed"
    several = str(refusal("discard", [1, 2, 3], ["event 1 is odd", "event 3 is odd"]))
    assert several.splitlines() == [
        "nothing was changed: not all of these events can be discarded:",
        "  event 1 is odd",
        "  event 3 is odd",
    ]


def test_an_event_has_one_state() -> None:
    assert state_of(None, delivered=False, held=False) == "pending"
    assert state_of(None, delivered=False, held=True) == "held back"
    assert state_of("failed", delivered=False, held=False) == "failed"
    assert state_of("failed", delivered=True, held=False) == "delivered"
