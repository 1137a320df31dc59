"""Compiles what the relay imports, its own and Python's, to where PYTHONPYCACHEPREFIX says.

Images of Python come without bytecode, and a read-only file system keeps none: every start, and every `relay health`,
would compile a thousand modules.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import py_compile
import sys

import relay

LEFT_OUT = ("relay.demo", "relay.local", "relay.enqueue")
"""What never runs in the image, or needs packages that it does not have."""


def main() -> None:
    """Import every module of the relay, and compile all that came with them."""
    for module in pkgutil.walk_packages(relay.__path__, "relay."):
        if not module.name.startswith(LEFT_OUT):
            importlib.import_module(module.name)
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    for loaded in list(sys.modules.values()):
        source = getattr(loaded, "__file__", None) or ""
        if source.endswith(".py"):
            # By hash and not by time: a base with another standard library makes it useless, and never wrong.
            py_compile.compile(source, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


if __name__ == "__main__":
    main()
