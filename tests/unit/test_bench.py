"""The benchmarks' frame: commands, tables, pictures and the documents' parts, without servers."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner

from relay.cli import interpreter
from tests.bench import everything, warming
from tests.bench.__main__ import COMMANDS, main
from tests.bench.figures import FIGURES, PARTS, readable, spread
from tests.bench.outage import check_records
from tests.bench.pgbench import transaction_ends, transaction_ms
from tests.bench.process import ROOT
from tests.bench.profiles import WHERE, parts_of
from tests.bench.report import Finding, Report, interleave
from tests.bench.soak import growth_of
from tests.support.kafka.consumer import Record

README = everything.README.read_text()
PAGE = everything.PAGE.read_text()
MACHINE = {"processor": "Some CPU", "cores": "2", "load before": "0.1, 0.1, 0.1"}
PGO = "'--prefix=/usr/local' '--enable-optimizations' '--with-lto' -O3"
COMPARISON = "against"
"""Needs to know with what; so it is no part of `all`."""
BENCHMARKS = [name for name in COMMANDS if name not in ("all", "readme")]


def a_report(benchmark: str = "compare") -> Report:
    """Two series of two rounds."""
    return Report(
        benchmark,
        "Something",
        {"events": 5},
        {
            "relay": [{"events_per_second": 100.0, "relay_cpu_us": 10.0}, {"events_per_second": 300.0}],
            "<naive>": [{"events_per_second": 5.0}, {"events_per_second": 7.0}],
        },
        [Finding("Speed", [20.0, 42.0], "times", at_least=25), Finding("Cost", [3.0], "us", at_most=2)],
        curves={"events/s": {"written": [(0.0, 1.0), (1.0, 2.0)]}},
        machine=MACHINE,
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_takes_rounds_or_sizes_and_writes_json_and_a_picture(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--picture"} < options


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_explained_on_its_page_and_part_of_all(name: str) -> None:
    assert f"\n| `{name}` | " in PAGE
    assert (name in everything.PLANS) == (name != COMPARISON)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_benchmarks_that_warm_up_take_a_time_for_it(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    options = {option: parameter.default for parameter in command.params for option in parameter.opts}
    assert options.get("--warm-up") == (warming.SECONDS if name in (*everything.WARMED, COMPARISON) else None)


def test_a_commit_that_git_does_not_know_is_refused_before_a_server_starts() -> None:
    result = CliRunner().invoke(main, ["against", "no-such-commit"])
    assert result.exit_code == 2
    assert "git knows no commit 'no-such-commit' here" in result.output


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("/home/me/.pyenv/versions/3.11.7", "of pyenv"),
        ("/home/me/.local/share/uv/python/cpython-3.13.0-linux-x86_64-gnu", "of uv"),
        ("/usr", "of Debian GNU/Linux"),
        ("/usr/local", "in /usr/local"),
        ("/home/me/secret", "of another build"),
    ],
)
def test_who_built_the_interpreter_is_named_without_a_path_of_somebody(base: str, words: str) -> None:
    assert interpreter.made_by(Path(base), "Debian GNU/Linux") == words


@pytest.mark.parametrize(
    ("build", "builder", "words"),
    [
        ("'--prefix=/home/me' -O3", "of pyenv", "unoptimised"),
        (PGO, "in /usr/local", "optimised (also at link time)"),
        ("'--enable-optimizations'", "of pyenv", "optimised"),
        ("-O2 -fprofile-use", "of another build", "optimised"),
        # Debian's sysconfig does not show with what its interpreter was built.
        ("'--enable-shared' -O2", "of Debian GNU/Linux", "optimised"),
        ("'--enable-shared' -O2", "of Some Linux", "unoptimised"),
        (f"'--with-pydebug' {PGO}", "of pyenv", "debugging"),
    ],
)
def test_whether_the_interpreter_is_optimised_is_named(build: str, builder: str, words: str) -> None:
    assert interpreter.how_optimised(build, builder) == words


def figures_of(page: str) -> list[list[str]]:
    """The rows between the markers of a page, as cells."""
    figures = page.partition(everything.BEGIN)[2].partition(everything.END)[0]
    return [line.strip("| ").split(" | ") for line in figures.splitlines() if line.startswith("| ")]


def test_the_readme_shows_the_rows_that_its_page_has_under_every_highlight() -> None:
    full = {(what, figure, command) for command, what, figure, *_ in figures_of(PAGE) if command.startswith("`")}
    _, *shown = (tuple(row) for row in figures_of(README))
    assert set(shown) <= full
    assert [
        next((what for what, *_ in shown if what.startswith(beginning)), None) for beginning in everything.HIGHLIGHTS
    ] == [what for what, *_ in shown]


def test_a_report_survives_being_written_and_read() -> None:
    report = a_report()
    again = Report.from_json(json.loads(json.dumps(report.as_json())))
    assert again.as_json() == json.loads(json.dumps(report.as_json()))
    assert again.markdown() == report.markdown()


def test_a_row_of_the_page_has_median_spread_target_and_whether_it_was_missed() -> None:
    assert a_report().markdown() == [
        "| `compare` | Speed | 31 (20 to 42) times | at least 25 |",
        "| `compare` | Cost | 3 us | at most 2 (missed) |",
    ]


def test_the_picture_has_the_bars_of_the_figures_that_a_series_has(tmp_path: Path) -> None:
    a_report().draw(tmp_path / "picture.svg")
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert [FIGURES["events_per_second"], "relay", "200", "<naive>", "6"] == texts[:5]
    # The second figure is known of one series only.
    assert texts[5:9] == [FIGURES["relay_cpu_us"], "relay", "10", "events/s"]
    (curve,) = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert len(curve.attrib["points"].split()) == 2


def test_the_table_is_not_cut_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    series = {f"a series with a long name {number}": [{"events_per_second": 123456.0}] for number in range(4)}
    Report("drain", "Something", {}, series, machine=MACHINE).print()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.count("123,456") == 4 for line in lines)
    assert any(all(name in line for name in series) for line in lines)


async def test_rounds_are_interleaved_every_second_one_backwards() -> None:
    ran = []

    async def one(name: str) -> dict[str, float]:
        ran.append(name)
        return {"events": float(len(ran))}

    found = await interleave(3, {"a": lambda: one("a"), "b": lambda: one("b")})
    assert ran == ["a", "b", "b", "a", "a", "b"]
    assert [each["events"] for each in found["a"]] == [1, 4, 5]


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (12.34, "12.3"), (123.4, "123"), (1e6, "1,000,000")],
)
def test_figures_are_readable(value: float, words: str) -> None:
    assert readable(value) == words


def test_one_round_has_no_spread() -> None:
    assert spread([5.0]) == "5"
    assert spread([5.0, 1.0, 9.0]) == "5 (1 to 9)"


def test_readme_takes_the_figures_over_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [tmp_path / "README.md", tmp_path / "tests/bench/README.md"]
    monkeypatch.setattr(everything, "ROOT", tmp_path)
    monkeypatch.setattr(everything, "README", pages[0])
    monkeypatch.setattr(everything, "PAGE", pages[1])
    monkeypatch.setattr(everything, "PICTURE", tmp_path / "deploy/performance.svg")
    (tmp_path / "deploy").mkdir()
    for page in pages:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"before\n{everything.BEGIN}old \\1\n{everything.END}after\n")
    highlighted = a_report("latency")
    highlighted.findings.append(Finding("Commit to consumer at 1000/s, p99", [12.0, 10.0, 30.0], "ms", at_most=20))
    found = tmp_path / "figures.json"
    found.write_text(json.dumps([a_report().as_json(), highlighted.as_json()]))
    for _ in range(2):
        answer = CliRunner().invoke(main, ["readme", str(found)], catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"before\n{everything.BEGIN}")
        assert text.endswith(f"{everything.END}after\n")
        assert "old" not in text
    readme, full = (page.read_text() for page in pages)
    assert figures_of(readme)[1:] == [["Commit to consumer at 1000/s, p99", "12 (10 to 30) ms", "`latency`"]]
    assert full.count("| `compare` | Speed | 31 (20 to 42) times | at least 25 |") == 1
    assert "(../../deploy/performance.svg)" in full
    assert "polyline" in (tmp_path / "deploy/performance.svg").read_text()


def test_one_broken_benchmark_costs_no_other_s_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoServers:
        def __init__(self, warm_up: float, **settings: object) -> None: ...
        def __enter__(self) -> NoServers:
            return self

        def __exit__(self, *error: object) -> None: ...

    async def works(place: object, size: int) -> Report:
        assert size == 1
        return a_report("latency")

    async def breaks(place: object) -> Report:
        raise RuntimeError("no")

    plans = {
        "bad-event": everything._plan(breaks, {}, {}),
        "latency": everything._plan(works, {"size": 9}, {"size": 1}),
    }
    monkeypatch.setattr(everything, "PLANS", plans)
    monkeypatch.setattr(everything, "Place", NoServers)
    found = tmp_path / "figures.json"
    answer = CliRunner().invoke(everything.all_command, ["--quick", "--json", str(found)])
    assert answer.exit_code == 1
    assert "BROKEN bad-event: RuntimeError: no" in answer.output
    assert "| `latency` | Speed |" in answer.output
    assert [each["benchmark"] for each in json.loads(found.read_text())] == ["latency"]


def record(event: int, key: bytes, number: int) -> Record:
    """A record as pgbench's transactions make it: the payload begins with the number of the key's event."""
    return Record("bench", 0, event, key, f"{number} ".ljust(500).encode(), {"outbox-id": str(event)}, 0)


def test_the_outage_counts_what_is_lost_out_of_order_or_there_again() -> None:
    in_order = [record(1, b"a", 1), record(2, b"b", 1), record(3, b"a", 2), record(4, b"a", 3)]
    assert check_records({1, 2, 3, 4}, in_order) == {"lost": 0, "out_of_order": 0, "repeats": 0}
    repeated = [*in_order, record(1, b"a", 1)]
    assert check_records({1, 2, 3, 4}, repeated) == {"lost": 0, "out_of_order": 0, "repeats": 1}
    swapped = [in_order[0], in_order[3], in_order[2]]
    assert check_records({1, 2, 3, 4}, swapped) == {"lost": 1, "out_of_order": 1, "repeats": 0}


def test_waiting_for_a_client_is_no_part_of_a_transaction() -> None:
    fastest = "latency average = 2.150 ms\nlatency stddev = 1.9 ms\ntps = 3719.0 (without initial connection time)\n"
    assert transaction_ms(fastest) == 2.15
    at_a_rate = f"{fastest}rate limit schedule lag: avg 0.150 (max 12.3) ms\n"
    assert transaction_ms(at_a_rate) == 2.0


def test_growth_is_that_after_warming_up() -> None:
    assert growth_of([10.0, 50.0, 60.0, 70.0, 55.0]) == 5
    assert growth_of([7.0, 7.0, 7.0, 7.0, 7.0]) == 0


def test_the_ends_of_pgbenchs_transactions_are_found_by_client_and_number() -> None:
    log = "0 1 1374 0 1763760000 250000 3\n1 1 900 0 1763760000 500000 1\n0 2 800 0 1763760001 7 2\n"
    assert transaction_ends(log) == {"0-1": 1763760000.25, "1-1": 1763760000.5, "0-2": 1763760001.000007}
    with pytest.raises(RuntimeError, match="failed"):
        transaction_ends("0 1 failed 0 1763760000 250000 3")


def test_a_sample_belongs_to_the_innermost_call_that_is_known() -> None:
    root, scan = "Runner.run (asyncio/runners.py:86)", "Scan.run (relay/stages/scan/scan.py:92)"
    stacks = [
        f"{root};{scan};ScanConnection.scan (relay/postgres/flow/scan.py:82);fetch (asyncpg/connection.py:1) 6",
        f"{root};{scan};Publish.hand_in (relay/stages/publish/publish.py:9) 1",
        f"{root};Settle.run (relay/stages/settle/settle.py:9);Statements._rows (relay/postgres/flow/statements.py:3) 1",
        f"{root};handle (asyncio/events.py:3) 1",
        f"{root};something (else.py:1) 1",
    ]
    parts = parts_of(stacks)
    assert parts.keys() == PARTS.keys()
    assert {part: share for part, share in parts.items() if share} == {
        "part_scan": 60,
        "part_publish": 10,
        "part_settle": 10,
        "part_loop": 10,
        "part_other": 10,
    }


@pytest.mark.parametrize("stacks", [[], ["run (asyncio/runners.py:86);scan (relay/postgres/flow/scan.py:82) 5"]])
def test_a_py_spy_that_names_calls_otherwise_is_refused(stacks: list[str]) -> None:
    with pytest.raises(RuntimeError, match=r"is it 0\.4\.3 or later"):
        parts_of(stacks)


@pytest.mark.parametrize(("part", "function", "file"), [each for each in WHERE if each[2].startswith("relay/")])
def test_the_calls_by_which_a_profile_is_divided_exist(part: str, function: str, file: str) -> None:
    found = ROOT / file
    assert found.is_dir() or all(name in found.read_text() for name in function.split("."))


def test_the_page_shows_the_profile_as_a_table() -> None:
    profile = Report(
        "profile", "", {}, {"draining": [dict.fromkeys(PARTS, 7.4)], "1000/s": [dict.fromkeys(PARTS, 3.0)]}
    )
    shown = everything.markdown([a_report(), profile])
    assert "| Where the relay's time goes (`profile`) | draining | 1000/s |\n|---|---|---|\n" in shown
    assert "\n| settling | 7 % | 3 % |\n" in shown
