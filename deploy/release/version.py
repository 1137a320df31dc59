"""Sets the version wherever it stands: `.venv/bin/python deploy/release/version.py 0.2.0`.

The package reads it from relay/__init__.py. Others read chart and manifests as they are, so it stands in them, too.
deploy/release/release.py refuses to release when they differ.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = {
    "relay/__init__.py": [(r'^__version__ = ".*"$', '__version__ = "{version}"')],
    "deploy/helm/outbox-relay/Chart.yaml": [
        (r"^version: .*$", "version: {semantic}"),
        (r"^appVersion: .*$", "appVersion: {version}"),
    ],
    "deploy/kubernetes/base/kustomization.yaml": [(r'newTag: ".*"$', 'newTag: "{version}"')],
    "deploy/kubernetes/base/migrate.yaml": [(r"name: outbox-migrate-.*$", "name: outbox-migrate-{dashed}")],
}


def main() -> None:
    """Write the version into all places."""
    if len(sys.argv) != 2 or not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", sys.argv[1]):
        sys.exit("usage: version.py MAJOR.MINOR.PATCH")
    put(ROOT, sys.argv[1])


def semantic(version: str) -> str:
    """Return the version as Helm reads it: Python's 1.0.0rc1 is 1.0.0-rc.1 there, and no version without that."""
    return re.sub(r"^(\d+\.\d+\.\d+)(a|b|rc)(\d+)$", r"\1-\2.\3", version)


def put(root: Path, version: str) -> None:
    """Write the version into the files below `root`."""
    for name, lines in PLACES.items():
        file = root / name
        text = file.read_text()
        for pattern, line in lines:
            new = line.format(version=version, semantic=semantic(version), dashed=version.replace(".", "-"))
            text, found = re.subn(pattern, new, text, flags=re.MULTILINE)
            if found != 1:
                sys.exit(f"{name} has {found} lines like {pattern}, not 1")
        file.write_text(text)


if __name__ == "__main__":
    main()
