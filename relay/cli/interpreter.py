"""Which build of Python runs the relay: an unoptimised one takes a quarter more CPU for the same work."""

from __future__ import annotations

import platform
import sys
import sysconfig
from pathlib import Path

BUILDERS = {"pyenv": "pyenv", "uv": "uv", "conda": "conda", "miniconda3": "conda", "miniforge3": "conda"}
"""Who made an interpreter, by the names of folders above it."""
PACKAGERS = ("Debian", "Ubuntu")
"""Their packages are built with profile-guided optimisation; what `sysconfig` keeps of the build does not show it."""
FLAGS = ("PY_CFLAGS", "PY_CORE_CFLAGS", "PY_CFLAGS_NODIST", "PY_LDFLAGS_NODIST")


def describe() -> str:
    """Return implementation, builder, and whether the build is optimised; for example "optimised CPython of Debian"."""
    return f"{how_optimised(_build_words(), _builder())} {platform.python_implementation()} {_builder()}"


def is_optimised() -> bool:
    """Return whether profile-guided optimisation made this interpreter."""
    return how_optimised(_build_words(), _builder()).startswith("optimised")


def made_by(base: Path, system: str) -> str:
    """Return who made the interpreter below `base`, never its path: figures are published."""
    for folder in reversed(base.parts):
        if builder := BUILDERS.get(folder.lstrip(".")):
            return f"of {builder}"
    if base == Path("/usr"):
        return f"of {system}"
    # The official images build it there; so does `make install`.
    return "in /usr/local" if base == Path("/usr/local") else "of another build"


def how_optimised(build: str, builder: str) -> str:
    """Return how the build that took these arguments and flags was optimised."""
    if "--with-pydebug" in build:
        return "debugging"
    packaged = builder.removeprefix("of ").startswith(PACKAGERS)
    profiled = "--enable-optimizations" in build or "-fprofile-" in build or packaged
    linked = "--with-lto" in build or "-flto" in build
    return "optimised" + (" (also at link time)" if linked else "") if profiled else "unoptimised"


def _builder() -> str:
    return made_by(Path(sys.base_prefix), _system())


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["NAME"]
    except OSError:
        return platform.system()


def _build_words() -> str:
    return " ".join(str(sysconfig.get_config_var(name) or "") for name in ("CONFIG_ARGS", *FLAGS))
