"""Where the demo's servers keep their data: a folder that is gone afterwards, or one that was asked for."""

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
"""A demo locks its folder within moments, and what a killed one leaves running ends within seconds."""
_KEPT = "kept"


@contextmanager
def demo_folder(chosen: Path | None) -> Iterator[Path]:
    """Yield the chosen folder, which stays, or a temporary one, which is removed unless an error needs its logs.

    Also removes what demos that were killed, or failed, left behind; not what `keep` was called for.
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
    """Let a temporary folder stay: it is evidence."""
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
