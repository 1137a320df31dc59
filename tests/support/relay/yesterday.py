"""The code from before the newest migration, to run it beside today's on today's schema."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from relay.postgres.sql import migrations

ROOT = Path(__file__).parents[3]


def unpack_yesterday(folder: Path) -> int:
    """Put the program from before the newest migration into `folder`; returns its schema version.

    Skips the test, and says why, where there is no history, or nothing that could work by the rule.
    """
    newest = migrations()[-1]
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no history to take yesterday's code from: this is no clone")
    if _git("rev-parse", "--is-shallow-repository") == b"true\n":
        pytest.skip("no history to take yesterday's code from: this is a shallow clone")
    file = f"sql/migrations/{newest.version:04}_{newest.name}.sql"
    added = _git("log", "-1", "--diff-filter=A", "--format=%H", "--", file).decode().strip()
    if not added:
        pytest.skip(f"{file} is not committed yet")
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "--format=tar", f"{added}^", "relay", "sql"))) as archive:
        archive.extractall(folder, filter="data")
    version = max(int(each.name[:4]) for each in (folder / "sql" / "migrations").glob("*.sql"))
    assert version == newest.version - 1
    if newest.compatible_from > version:
        pytest.skip(f"{file} says that programs of version {version} do not work any more")
    return version


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout
