"""The workflows, judged by linters: actionlint knows their syntax and the shell in them, zizmor what attackers use."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.go_tools import go_tool

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github/workflows"


def test_actionlint_finds_nothing() -> None:
    files = [str(path) for path in sorted(WORKFLOWS.glob("*.yml"))]
    done = subprocess.run([go_tool("actionlint"), "-no-color", *files], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_actionlint_would_find_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((WORKFLOWS / "ci.yml").read_text().replace("matrix.python", "matrix.pyton"))
    done = subprocess.run([go_tool("actionlint"), "-no-color", str(wrong)], capture_output=True, text=True)
    assert done.returncode == 1
    assert '"pyton" is not defined' in done.stdout


def test_zizmor_finds_nothing() -> None:
    program = shutil.which("zizmor", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("zizmor is not installed here; it comes with '.[dev]'")
    done = subprocess.run(
        [program, "--offline", "--no-progress", str(ROOT / ".github")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_a_called_workflow_never_waits_for_the_one_that_calls_it() -> None:
    """In a called workflow `github.workflow` is the caller's name: its group would be the caller's, and both end."""
    texts = {path.name: path.read_text() for path in WORKFLOWS.glob("*.yml")}
    callers = {name: set(re.findall(r"uses: \./\.github/workflows/(\S+)", text)) for name, text in texts.items()}
    assert callers["release.yml"] == {"servers.yml", "proofs.yml"}
    for called in set().union(*callers.values()):
        assert "${{ github.workflow" not in texts[called], f"{called} has the group of whoever calls it"
        assert re.search(rf"^  group: {called.removesuffix('.yml')}-", texts[called], re.MULTILINE), called


def test_names_of_images_and_charts_are_in_lower_case_whatever_the_owners_is() -> None:
    """Registries refuse others, and GitHub's expressions cannot change case."""
    for path in sorted(WORKFLOWS.glob("*.yml")):
        assert "github.repository_owner" not in path.read_text(), f"{path.name}: write ${{GITHUB_REPOSITORY_OWNER,,}}"
