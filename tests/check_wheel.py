"""Builds the wheel and the sdist's wheel, and reads the SQL and the README from each: `python tests/check_wheel.py`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOOK = (
    "import relay, relay.postgres.sql as sql;"
    "assert '_sql' in str(sql._root()), sql._root();"
    "import importlib.metadata, importlib.resources, re;"
    "readme = importlib.metadata.distribution('outbox-relay').read_text('METADATA');"
    "assert '## See it work' in readme and not re.search(r'\\]\\((?!https?:)', readme), 'a link leads nowhere';"
    "assert sql.migrations() and sql.query('scan') and sql.roles();"
    "assert (files := importlib.resources.files('relay') / '_commit').is_file(), 'no commit';"
    "assert re.fullmatch('[0-9a-f]{40}(-dirty)?\\n', files.read_text()), files.read_text();"
    "print(relay.__file__, len(sql.migrations()), 'migrations')"
)


def main() -> None:
    """Fail with a traceback if a package lacks its SQL, or its README has a link into the repository."""
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "hatchling", "build", "-d", folder]
        subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        wheel = next(Path(folder).glob("*.whl"))
        sdist = next(Path(folder).glob("*.tar.gz"))
        for package in (wheel, sdist):
            target = Path(folder) / package.name.replace(".", "_")
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
            subprocess.run([*install, str(package)], check=True)
            # -S -E would lose the dependencies; the target goes first and the working folder is not the checkout.
            script = f"import sys; sys.path.insert(0, {str(target)!r}); {LOOK}"
            subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)


if __name__ == "__main__":
    main()
