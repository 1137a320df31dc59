"""The release script on a clone, up to publishing; and what one can do with nothing but what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from relay import __version__
from tests.support.go_tools import go_tool

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what is committed."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a clone: there is no commit to release")
    folder = tmp_path_factory.mktemp("clone") / "outbox-relay"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def artefacts(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a release of the clone leaves."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    done = release(clone, folder, f"v{__version__}")
    assert done.returncode == 0, done.stderr
    return folder


def release(clone: Path, output: Path, tag: str) -> subprocess.CompletedProcess[str]:
    """Run the script of a clone."""
    script = [sys.executable, "deploy/release/release.py", "--tag", tag, "--output", str(output)]
    env = {**os.environ, "PATH": os.pathsep.join([str(Path(go_tool("helm")).parent), os.environ["PATH"]])}
    return subprocess.run(script, cwd=clone, env=env, capture_output=True, text=True, timeout=800)


def test_it_leaves_what_is_published_with_sums_that_fit(clone: Path, artefacts: Path) -> None:
    names = {each.name for each in artefacts.iterdir()}
    assert names >= {f"outbox_relay-{__version__}-py3-none-any.whl", f"outbox_relay-{__version__}.tar.gz", "notes.md"}
    assert f"outbox-relay-{__version__}.tgz" in names, "the chart"
    assert names >= {"SHA256SUMS", "lock-runtime.txt", "lock-build.txt", "version.json"}
    checked = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=artefacts, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert len(checked.stdout.splitlines()) == len(names) - 1
    assert "### Migrations" in (artefacts / "notes.md").read_text()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True).stdout
    assert json.loads((artefacts / "version.json").read_text())["commit"] == head.strip()


def test_a_folder_with_something_in_it_a_wrong_tag_and_changed_files_are_refused(
    clone: Path, artefacts: Path, tmp_path: Path
) -> None:
    assert "is not empty" in release(clone, artefacts, f"v{__version__}").stderr
    assert f"does not fit the version {__version__}" in release(clone, tmp_path / "dist", "v99.0.0").stderr
    (clone / "relay" / "forgotten.py").touch()
    done = release(clone, tmp_path / "dist", f"v{__version__}")
    (clone / "relay" / "forgotten.py").unlink()
    assert "these files differ from the commit: relay/forgotten.py" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_the_wheel_alone_shows_the_demo(artefacts: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    (wheel,) = artefacts.glob("*.whl")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "PYTHON"))}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    run(str(tmp_path / "venv/bin/pip"), "install", "--quiet", f"{wheel}[local]")
    shown = run(str(tmp_path / "venv/bin/relay"), "demo", "--seconds", "5")
    assert "Every committed event arrived in Kafka" in shown
