"""Programs written in Go that judge what is deployed: helm, kustomize, actionlint, the loader of compose files.

Each is taken from the PATH, or built once per machine from Go's registry of modules.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from relay.local.parts import cache_folder

MODULES = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    "compose-spec": "github.com/compose-spec/compose-go/v2/cmd@v2.16.2",
}
BUILT_AS = {"compose-spec": "cmd"}
"""Where the program is not named as its module's folder is."""

SECONDS = 840

DEFINITIONS = {
    "monitoring.coreos.com": "github.com/prometheus-operator/prometheus-operator@v0.85.0",
    "keda.sh": "github.com/kedacore/keda/v2@v2.18.0",
}
"""Modules that carry the definitions of resources which are not Kubernetes' own."""


def go_tool(name: str) -> str:
    """Return the program's path; skip the test where it is not there and cannot be built."""
    if found := shutil.which(name):
        return found
    program = cache_folder() / "go" / BUILT_AS.get(name, name)
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        # Taken into use whole, by its rename: another process may look for it meanwhile.
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            _go("install", MODULES[name], GOBIN=folder)
            Path(folder, program.name).replace(program)
    return str(program)


def go_module(module: str) -> Path:
    """Return the folder with a module's files."""
    return Path(json.loads(_go("mod", "download", "-json", module))["Dir"])


def _go(*arguments: str, **env: str) -> str:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed, which builds the programs that judge manifests")
    # Outside of every module; the program's own requirements count.
    try:
        done = subprocess.run(
            ["go", *arguments], cwd="/", env={**os.environ, **env}, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        pytest.skip(
            f"go {' '.join(arguments)} takes more than {SECONDS} s here; run it again: it keeps what it has built"
        )
    if done.returncode:
        pytest.skip(f"go {' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
