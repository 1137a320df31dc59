"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from relay.cli import interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGES = ("outbox-relay", "aiokafka", "asyncpg", "uvloop")
STEPS = 1_000_000
TRIES = 10
_CPU_NAMES = Path("/proc/cpuinfo")


def describe() -> dict[str, str]:
    """Machine, system, versions, and how busy it is with other work."""
    one, five, fifteen = os.getloadavg()
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        # The same machine may be a third slower an hour later, when others use what it is a part of.
        "pace": f"{STEPS:,} steps of a loop in Python in {_loop_ms():.0f} ms",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        # The same version may be built in ways that differ by a fifth.
        "interpreter": interpreter.describe(),
        **{name: version(name) for name in PACKAGES},
        # Of other work, when this is asked before measuring.
        "load before": f"{one:.1f}, {five:.1f}, {fifteen:.1f}",
    }


def one_line(machine: Mapping[str, str]) -> str:
    """The same for people."""
    words = {"processor": "{}", "cores": "{} cores", "pace": "{}", "memory": "{}", "system": "{}", "interpreter": "{}"}
    return ", ".join(words.get(name, f"{name} {{}}").format(value) for name, value in machine.items())


def _loop_ms() -> float:
    """The best of some tries, in milliseconds: what a core can do now, without what disturbed it for a moment."""

    def once() -> float:
        began = time.perf_counter()
        total = 0
        for step in range(STEPS):
            total += step
        return time.perf_counter() - began

    return min(once() for _ in range(TRIES)) * 1_000


def _processor() -> str:
    if _CPU_NAMES.exists():
        found = re.search(r"^model name\s*: (.+)$", _CPU_NAMES.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()
