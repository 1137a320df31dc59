"""The image of deploy/Dockerfile, built once per session from a base that is there or that debootstrap makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.containers.podman import LIMITS, how_to_build, how_to_run, is_root, podman, try_podman

ROOT = Path(__file__).parents[3]
BASE = "localhost/outbox-relay-test-base:trixie"
IMAGE = "localhost/outbox-relay:test"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNNEEDED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")


def build() -> str:
    """Build the image and return its name; skip the test, with the reason, where this machine cannot."""
    base = os.environ.get("RELAY_TEST_PYTHON_IMAGE") or _base()
    _can_run(base)
    arguments = {"PYTHON_IMAGE": base, "SOURCE_COMMIT": COMMIT, "VERSION": "0.0.0-test"}
    given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    podman("build", *how_to_build(), *given, "--file", str(ROOT / "deploy/Dockerfile"), "--tag", IMAGE, str(ROOT))
    return IMAGE


def _can_run(base: str) -> None:
    """Skip where containers cannot be limited: there is nothing to find out about the image then."""
    done = try_podman("run", "--rm", *how_to_run(), *LIMITS, base, "python3", "-c", "print('well')")
    if done.stdout != "well\n":
        pytest.skip(f"podman cannot run containers here: {done.stderr.strip()}")


def _base() -> str:
    """Return a base with Debian's Python, made once per machine."""
    for program in ("podman", "debootstrap"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; RELAY_TEST_PYTHON_IMAGE may name a base with Python")
    if not is_root():
        pytest.skip("debootstrap needs root; RELAY_TEST_PYTHON_IMAGE may name a base with Python")
    if try_podman("image", "exists", BASE).returncode == 0:
        return BASE
    with tempfile.TemporaryDirectory() as folder:
        make = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "trixie", folder]
        done = subprocess.run([*make, *_mirror()], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"debootstrap cannot make a base here: {done.stdout.strip().splitlines()[-1:]}")
        for name in UNNEEDED:
            shutil.rmtree(Path(folder) / name, ignore_errors=True)
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as packed:
            subprocess.run(["podman", "import", "-", BASE], stdin=packed.stdout, check=True, capture_output=True)
        assert packed.returncode == 0
    return BASE


def _mirror() -> list[str]:
    """Return the mirror that this machine's own packages come from."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.sources"))]
    text = "\n".join(file.read_text() for file in files if file.exists())
    found = re.search(r"^(?:URIs: |deb )(\S+/debian)/?\s", text, re.MULTILINE)
    return [found[1]] if found else []
