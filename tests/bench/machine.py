"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

PACKAGES = ("aiokafka", "asyncpg", "uvloop")


def describe() -> str:
    """Cores, system and versions, in one line."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}, {packages}"
