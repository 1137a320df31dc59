"""A PostgreSQL whose clock a test can set, by libfaketime: the installed one, or Debian's, kept beside Kafka's jars."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from relay.local import postgres
from relay.local.parts import cache_folder
from tests.support.servers import shared as servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.local import PostgresServer

FETCH_SECONDS = 120


class Clock:
    """The clock of a PostgreSQL, as its distance from the right time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Let the clock be so many seconds ahead of the right time, or behind it, from the next look at it on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.chmod(0o644)
        new.replace(self._file)


@contextmanager
def postgres_with_a_clock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PostgresServer, Clock]]:
    """A running PostgreSQL, and its clock. Skips the test, saying why, where there is no libfaketime."""
    clock = Clock(folder / "clock")
    usual = postgres._environment()
    # Every process of PostgreSQL reads the file whenever it looks at the clock; how long it waits for is not changed.
    moved = {
        "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    monkeypatch.setattr(postgres, "_environment", lambda: usual | moved | {"LD_PRELOAD": str(_library())})
    with servers.own_postgres_server(folder) as server:
        yield server, clock


def _library() -> Path:
    kept = cache_folder() / "libfaketime"
    if (found := _in(Path("/"))) or (found := _in(kept)):
        return found
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("libfaketime is not installed, and there is no apt-get to fetch Debian's package")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".libfaketime-") as folder:
        try:
            for command in (["apt-get", "download", "libfaketime"], ["sh", "-c", "dpkg-deb -x *.deb unpacked"]):
                subprocess.run(command, cwd=folder, check=True, timeout=FETCH_SECONDS, capture_output=True)
        except subprocess.SubprocessError as error:
            pytest.skip(f"libfaketime is not installed, and Debian's package cannot be had: {error}")
        try:
            Path(folder, "unpacked").rename(kept)
        except OSError:
            # Another process was faster; its copy is as good.
            if not kept.exists():
                raise
    found = _in(kept)
    assert found is not None
    return found


def _in(root: Path) -> Path | None:
    return next(iter(sorted(root.glob("usr/lib/*/faketime/libfaketime.so.1"))), None)
