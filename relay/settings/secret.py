"""Secrets in files and from commands. They are read again whenever they are needed, so that they can be rotated."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from relay.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.settings.command import Command

MOST_BYTES = 65_536
"""Maximum size of a file with a secret: tokens have some thousand bytes."""

KEPT = 5.0
"""Seconds for which the output of a command is used again: connections that are made together share one run."""


async def reveal(secret: SecretStr) -> str:
    """Return the secret as it is now. Raises SettingsError, without any part of the secret, if it cannot be had."""
    return await secret.run() if isinstance(secret, CommandSecret) else secret.get_secret_value()


class FileSecret(SecretStr):
    """A secret that is read from its file each time its value is asked for."""

    def __init__(self, variable: str, file: str, check: Callable[[SecretStr], SecretStr] | None = None) -> None:
        super().__init__(f"(in {file})")
        self._variable = variable
        self._file = file
        self._check = check

    def get_secret_value(self) -> str:
        """Read the secret. Raises SettingsError, without any part of it, if the file is unreadable or its text unfit.

        The file may be read while it is being written; code that waits for servers tries again.
        """
        try:
            text = read_secret(self._file)
            if self._check is not None:
                self._check(SecretStr(text))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SettingsError(
                f"{self._variable}_FILE names {self._file}, which cannot be read ({reason}); "
                "correct the path or the file"
            ) from error
        except UnicodeDecodeError:
            raise SettingsError(
                f"{self._variable}_FILE names {self._file}, which is not UTF-8 text; correct the file"
            ) from None
        except ValueError as error:
            raise SettingsError(f"{self._variable} (from file {self._file}) {error}") from None
        return text


class CommandSecret(SecretStr):
    """A secret that a command prints. Only `reveal` has its value, because a command takes time."""

    def __init__(
        self,
        variable: str,
        command: Command,
        check: Callable[[SecretStr], SecretStr] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("(from a command)")
        self._variable = variable
        self._command = command
        self._check = check
        self._clock = clock
        self._running = asyncio.Lock()
        self._output: str | None = None
        self._ended_at = float("-inf")

    def get_secret_value(self) -> str:
        """Refuse: whoever needs the value has to wait for it."""
        raise SettingsError(f"{self._variable} comes from a command, which has not run; use reveal()")

    async def run(self) -> str:
        """Run the command, or use what it printed less than KEPT seconds ago. Raises SettingsError."""
        async with self._running:
            if self._output is None or self._clock() - self._ended_at > KEPT:
                self._output = None
                text = await self._command.output(f"{self._variable}_COMMAND")
                if problem := unfit(text):
                    raise SettingsError(f"{self._variable} (printed by {self._variable}_COMMAND) {problem}")
                try:
                    if self._check is not None:
                        self._check(SecretStr(text))
                except ValueError as error:
                    raise SettingsError(f"{self._variable} (printed by {self._variable}_COMMAND) {error}") from None
                self._output, self._ended_at = text, self._clock()
            return self._output

    def __eq__(self, other: object) -> bool:
        """Return whether both are the same secret: the values are not known."""
        return self is other

    def __hash__(self) -> int:
        """Return a hash that does not need the value."""
        return id(self)


def read_secret(file: str) -> str:
    """Return a file's text without the line end. Raises OSError, UnicodeDecodeError, or ValueError if it is unfit.

    A pipe could be read once at most, and would stop the event loop until somebody writes to it.
    """
    # Opening a pipe waits for its writer, too.
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as opened:  # noqa: PTH123 it is open
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ValueError("is not a regular file; write the secret to a file")
        read = opened.read(MOST_BYTES + 1)
    if len(read) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES:,} bytes; correct the path or the file")
    text = read.decode("utf-8").strip("\r\n")
    if not text:
        raise ValueError("is empty; write the secret to it")
    if problem := unfit(text):
        raise ValueError(problem)
    return text


def unfit(text: str) -> str:
    """Say why a text can be sent to no server; an empty text if it can. The text is not quoted: it may be a secret.

    Python keeps bytes of a variable that are not UTF-8 as halves of surrogate pairs, which nothing can encode later.
    """
    if "\x00" in text:
        return "has a null byte; correct it"
    return "is not UTF-8 text; correct it" if re.search(r"[\ud800-\udfff]", text) else ""


def open_to_all(name: str, file: Path | str) -> str:
    """Return a warning if every user of this machine may read the file that `name` names; else an empty text."""
    try:
        mode = Path(file).stat().st_mode
    except OSError:
        # Reading it says why.
        return ""
    if not mode & stat.S_IROTH:
        return ""
    return (
        f"{name} names {file}, which every user of this machine may read (mode {stat.S_IMODE(mode):04o}); take that "
        "right away with chmod o-r, or in Kubernetes with defaultMode: 0440 and an fsGroup"
    )
