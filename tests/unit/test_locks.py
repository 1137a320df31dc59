"""The locks of the image fit pyproject.toml, have a hash for everything, and name no registry."""

from __future__ import annotations

import re
import runpy
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME, BUILD = ((ROOT / "deploy/locks" / name).read_text() for name in ("runtime.txt", "build.txt"))
EXTRAS: tuple[str, ...] = runpy.run_path(str(ROOT / "deploy/release/lock.py"))["EXTRAS"]
RENEW = "run `.venv/bin/python deploy/release/lock.py`"
LOCKED = re.compile(r"^([\w-]+)==([\w.]+)(?: ; .*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def locked(lock: str) -> dict[str, str]:
    return {name: version for name, version, _ in LOCKED.findall(lock)}


def wanted() -> list[Requirement]:
    """What the image needs directly."""
    extras = PROJECT["project"]["optional-dependencies"]
    chosen = (each for extra in EXTRAS for each in extras[extra])
    return [Requirement(each) for each in (*PROJECT["project"]["dependencies"], *chosen)]


@pytest.mark.parametrize("lock", [RUNTIME, BUILD], ids=["runtime", "build"])
def test_each_line_of_a_lock_is_a_version_with_its_hashes(lock: str) -> None:
    without_comment = lock.partition("\n")[2]
    assert LOCKED.sub("", without_comment) == "", RENEW
    assert "://" not in lock, "a lock names no registry: mirrors have other names"


def test_the_lock_has_what_the_relay_asks_for() -> None:
    versions = locked(RUNTIME)
    for each in wanted():
        name = canonicalize_name(each.name)
        assert name in versions, f"{each} is not locked; {RENEW}"
        assert each.specifier.contains(versions[name]), f"{each} does not take {versions[name]}; {RENEW}"


def test_the_lock_has_what_those_ask_for_in_turn() -> None:
    """As far as this environment tells, which may have other versions."""
    versions = locked(RUNTIME)
    for name in versions:
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for each in map(Requirement, requirements):
            if each.marker is None:
                assert canonicalize_name(each.name) in versions, f"{name} needs {each}; {RENEW}"


def test_the_lock_of_the_build_has_what_builds_the_wheel() -> None:
    versions = locked(BUILD)
    for each in map(Requirement, PROJECT["build-system"]["requires"]):
        assert each.specifier.contains(versions[canonicalize_name(each.name)]), f"{each}; {RENEW}"
