"""Makes and checks everything that a release publishes, and publishes nothing.

    .venv/bin/python deploy/release/release.py --tag v0.1.0 --output dist

Afterwards the folder has wheel, sdist, chart, locks, notes, what the wheel says of itself, and the checksums of all.
The workflow runs the same script, and publishes what it leaves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable


def main() -> None:
    """Do the steps in order; the first that fails ends all, with one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tag", help="the tag to release; without one it is a dry run of the version that is here")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder to leave everything in")
    parser.add_argument("--allow-dirty", action="store_true", help="also when files differ from the commit")
    chosen = parser.parse_args()
    output: Path = chosen.output.resolve()

    version = version_of(ROOT)
    if chosen.tag is not None:
        check_tag(chosen.tag, version)
    check_same_version(ROOT, version)
    notes = notes_of((ROOT / "CHANGELOG.md").read_text(), version, released=chosen.tag is not None)
    commit = "" if chosen.allow_dirty else clean_commit()
    if output.exists() and any(output.iterdir()):
        stop(f"{output} is not empty: it may have something of another version; name another folder or empty it")
    output.mkdir(parents=True, exist_ok=True)

    say("wheel and sdist, twice, of the same bytes")
    wheel, sdist = build_twice(output, commit)
    say("what a package index makes of them")
    run(PYTHON, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    say("the wheel, installed by itself")
    facts = install(wheel, version, commit)
    say("the sdist, installed by itself")
    install(sdist, version, commit)
    say("the chart")
    chart(output, version, needed=chosen.tag is not None)
    (output / "notes.md").write_text(notes)
    for lock in sorted((ROOT / "deploy/locks").glob("*.txt")):
        shutil.copy(lock, output / f"lock-{lock.name}")
    (output / "version.json").write_text(json.dumps(facts, indent=1) + "\n")
    checksums(output)
    say(f"done: {', '.join(sorted(each.name for each in output.iterdir()))}")


def version_of(root: Path) -> str:
    """Return the version, from the one place where it is."""
    found = re.search(r'^__version__ = "([^"]+)"$', (root / "relay/__init__.py").read_text(), re.MULTILINE)
    return found[1] if found else stop("relay/__init__.py has no __version__")


def check_tag(tag: str, version: str) -> None:
    """Refuse a tag that is not the version with a v."""
    if tag != f"v{version}":
        stop(f"the tag {tag} does not fit the version {version} of relay/__init__.py; it has to be v{version}")


def semantic(version: str) -> str:
    """Return the version as Helm reads it, as version.py writes it."""
    return re.sub(r"^(\d+\.\d+\.\d+)(a|b|rc)(\d+)$", r"\1-\2.\3", version)


def check_same_version(root: Path, version: str) -> None:
    """Refuse a chart or manifests of another version."""
    places = {
        "deploy/helm/outbox-relay/Chart.yaml": [f"version: {semantic(version)}", f"appVersion: {version}"],
        "deploy/kubernetes/base/kustomization.yaml": [f'newTag: "{version}"'],
        "deploy/kubernetes/base/migrate.yaml": [f"name: outbox-migrate-{version.replace('.', '-')}"],
    }
    for name, wanted in places.items():
        lines = [line.strip() for line in (root / name).read_text().splitlines()]
        for each in wanted:
            if each not in lines:
                stop(f"{name} does not have the version {version}: expected the line {each!r}")


def notes_of(changelog: str, version: str, *, released: bool = True) -> str:
    """Return what the changelog says of the version; it must say something, and for a release have a date."""
    heading = rf"^## \[{re.escape(version)}\](?: - (\d{{4}}-\d{{2}}-\d{{2}}))? *$"
    found = re.search(heading + r"(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None:
        stop(f"CHANGELOG.md has no entry for {version}: write `## [{version}] - YYYY-MM-DD` above the one before")
    if released and found[1] is None:
        stop(f"CHANGELOG.md has no date for {version}: write `## [{version}] - YYYY-MM-DD`")
    if not found[2].strip():
        stop(f"CHANGELOG.md says nothing of {version}")
    return found[2].strip() + "\n"


def clean_commit() -> str:
    """Return the commit; refuse to release files that are not in it."""
    changed = run("git", "status", "--porcelain", "--untracked-files=all").strip()
    if changed:
        stop(f"these files differ from the commit: {', '.join(line[3:] for line in changed.splitlines()[:5])}")
    return run("git", "rev-parse", "HEAD").strip()


def build_twice(output: Path, commit: str) -> tuple[Path, Path]:
    """Build here, and again from what the commit has, elsewhere; refuse files that differ: nobody could check them."""
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        here, again, source = (Path(folder) / name for name in ("here", "again", "source"))
        run(PYTHON, "-m", "hatchling", "build", "-d", str(here))
        if commit:
            source.mkdir()
            archive = Path(folder) / "source.tar"
            run("git", "archive", "--output", str(archive), commit)
            run("tar", "-C", str(source), "-x", "-f", str(archive))
        run(PYTHON, "-m", "hatchling", "build", "-d", str(again), cwd=source if commit else ROOT, SOURCE_COMMIT=commit)
        files = []
        for first in sorted(here.iterdir()):
            if digest(first) != digest(again / first.name):
                stop(f"two builds of the same commit make different files {first.name}")
            files.append(Path(shutil.copy(first, output / first.name)))
    (wheel,) = (each for each in files if each.suffix == ".whl")
    (sdist,) = (each for each in files if each.name.endswith(".tar.gz"))
    return wheel, sdist


def install(package: Path, version: str, commit: str) -> dict[str, object]:
    """Install a package into an environment of its own, and ask the command what it is."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        run(PYTHON, "-m", "venv", str(environment))
        run(str(environment / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", str(package), cwd=folder)
        shown: dict[str, object] = json.loads(run(str(environment / "bin/relay"), "version", "--json", cwd=folder))
    if shown["version"] != version:
        stop(f"{package.name} says that it is version {shown['version']}, not {version}")
    if commit and shown["commit"] != commit:
        stop(f"{package.name} says that it was built from {shown['commit']}, not from {commit}")
    return shown


def chart(output: Path, version: str, *, needed: bool) -> None:
    """Check and pack the chart, where Helm is there; a release has to have one."""
    helm = shutil.which("helm")
    if helm is None and needed:
        stop("helm is not on the PATH: the release would have no chart")
    if helm is None:
        say("  left out: helm is not on the PATH")
        return
    source = str(ROOT / "deploy/helm/outbox-relay")
    for values in sorted((ROOT / "deploy/helm/examples").glob("*.yaml")):
        run(helm, "lint", "--strict", source, "--values", str(values), "--kube-version", "1.37")
    run(helm, "package", source, "--destination", str(output))
    if not (output / f"outbox-relay-{semantic(version)}.tgz").exists():
        stop(f"helm made no outbox-relay-{semantic(version)}.tgz")


def checksums(output: Path) -> None:
    """Write the checksums of all files, as `sha256sum --check` reads them."""
    files = sorted(each for each in output.iterdir() if each.name != "SHA256SUMS")
    (output / "SHA256SUMS").write_text("".join(f"{digest(each)}  {each.name}\n" for each in files))


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run(*command: str, cwd: str | Path = ROOT, **variables: str) -> str:
    """Run a command and return its output; its failure ends the release with what it said."""
    # Settings of this shell are no business of the packages.
    env = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    env |= {name: value for name, value in variables.items() if value}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        stop(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"== {text}", flush=True)  # noqa: T201


def stop(text: str) -> NoReturn:
    """End with a line that says what is wrong."""
    sys.exit(f"release: {text}")


if __name__ == "__main__":
    main()
