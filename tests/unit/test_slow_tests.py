"""A run of everything leaves slow tests and proofs out, and says so; a run that names them has them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = """
[tool.pytest.ini_options]
testpaths = ["checks"]
addopts = "--strict-markers"
markers = ["slow", "proof"]
"""
CHECKS = """
import pytest

def test_quick(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.proof
def test_proof(): pass
"""
HOSTILE = """
import logging

def test_it_logs_half_of_a_pair():
    logging.getLogger().error("half of a pair: %s", chr(0xD800))

def test_it_shows_one():
    logging.getLogger().error("half of a pair: %s", chr(0xD800))
    assert not "half of a pair: " + chr(0xD800)
"""
ABSENT = """
import pytest

pytest.importorskip("no_such_module")
"""
SAID = re.compile(r"^1 (?:slow tests|proofs) \(.*\) were not run\. Run them with: \.venv/bin/(.*)$", re.MULTILINE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that has the hooks of ours, and a test of each kind."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks/conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "checks/test_it.py").write_text(CHECKS)
    return tmp_path


def run(project: Path, *arguments: str) -> tuple[set[str], list[str]]:
    """The tests that a run of pytest runs, and what it says of how to run the others."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=True, timeout=300)
    return set(re.findall(r"::test_(\w+).*PASSED|PASSED.*::test_(\w+)", done.stdout)), SAID.findall(done.stdout)


@pytest.mark.parametrize("arguments", [(), ("-n", "0"), ("checks", "-n", "1")], ids=" ".join)
def test_a_run_of_everything_says_what_it_leaves_out_and_how_to_run_it(
    project: Path, arguments: tuple[str, ...]
) -> None:
    ran, said = run(project, *arguments)
    assert {name for names in ran for name in names} == {"", "quick"}
    assert said == ["pytest -m slow -n 2", "pytest -m proof -n 2"]
    scripts = [(ROOT / ".ci" / script).read_text() for script in ("run", "proofs")]
    assert all(command in script for command, script in zip(said, scripts, strict=True))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("checks/test_it.py",), {"quick", "slow", "proof"}),
        (("-k", "proof or quick"), {"quick", "proof"}),
        (("-m", "proof"), {"proof"}),
        (("-m", "slow", "-n", "2"), {"slow"}),
    ],
)
def test_what_is_named_is_run(project: Path, arguments: tuple[str, ...], expected: set[str]) -> None:
    ran, said = run(project, *arguments)
    assert {name for names in ran for name in names if name} == expected
    assert said == []


def test_hostile_text_in_a_report_ends_no_run_side_by_side(project: Path) -> None:
    (project / "checks/test_it.py").write_text(HOSTILE)
    (project / "checks/test_absent.py").write_text(ABSENT)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", "checks"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert "1 failed, 1 passed, 1 skipped" in done.stdout
    assert "half of a pair: \\ud800" in done.stdout
