"""What the release script refuses, and what it cuts from the changelog."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RELEASE: dict[str, Any] = runpy.run_path(str(ROOT / "deploy/release/release.py"))
VERSION: dict[str, Any] = runpy.run_path(str(ROOT / "deploy/release/version.py"))
LOCK: dict[str, Any] = runpy.run_path(str(ROOT / "deploy/release/lock.py"))
CHANGELOG = """\
# Changelog

## [Unreleased]

## [0.2.0] - 2027-01-02

### Added

* Two.

## [0.1.1]

* Not yet.

## [0.1.0] - 2026-11-27
"""


def test_the_notes_are_what_the_changelog_says_of_the_version() -> None:
    assert RELEASE["notes_of"](CHANGELOG, "0.2.0") == "### Added\n\n* Two.\n"


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("0.3.0", "CHANGELOG.md has no entry for 0.3.0"),
        ("0.2", "CHANGELOG.md has no entry for 0.2"),
        ("0.1.1", "CHANGELOG.md has no date for 0.1.1"),
        ("0.1.0", "CHANGELOG.md says nothing of 0.1.0"),
    ],
)
def test_a_version_without_a_dated_entry_is_refused(version: str, told: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(told)):
        RELEASE["notes_of"](CHANGELOG, version)


def test_a_dry_run_needs_no_date() -> None:
    assert RELEASE["notes_of"](CHANGELOG, "0.1.1", released=False) == "* Not yet.\n"


@pytest.mark.parametrize("tag", ["0.1.0", "v0.1", "v0.1.0-rc1", "release-0.1.0"])
def test_a_tag_that_does_not_fit_the_version_is_refused(tag: str) -> None:
    with pytest.raises(SystemExit, match=r"does not fit the version 0\.1\.0 .* it has to be v0\.1\.0"):
        RELEASE["check_tag"](tag, "0.1.0")


def test_the_version_that_is_here_could_be_released() -> None:
    version = RELEASE["version_of"](ROOT)
    RELEASE["check_tag"](f"v{version}", version)
    RELEASE["check_same_version"](ROOT, version)
    assert RELEASE["notes_of"]((ROOT / "CHANGELOG.md").read_text(), version)


@pytest.mark.parametrize(
    ("version", "semantic"), [("0.2.0", "0.2.0"), ("0.2.0rc1", "0.2.0-rc.1"), ("1.10.0b12", "1.10.0-b.12")]
)
def test_a_release_candidate_has_a_version_that_helm_can_read(version: str, semantic: str, tmp_path: Path) -> None:
    """Helm refuses a chart of version 0.2.0rc1."""
    for name in VERSION["PLACES"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    VERSION["put"](tmp_path, version)
    RELEASE["check_same_version"](tmp_path, version)
    chart = (tmp_path / "deploy/helm/outbox-relay/Chart.yaml").read_text().splitlines()
    assert f"version: {semantic}" in chart
    assert f"appVersion: {version}" in chart, "it is the image's tag"


def test_a_release_without_a_chart_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="helm is not on the PATH: the release would have no chart"):
        RELEASE["chart"](tmp_path, "0.1.0", needed=True)
    RELEASE["chart"](tmp_path, "0.1.0", needed=False)


def test_a_new_version_is_put_into_every_place_and_a_forgotten_one_is_named(tmp_path: Path) -> None:
    for name in VERSION["PLACES"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    VERSION["put"](tmp_path, "9.8.7")
    assert RELEASE["version_of"](tmp_path) == "9.8.7"
    RELEASE["check_same_version"](tmp_path, "9.8.7")
    for name in VERSION["PLACES"]:
        if name != "relay/__init__.py":
            (tmp_path / name).write_text(
                (tmp_path / name).read_text().replace("9.8.7", "9.8.6").replace("9-8-7", "9-8-6")
            )
            with pytest.raises(SystemExit, match=re.escape(f"{name} does not have the version 9.8.7")):
                RELEASE["check_same_version"](tmp_path, "9.8.7")
            VERSION["put"](tmp_path, "9.8.7")


OLD = """\
# What runs.
aiokafka==0.14.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
attrs==26.1.0 ; sys_platform != 'win32' \\
    --hash=sha256:cc
"""


def test_a_lock_fits_also_when_files_were_added_to_a_version() -> None:
    assert LOCK["fits"](OLD, OLD)
    assert LOCK["fits"](OLD, OLD.replace("    --hash=sha256:cc", "    --hash=sha256:cc \\\n    --hash=sha256:dd"))
    for lock in ("runtime", "build"):
        text = (ROOT / f"deploy/locks/{lock}.txt").read_text()
        assert LOCK["fits"](text, text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--hash=sha256:cc", "--hash=sha256:00"),
        ("    --hash=sha256:cc", "    --hash=sha256:cc \\\n    --hash=sha256:00"),
        (" \\\n    --hash=sha256:cc", ""),
        ("aiokafka==0.14.0", "aiokafka==0.13.0"),
        ("aiokafka==0.14.0", "aiokafka @ https://example.com/aiokafka-0.14.0.tar.gz"),
        ("# What runs.\n", "--index-url https://example.com/simple\n"),
        ("# What runs.\n", "evil==1.0 \\\n    --hash=sha256:ee\n"),
        ("attrs==26.1.0 ; sys_platform != 'win32'", "attrs==26.1.0"),
    ],
)
def test_a_lock_that_somebody_changed_does_not_fit(old: str, new: str) -> None:
    """A hash that the registry does not have would let in a file that it does not have."""
    assert old in OLD
    assert not LOCK["fits"](OLD.replace(old, new), OLD)
