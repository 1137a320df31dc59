"""The folder of the demo's servers: a temporary one that is removed afterwards, or one that the user named."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "relay-demo-"
STALE_SECONDS = 60.0
"""Seconds after which an unlocked folder may be removed. A demo locks its folder within moments, and the processes of a
killed demo end within seconds."""
_KEPT = "kept"


@contextmanager
def demo_folder(chosen: Path | None) -> Iterator[Path]:
    """Yield the chosen folder, which stays, or a temporary one, which is removed unless an error needs its logs.

    Also removes the folders that killed or failed demos left behind, except those for which `keep` was called.
    """
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    _remove_stale()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    # PostgreSQL does not run as root: its own user must be able to enter.
    folder.chmod(0o755)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    except OSError:
        # The terminal went away, or the disk is full: no log says more.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except Exception:
        if not any(folder.rglob("*.log")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        if not (folder / _KEPT).exists():
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def keep(folder: Path) -> None:
    """Keep a temporary folder, as evidence."""
    (folder / _KEPT).touch()


def _remove_stale() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Others may be at it too, or may own it.
        with suppress(OSError):
            seen = folder.lstat()
            in_use = time.time() - seen.st_mtime < STALE_SECONDS
            if in_use or seen.st_uid != os.geteuid() or (folder / _KEPT).exists():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
