"""Chooses the user as which PostgreSQL runs. PostgreSQL refuses to run as root, so root has to lend it another user."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.local.errors import LocalServerError

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534


@dataclass(frozen=True)
class Account:
    """How to run PostgreSQL's programs: `prefix` goes before the command, `uid` is the user (-1: this one).

    `owner` is the user to whom its files belong (-1: the user who makes them).
    """

    uid: int = -1
    owner: int = -1
    prefix: list[str] = field(default_factory=list)

    def give(self, path: Path) -> None:
        """Make a file or folder belong to this account."""
        if self.owner >= 0:
            os.chown(path, self.owner, self.owner)


def account_for(data: Path, programs: Path) -> Account:
    """Return the account that can write to `data` (which may not exist yet) and execute `programs`.

    An ordinary user uses its own account. Root uses the account that owns existing data, else `nobody`. If that user
    cannot get to the folders (for example below a home folder with mode 0700), root stays root, and is `nobody` only to
    itself, in a user namespace. Raises LocalServerError if neither is possible.
    """
    owner = data.stat().st_uid if data.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise LocalServerError(f"{data} belongs to another user (uid {owner}); choose another folder")
        return Account()
    hidden = [folder for folder in (data.parent, programs) if not _all_may_enter(folder)]
    if not hidden and owner != 0:
        user = _nobody() if owner is None else owner
        return Account(uid=user, owner=user)
    prefix = _namespace(_nobody())
    if prefix is None or owner not in (None, 0):
        raise LocalServerError(
            f"PostgreSQL does not run as root, and no other user can use {(hidden or [data])[0]}; "
            "use a folder and a virtual environment that everyone may enter (not below a home folder with "
            "mode 0700), or run this as an ordinary user"
        )
    return Account(prefix=prefix)


def _nobody() -> int:
    # It must be in the password file: initdb looks its own user up.
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return NOBODY


def _all_may_enter(folder: Path) -> bool:
    folder = folder.resolve()
    return all(step.stat().st_mode & stat.S_IXOTH for step in (folder, *folder.parents) if step.exists())


@functools.cache
def _namespace(uid: int) -> list[str] | None:
    """Return the command that shows a process to itself as `uid`; None where that is not allowed."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    prefix = [unshare, "--user", f"--map-user={uid}", f"--map-group={uid}", "--"]
    tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)  # noqa: S603 our own arguments
    return prefix if tried.returncode == 0 else None
