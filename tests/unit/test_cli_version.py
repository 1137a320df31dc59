"""`relay version`, and what a build writes into the packages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

import relay
from relay.cli import interpreter, main
from relay.cli import version as module
from relay.postgres.sql import migrations

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def shown() -> dict[str, object]:
    result = CliRunner().invoke(main, ["version", "--json"])
    assert result.exit_code == 0, result.output
    facts: dict[str, object] = json.loads(result.stdout)
    return facts


def test_it_says_what_runs() -> None:
    facts = shown()
    assert facts["version"] == relay.__version__
    assert facts["schema"] == migrations()[-1].version
    assert str(facts["python"]) == ".".join(map(str, sys.version_info[:3]))
    assert facts["python_optimised"] is interpreter.describe().startswith("optimised")


def test_it_names_every_package_that_the_relay_needs_with_its_version() -> None:
    packages = shown()["dependencies"]
    assert isinstance(packages, dict)
    needed = {requirement.partition(">")[0] for requirement in PROJECT["dependencies"]}
    assert needed <= packages.keys()
    assert packages["aiokafka"] == metadata.version("aiokafka")
    assert "cramjam" in packages, "the extra for compression is here, and developers need it too"
    assert "pytest" not in packages, "the tools of developers do not run in production"


def test_for_people_it_has_one_line_for_each_fact() -> None:
    lines = CliRunner().invoke(main, ["version"]).stdout.splitlines()
    assert lines[0].split() == ["relay", relay.__version__]
    assert {line.split()[0] for line in lines} >= {"commit", "schema", "Python", "platform", "asyncpg"}


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="this is not a clone")
def test_in_a_clone_it_names_the_commit_that_is_checked_out() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert str(shown()["commit"]).removesuffix("-dirty") == head.strip()


def test_a_package_names_the_commit_that_it_was_built_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "_commit").write_text("0123456789abcdef0123456789abcdef01234567\n")
    monkeypatch.setattr(module, "files", lambda _: tmp_path)
    assert shown()["commit"] == "0123456789abcdef0123456789abcdef01234567"


def test_where_nothing_tells_the_commit_it_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "files", lambda _: tmp_path)
    monkeypatch.setattr(relay, "__file__", str(tmp_path / "relay" / "__init__.py"))
    assert shown()["commit"] is None
    assert re.search(r"^commit +unknown$", CliRunner().invoke(main, ["version"]).stdout, re.MULTILINE)


def test_the_version_is_in_one_place() -> None:
    assert "version" not in PROJECT
    assert "version" in PROJECT["dynamic"]
