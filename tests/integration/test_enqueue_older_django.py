"""Django 4.2, the oldest that the library supports, against the contract that all clients keep.

In a folder of its own that is found before this environment's Django: two versions of it have no room in one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.servers import shared as servers

ROOT = Path(__file__).parents[2]
VERSION = "4.2"
NEWEST_PYTHON = (3, 12)
"""Of those that Django 4.2 supports."""
INSTALL_SECONDS = 180
TEST_SECONDS = 300
SUITES = ("tests/integration/test_enqueue_contract.py", "tests/integration/test_enqueue_clients.py")


@pytest.mark.proof
@pytest.mark.skipif(sys.version_info[:2] > NEWEST_PYTHON, reason="Django 4.2 does not support this Python")
def test_django_4_2_keeps_the_contract(postgres: servers.Postgres, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    try:
        subprocess.run(
            [*install, "--target", str(tmp_path), f"django~={VERSION}.0"],
            check=True,
            capture_output=True,
            timeout=INSTALL_SECONDS,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Django {VERSION} could not be installed: {error}")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "RELAY_TEST_POSTGRES_DSN": postgres.dsn}
    found = subprocess.run(
        [sys.executable, "-c", "import django; print(django.__version__)"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(f"{VERSION}.")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES, "-k", "django"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TEST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    # One kind of test is for asynchronous clients alone.
    assert int(passed[1]) > 40, done.stdout
