"""`relay version`: what exactly is running, for bug reports and for checks of what was deployed."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import click

import relay
from relay.cli import interpreter
from relay.cli.show.lines import say, say_json
from relay.postgres.sql import migrations

DISTRIBUTION = "outbox-relay"
_SHOWN_EXTRAS = ("avro", "aws", "compression")
"""Extras whose packages run in production; they are named where they are installed."""


@click.command(name="version")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show the version, the commit it was built from, its schema, Python, and the packages that it runs on.

    The command needs no settings and no server.
    """
    newest = migrations()[-1]
    shown: dict[str, object] = {
        "version": relay.__version__,
        "commit": commit(),
        "schema": newest.version,
        "python": platform.python_version(),
        "python_optimised": interpreter.is_optimised(),
        "platform": f"{platform.system().lower()}/{platform.machine()}",
        "dependencies": dependencies(),
    }
    if as_json:
        say_json(shown)
        return
    cost = "" if shown["python_optimised"] else ", which takes a quarter more CPU than an optimised one"
    lines: list[tuple[str, str]] = [
        ("relay", relay.__version__),
        ("commit", str(shown["commit"] or "unknown")),
        ("schema", f"{newest.version} ({newest.name})"),
        ("Python", f"{shown['python']}, {interpreter.describe()}{cost}"),
        ("platform", str(shown["platform"])),
        *((name, version or "not installed") for name, version in dependencies().items()),
    ]
    width = max(len(name) for name, _ in lines)
    say("\n".join(f"{name:<{width}}  {text}" for name, text in lines))


def commit() -> str | None:
    """Return the commit that the package was built from, or that of the clone it runs in; `-dirty` if files differ."""
    built = files("relay") / "_commit"
    if built.is_file():
        return built.read_text(encoding="ascii").strip()
    root = Path(relay.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(describe, check=True, capture_output=True, text=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def dependencies() -> dict[str, str | None]:
    """Return the installed version of each package that the relay needs, and of those of its extras that are there."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, str | None] = {}
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        if extra and extra[1] not in _SHOWN_EXTRAS:
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if not extra:
                found[name] = None
    return dict(sorted(found.items()))
