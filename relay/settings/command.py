"""Runs a command that prints a secret, within bounds of time and size, and says why it did not work."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from relay.errors import SettingsError
from relay.settings.checks import MASK
from relay.text import clip, one_line

if TYPE_CHECKING:
    from asyncio.subprocess import Process

TIMEOUT = 10.0
"""Seconds that a command may take. The tools of the cloud providers take one to three."""

MOST_BYTES = 65_536
"""Maximum bytes that a command may print: tokens have some thousand."""

KILL_TIMEOUT = 1.0
"""Seconds to wait for the end of a command that was killed."""

_SHORTEST_SECRET = 4
"""Characters from which on a line of a command's output is masked in its errors."""

_MOST_OF_AN_ERROR = 200
"""Maximum characters of what a command writes to standard error that are shown."""


class Command:
    """A command line, as a shell would split it; no shell runs it."""

    def __init__(self, line: str, timeout: float = TIMEOUT) -> None:
        """Raise ValueError, which does not quote the line, if it cannot be run at all."""
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise ValueError(f"cannot be split into words ({error}); close the quotation marks") from None
        if not self._words:
            raise ValueError("has no words; write the program and its arguments")
        if shutil.which(self._words[0]) is None:
            raise ValueError(
                f"begins with {self._words[0]!r}, which is not a program that can be run; write its path, or use "
                "sh -c '...' for what needs a shell"
            )
        self._timeout = timeout

    def __repr__(self) -> str:
        """Arguments may be secrets."""
        return f"<Command {self._words[0]!r}>"

    async def output(self, variable: str) -> str:
        """Run the command; return what it printed, without the line end. Raises SettingsError about `variable`.

        What the command writes to standard error is meant for people, and its last line is part of the error, without
        what is also in its output: `sh -x` repeats secrets there.
        """
        program = f"{variable} ({self._words[0]})"
        try:
            process = await _start(self._words)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise SettingsError(f"{program} cannot be run: {reason}; correct the command") from error
        printed, said = await self._finish(process, program)
        if process.returncode != 0:
            words = _words_of(said, printed)
            raise SettingsError(f"{program} ended with status {process.returncode}{words}; run it by hand")
        try:
            text = printed.decode("utf-8").strip("\r\n")
        except UnicodeDecodeError:
            raise SettingsError(f"{program} printed what is not UTF-8 text; correct the command") from None
        if not text:
            raise SettingsError(f"{program} printed nothing{_words_of(said, printed)}; run it by hand")
        return text

    async def _finish(self, process: Process, program: str) -> tuple[bytes, bytes]:
        """Wait for the end; kill the command, and what it started, if it takes or prints too much."""
        is_over = False
        try:
            async with asyncio.timeout(self._timeout):
                printed, said = await asyncio.gather(_read(process.stdout), _read(process.stderr))
                await process.wait()
            is_over = True
        except _TooMuchError:
            raise SettingsError(f"{program} printed more than {MOST_BYTES:,} bytes; correct the command") from None
        except TimeoutError:
            raise SettingsError(
                f"{program} did not end within {self._timeout:g} s and was killed; run it by hand"
            ) from None
        finally:
            # The command itself may have ended, and left something behind that holds its output open.
            if not is_over:
                await _kill(process)
        return printed, said


async def _start(words: list[str]) -> Process:
    """Start the program; if the caller gives up meanwhile, kill it."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A group of its own, so that what the command has started can be ended with it.
            start_new_session=True,
        )
    )
    try:
        # Cancelled itself, asyncio's function would wait without end for pipes that nobody connects any more.
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        if starting.exception() is None:
            await _kill(starting.result())
        raise


class _TooMuchError(Exception):
    """The command prints without end."""


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    read = b""
    while stream is not None and (more := await stream.read(MOST_BYTES)):
        read += more
        if len(read) > MOST_BYTES:
            raise _TooMuchError
    return read


async def _kill(process: Process) -> None:
    # A Mac says of a group in which all have ended that it is not ours.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # What has left the group may hold the pipes open; nobody reads them any more.
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 there is no public way
    with suppress(TimeoutError):
        async with asyncio.timeout(KILL_TIMEOUT):
            await process.wait()
    # The pipes are closed in the loop's next turn.
    await asyncio.sleep(0)


def _words_of(said: bytes, printed: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    if not lines:
        return ""
    words = lines[-1]
    secrets = {line.strip() for line in printed.decode("utf-8", "replace").splitlines()}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            words = words.replace(secret, MASK)
    return f" ({clip(one_line(words), _MOST_OF_AN_ERROR)})"
