"""A run of everything leaves slow tests out, and says so; a run that names them has them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW = "tests/acceptance/test_outage.py"
COUNT = re.compile(r"^(\d+) slow tests were not run .*: (.*)$", re.MULTILINE)


def collected(*arguments: str) -> str:
    """What pytest prints when it only collects."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_run_of_everything_says_what_it_leaves_out_and_how_to_run_it() -> None:
    output = collected()
    assert SLOW not in output
    found = COUNT.search(output)
    assert found is not None
    assert int(found[1]) > 50
    assert found[2].removeprefix(".venv/bin/pytest ") in (ROOT / ".ci/run").read_text()


def test_a_slow_test_that_is_named_is_run() -> None:
    output = collected(SLOW)
    assert SLOW in output
    assert COUNT.search(output) is None
