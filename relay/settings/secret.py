"""Secrets in files. They are read again whenever they are needed, so that replacing the file rotates the secret."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from relay.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable


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


def read_secret(file: str) -> str:
    """Return a file's text without the line end. Raises OSError, UnicodeDecodeError, or ValueError if it is empty."""
    text = Path(file).read_text(encoding="utf-8").strip("\r\n")
    if not text:
        raise ValueError("is empty; write the secret to the file (one that is being written will be read again)")
    return text
