"""Renews the locks of the image, or checks them: `.venv/bin/python deploy/release/lock.py [--upgrade | --check]`.

Without an argument, it changes only what pyproject.toml asks for and the locks do not have.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "deploy" / "locks"
RUNTIME, BUILD = LOCKS / "runtime.txt", LOCKS / "build.txt"
EXTRAS = ("aws", "compression", "otel")
"""Extras that the image has."""
OLDEST_PYTHON = "3.13"
"""Of the image; the locks fit later ones, too."""

HEADERS = {
    RUNTIME: "# What runs in the image, with hashes. Renewed by deploy/release/lock.py: do not edit.\n",
    BUILD: "# What builds the wheel in the image. Renewed by deploy/release/lock.py: do not edit.\n",
}


def main() -> None:
    """Write the locks; with --check, end with 1 if one would change."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    choice.add_argument("--check", action="store_true", help="change nothing; end with 1 if a lock does not fit")
    chosen = parser.parse_args()
    stale = [lock for lock in HEADERS if _renew(lock, upgrade=chosen.upgrade, write=not chosen.check)]
    for lock in stale:
        print(f"{lock.relative_to(ROOT)} {'does not fit pyproject.toml' if chosen.check else 'is renewed'}")  # noqa: T201
    if stale and chosen.check:
        sys.exit("run: .venv/bin/python deploy/release/lock.py")


def _renew(lock: Path, *, upgrade: bool, write: bool) -> bool:
    """Resolve what the lock is for, from its own versions on; return whether it differs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if lock == RUNTIME:
        wanted = [*project["project"]["dependencies"]]
        wanted += [each for extra in EXTRAS for each in project["project"]["optional-dependencies"][extra]]
    else:
        wanted = project["build-system"]["requires"]
    old = lock.read_text() if lock.exists() else ""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "requirements.in", Path(folder) / "requirements.txt"
        source.write_text("\n".join(wanted))
        # Without hashes: those that are there would be kept as they are, whoever has written them.
        output.write_text(re.sub(r" \\\n +--hash=\S+", "", old))
        command = [_uv(), "pip", "compile", str(source), "--output-file", str(output), "--generate-hashes"]
        command += ["--universal", "--python-version", OLDEST_PYTHON, "--no-header", "--no-annotate"]
        # Registries have mirrors: a lock names none.
        command += ["--no-emit-index-url", "--no-emit-find-links", "--quiet", *(["--upgrade"] if upgrade else [])]
        subprocess.run(command, check=True)  # noqa: S603
        new = HEADERS[lock] + re.sub(r"^#.*\n", "", output.read_text(), flags=re.MULTILINE)
    if fits(old, new):
        return False
    if write:
        lock.parent.mkdir(exist_ok=True)
        lock.write_text(new)
    return True


def fits(old: str, new: str) -> bool:
    """Return whether a lock asks for what a new one does, with hashes that the registry has.

    It may have fewer: files are added to versions that are out.
    """
    there, wanted = _hashes(old), _hashes(new)
    return list(there) == list(wanted) and all(each and each <= wanted[name] for name, each in there.items())


def _hashes(lock: str) -> dict[str, set[str]]:
    """Return the hashes of each requirement; any other line is a requirement that nobody wants."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in lock.splitlines():
        text = line.removesuffix("\\").strip()
        if text.startswith("--hash=") and name and " " not in text:
            found[name].add(text)
        elif text and not text.startswith("#"):
            name = text
            found[name] = set()
    return found


def _uv() -> str:
    found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    return found or sys.exit("uv is missing; run: .venv/bin/pip install uv")


if __name__ == "__main__":
    main()
