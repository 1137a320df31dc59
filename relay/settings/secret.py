"""Secrets that lie in files, read anew whenever they are needed: whoever rotates them replaces the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from relay.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable


class FileSecret(SecretStr):
    """The content of a file at the time it is asked for."""

    def __init__(self, variable: str, file: str, check: Callable[[SecretStr], SecretStr] | None = None) -> None:
        super().__init__(f"(in {file})")
        self._variable = variable
        self._file = file
        self._check = check

    def get_secret_value(self) -> str:
        """Read it. Raises SettingsError, without any part of it, when the file cannot be read or holds no such thing.

        The file may be read while it is written anew: what waits for servers tries again.
        """
        try:
            text = read_secret(self._file)
            if self._check is not None:
                self._check(SecretStr(text))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SettingsError(f"{self._variable}_FILE names {self._file}, which cannot be read ({reason})") from error
        except UnicodeDecodeError:
            raise SettingsError(f"{self._variable}_FILE names {self._file}, which is not UTF-8 text") from None
        except ValueError as error:
            raise SettingsError(f"{self._variable} (from file {self._file}) {error}") from None
        return text


def read_secret(file: str) -> str:
    """The text of a file without the line end. Raises OSError, UnicodeDecodeError, or ValueError if there is none."""
    text = Path(file).read_text(encoding="utf-8").strip("\r\n")
    if not text:
        raise ValueError("is empty; if the file is being written, it will be read again; else write the secret to it")
    return text
