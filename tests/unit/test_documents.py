"""What the documents beside the code name is there: rules, tests, files, commits."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from relay.postgres.sql import migrations, query
from tests.bench.__main__ import COMMANDS as BENCHMARKS

ROOT = Path(__file__).parents[2]
FOLDERS = ("relay", "sql", "tests", "deploy", ".github")
SCAN = (ROOT / "relay/decide/SCAN.md").read_text()
TABLES = (ROOT / "sql/README.md").read_text()
RULES = re.split(r"^### Rule (\d+): ", SCAN, flags=re.MULTILINE)[1:]

# Published migrations are never edited: their checksums are in the databases.
TEXTS = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".sql", ".md") and path.parent != ROOT / "sql/migrations"
]
PAGES = [path for path in (*sorted(ROOT.glob("*.md")), *TEXTS) if path.suffix == ".md"]


def name_of(path: Path) -> str:
    """From the top of the repository."""
    return str(path.relative_to(ROOT))


@cache
def definitions(path: Path) -> frozenset[str]:
    """The functions of a test file and of its classes, named as pytest does."""
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name for node in tree.body if isinstance(node, kinds)}
    for group in tree.body:
        if isinstance(group, ast.ClassDef):
            found |= {f"{group.name}::{node.name}" for node in group.body if isinstance(node, kinds)}
    return frozenset(found)


def test_the_scan_has_ten_rules() -> None:
    assert RULES[::2] == [str(number) for number in range(1, 11)]


def test_every_rule_of_the_scan_that_is_cited_exists() -> None:
    cited = {
        number: name_of(path)
        for path in TEXTS
        for number in re.findall(r"\b(?:rules? |TestRule)(\d+)", path.read_text(), re.IGNORECASE)
    }
    assert len(cited) > 5, "nobody cites a rule: nothing is tested"
    assert {number: cited[number] for number in cited.keys() - set(RULES[::2])} == {}


@pytest.mark.parametrize("text", RULES[1::2], ids=[f"rule-{number}" for number in RULES[::2]])
def test_every_rule_of_the_scan_says_what_breaks_without_it_and_which_tests_hold_it(text: str) -> None:
    assert "\nWithout it: " in text
    assert re.search(r"^Held by:\n\* `\w+/test_\w+\.py::", text, re.MULTILINE)


def test_the_page_on_sql_has_every_table_and_view_of_the_outbox() -> None:
    made = {
        name
        for migration in migrations()
        for name in re.findall(r"^CREATE (?:TABLE|VIEW) outbox\.(\w+)", migration.sql, re.MULTILINE)
        if not name.endswith("_default")
    }
    renamed = dict(
        pair
        for migration in migrations()
        for pair in re.findall(r"^ALTER TABLE outbox\.(\w+) RENAME TO (\w+);", migration.sql, re.MULTILINE)
    )
    made = {renamed.get(name, name) for name in made}
    assert made <= set(re.findall(r"^\| `(\w+)`", TABLES, re.MULTILINE))


def test_the_changelog_tells_operators_of_every_migration() -> None:
    told = (ROOT / "CHANGELOG.md").read_text().partition("### Migrations\n")[2]
    for migration in migrations():
        assert f"\n* `{migration.version:04} {migration.name}` " in told


def test_every_statement_of_an_events_states_exists() -> None:
    diagram = re.findall(r"^ +\w+ --> \S+ : (\w+)$", TABLES, re.MULTILINE)
    rows = re.findall(r"^\|[^|\n]+\|[^|\n]+\|[^|\n]+\|([^|\n]+)\|[^|\n]+\|$", TABLES, re.MULTILINE)
    named = {*diagram, *re.findall(r"`(\w+)`", "".join(rows))}
    assert len(named) > 5, "the page has another form: nothing is tested"
    for name in named:
        assert query(name)


def test_the_states_of_a_failure_are_in_the_diagram() -> None:
    states = re.search(r"state IN \(([^)]+)\)\),", migrations()[0].sql)
    assert states is not None
    for state in re.findall(r"\w+", states[1]):
        assert re.search(rf"^ +\S+ --> {state} : ", TABLES, re.MULTILINE), state


def test_the_page_on_benchmarks_explains_every_one() -> None:
    page = (ROOT / "tests/bench/README.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)) == set(BENCHMARKS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_benchmark_that_a_document_names_exists(page: Path) -> None:
    assert set(re.findall(r"-m tests\.bench ([a-z-]+)", page.read_text())) <= set(BENCHMARKS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_that_a_document_names_exists(page: Path) -> None:
    for file, name in re.findall(r"`(?:tests/)?(\w+/test_\w+\.py)::([\w:]+)`", page.read_text()):
        assert name in definitions(ROOT / "tests" / file), f"{file}::{name}"


def test_no_document_is_named_that_is_not_in_the_repository() -> None:
    named = {name: name_of(path) for path in TEXTS for name in re.findall(r"\b[A-Z]+\.md\b", path.read_text())}
    assert {name: named[name] for name in named.keys() - {page.name for page in PAGES}} == {}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_document_names_exists(page: Path) -> None:
    """In code spans, from the top of the repository; placeholders have capitals or brackets in them."""
    for name in re.findall(r"`((?:relay|sql|tests|deploy|\.ci|\.github)/[a-z0-9_./-]*)`", page.read_text()):
        assert (ROOT / name).exists(), name


def links(page: Path) -> list[str]:
    """Where the links of a page lead within the repository."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in target]


def test_the_readme_leads_to_every_document() -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links(ROOT / "README.md")}
    templates = {page for page in PAGES if page.parent.name == "ISSUE_TEMPLATE" or "TEMPLATE" in page.name}
    assert {name_of(page) for page in set(PAGES) - linked - templates} == {"README.md"}


def test_the_run_book_can_be_read_without_the_rest_of_the_repository() -> None:
    folder = ROOT / "deploy"
    for target in links(folder / "RUNBOOK.md"):
        assert (folder / target.partition("#")[0]).resolve().is_relative_to(folder), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_document_leads_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_commit_that_a_document_names_is_in_the_history(page: Path) -> None:
    cited = sorted(set(re.findall(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{7}\b", page.read_text())))
    git = shutil.which("git")
    if not cited:
        return
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no history here")
    names = "\n".join(["HEAD~30", *(f"{commit}^{{commit}}" for commit in cited)])
    found = subprocess.run([git, "cat-file", "--batch-check"], cwd=ROOT, input=names, text=True, capture_output=True)
    deep, *answers = found.stdout.splitlines()
    if deep.endswith("missing"):
        pytest.skip("a shallow history")
    assert [answer for answer in answers if answer.endswith(("missing", "ambiguous"))] == []
