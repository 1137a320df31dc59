"""Words that more than one room uses stand in one place, and what SQL says of them is the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from relay import headers, names
from relay.keys import LANES

ROOT = Path(__file__).parents[2]
SQL = {path.relative_to(ROOT): path.read_text() for path in sorted((ROOT / "sql").rglob("*.sql"))}
HEADER_NAMES = {value for name, value in vars(headers).items() if name.isupper() and isinstance(value, str)}


def written_in(path: Path) -> set[str]:
    """The strings in a module, but for its documentation."""
    tree = ast.parse(path.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told]
    return {node.value for node in constants if isinstance(node.value, str)}


class TestHeaders:
    def test_no_module_but_one_writes_a_headers_name(self) -> None:
        elsewhere = {
            str(path.relative_to(ROOT)): found
            for path in sorted((ROOT / "relay").rglob("*.py"))
            if path != ROOT / "relay/headers.py" and (found := written_in(path) & HEADER_NAMES)
        }
        assert elsewhere == {}

    def test_sql_writes_none_that_is_not_one(self) -> None:
        queries = "".join(text for path, text in SQL.items() if "queries" in path.parts)
        assert set(re.findall(r"'(outbox-[a-z-]*)'", queries)) <= HEADER_NAMES

    def test_all_begin_with_the_prefix_that_writers_must_not_use(self) -> None:
        assert all(name.startswith(headers.PREFIX) for name in HEADER_NAMES)


class TestLanes:
    def test_every_list_of_lanes_in_sql_has_all(self) -> None:
        lists = [found for text in SQL.values() for found in re.findall(r"'\{(0,1,[\d,]*)\}'", text)]
        assert len(lists) >= 4
        assert set(lists) == {",".join(map(str, range(LANES)))}

    def test_every_bound_of_a_lane_in_sql_is_the_last_one(self) -> None:
        bounds = [found for text in SQL.values() for found in re.findall(r"lane BETWEEN 0 AND (\d+)", text)]
        assert len(bounds) >= 5
        assert set(map(int, bounds)) == {LANES - 1}

    def test_the_lane_of_a_key_is_a_byte_cut_to_their_number(self) -> None:
        assert LANES & (LANES - 1) == 0, "or a mask would not do"
        masks = [found for text in SQL.values() for found in re.findall(r"& (\d+)\)::smallint", text)]
        assert set(map(int, masks)) == {LANES - 1}

    def test_no_module_but_one_writes_their_number(self) -> None:
        """Other sixteens say what they are: `_MOST_LINES = 16` is none."""
        written = {
            str(path.relative_to(ROOT))
            for path in sorted((ROOT / "relay").rglob("*.py"))
            if re.search(r"\bLANES\b.*= *\d|[%&] *1[56]\b|range\(16\)", path.read_text())
        }
        assert written == {"relay/keys.py"}


class TestTopics:
    def test_the_schema_has_the_same_rule(self) -> None:
        (check,) = re.findall(
            r"topic COLLATE \"C\" !~ '\[\^([^\]]*)\]' AND octet_length\(topic\) BETWEEN 1 AND (\d+)",
            SQL[Path("sql/migrations/0001_outbox.sql")],
        )
        characters, longest = check
        allowed = re.compile(f"[{characters}]")
        assert int(longest) == names.LONGEST_TOPIC
        assert all(bool(allowed.match(chr(code))) == names.is_topic("x" + chr(code)) for code in range(0x3000))

    @pytest.mark.parametrize("name", ["", ".", "..", "ordérs", "a b", "a" * 250])
    def test_what_is_none(self, name: str) -> None:
        assert not names.is_topic(name)

    @pytest.mark.parametrize("name", ["a", "...", "Orders-2_x", "a" * 249])
    def test_what_is_one(self, name: str) -> None:
        assert names.is_topic(name)
