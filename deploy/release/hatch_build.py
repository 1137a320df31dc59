"""What a build writes into the packages beside the code: the commit that it builds, and the address of the repository.

A variable says either where the build has no clone around it, as in an image's build or in a workflow.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class CommitHook(BuildHookInterface[Any]):
    """Puts the commit into `relay/_commit`, where `relay version` reads it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file; an editable install asks its clone instead, which moves on."""
        if version == "editable" or (Path(self.root) / "relay" / "_commit").exists():
            return
        if commit := os.environ.get("SOURCE_COMMIT") or _head(self.root):
            file = Path(self.directory) / "_commit"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{commit}\n")
            file.chmod(0o644)
            build_data["force_include"][str(file)] = "relay/_commit"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Leave nothing but the package behind."""
        (Path(self.directory) / "_commit").unlink(missing_ok=True)


class UrlsHook(MetadataHookInterface):
    """Names the repository where `SOURCE_URL` does: a clone does not know whether its address is a public one."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the links that a package index shows."""
        source = os.environ.get("SOURCE_URL", "").rstrip("/")
        metadata["urls"] = (
            {
                "Source": source,
                "Documentation": f"{source}/blob/main/README.md",
                "Changelog": f"{source}/blob/main/CHANGELOG.md",
                "Issues": f"{source}/issues",
                "Security": f"{source}/security/policy",
            }
            if source
            else {}
        )


def _head(root: str) -> str:
    """Return the commit of the clone, with `-dirty` where files differ from it; nothing where there is no clone."""
    if not (Path(root) / ".git").exists():
        return ""
    describe = ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""
