"""Writes the list of what is in an image, in the form of CycloneDX: its Python packages, Python, and Debian's packages.

It needs nothing but Python, so that the build fetches nothing to describe what it fetched:

    python3 sbom.py --root /runtime /opt/relay > sbom.json
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

Component = dict[str, Any]


def main() -> None:
    """Write the list to the standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("environment", type=Path, help="the virtual environment")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the base image is")
    chosen = parser.parse_args()
    json.dump(bill(chosen.environment, chosen.root), sys.stdout, indent=1, sort_keys=True)


def bill(environment: Path, root: Path) -> dict[str, Any]:
    """Return the list; the same contents give the same list."""
    packages = {_normal(each.name): each for each in metadata.distributions(path=_site_packages(environment))}
    relay = packages.pop("outbox-relay")
    subject = _python_package(relay) | {"type": "application"}
    system, system_packages = _debian(root)
    python = platform.python_version()
    components = [
        *sorted((_python_package(each) for each in packages.values()), key=lambda each: str(each["name"])),
        _component("application", "python", python, f"pkg:generic/python@{python}"),
        *system,
        *system_packages,
    ]
    edges = [(each, _needs(each, packages)) for each in (relay, *packages.values())]
    found = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
        "dependencies": [
            {"ref": _purl(each), "dependsOn": sorted(_purl(packages[name]) for name in needed)}
            for each, needed in sorted(edges, key=lambda edge: str(edge[0].name))
        ],
    }
    contents = json.dumps(found, sort_keys=True)
    return found | {"serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, contents)}"}


def _site_packages(environment: Path) -> list[str]:
    return [str(each) for each in environment.glob("lib/python3*/site-packages")]


def _python_package(package: metadata.Distribution) -> Component:
    found = _component("library", package.name, package.version, _purl(package))
    if expression := package.metadata.get("License-Expression"):
        found["licenses"] = [{"expression": expression}]
    return found


def _needs(package: metadata.Distribution, installed: dict[str, metadata.Distribution]) -> set[str]:
    """Return the packages in the image that this one asks for, by itself or for an extra."""
    names = (re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in package.requires or [])
    return {_normal(name) for name in names} & installed.keys()


def _debian(root: Path) -> tuple[list[Component], list[Component]]:
    """Return the system and its packages; of other systems only their names."""
    release = root / "etc/os-release"
    facts = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', release.read_text(), re.MULTILINE)) if release.exists() else {}
    system = facts.get("ID", "linux")
    version = facts.get("VERSION_ID", "")
    of_system = [_component("operating-system", system, version, f"pkg:generic/{system}@{version}")]
    status = [root / "var/lib/dpkg/status", *sorted(root.glob("var/lib/dpkg/status.d/*"))]
    text = "\n\n".join(file.read_text(encoding="utf-8") for file in status if file.is_file())
    packages = []
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.MULTILINE))
        if "Package" not in fields or not fields.get("Status", "install ok installed").endswith(" installed"):
            continue
        name, number, machine = fields["Package"], fields["Version"], fields.get("Architecture", "all")
        purl = f"pkg:deb/{system}/{name}@{number.replace(':', '%3A').replace('+', '%2B')}?arch={machine}"
        packages.append(_component("library", name, number, purl))
    return of_system, sorted(packages, key=lambda each: str(each["bom-ref"]))


def _component(kind: str, name: str, version: str, purl: str) -> Component:
    return {"type": kind, "name": name, "version": version, "purl": purl, "bom-ref": purl}


def _purl(package: metadata.Distribution) -> str:
    return f"pkg:pypi/{_normal(package.name)}@{package.version}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
