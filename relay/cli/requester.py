"""Who runs a command: for the audit."""

from __future__ import annotations

import getpass
import os
import socket

from relay.text import plain


def requester() -> str:
    """Return who runs this, on which machine: several people share a database user."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        # A container may run under a number that has no name.
        user = str(os.getuid())
    return plain(f"{user}@{socket.gethostname()}")
