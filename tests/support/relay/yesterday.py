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
    version = unpack_program(folder, newest.version - 1)
    if newest.compatible_from > version:
        pytest.skip(f"{newest.version:04} {newest.name} says that programs of version {version} do not work any more")
    return version


def unpack_program(folder: Path, version: int) -> int:
    """Put the last program that has no later migration than this one into `folder`; returns its newest one's number.

    That is smaller where several migrations came with one commit. Skips the test, and says why, where there is no
    history.
    """
    following = migrations()[version]
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no history to take yesterday's code from: this is no clone")
    if _git("rev-parse", "--is-shallow-repository") == b"true\n":
        pytest.skip("no history to take yesterday's code from: this is a shallow clone")
    # Whatever its number was: one that was renamed while it was made had been there under another.
    files = f":(glob)sql/migrations/*_{following.name}.sql"
    added = _git("log", "--diff-filter=A", "--format=%H", "--", files).decode().split()
    if not added:
        pytest.skip(f"{following.version:04} {following.name} is not committed yet")
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "--format=tar", f"{added[-1]}^", "relay", "sql"))) as archive:
        archive.extractall(folder, filter="data")
    found = max(int(each.name[:4]) for each in (folder / "sql" / "migrations").glob("*.sql"))
    assert found <= version
    return found


def unpack_migrations(folder: Path, version: int) -> None:
    """Put today's program into `folder`, with the migrations up to this one: enough for its `migrate`."""
    for name in ("relay", "sql"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for later in sorted((folder / "sql" / "migrations").glob("*.sql"))[version:]:
        later.unlink()


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout
