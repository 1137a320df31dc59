"""Real PostgreSQL without an installation: the programs come from a wheel, the data are in a folder."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
from typing import TYPE_CHECKING

from relay.local import ports
from relay.local.account import Account, account_for
from relay.local.errors import LocalServerError
from relay.local.parts import postgres_programs
from relay.local.process import ServerProcess
from relay.local.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUPERUSER = "postgres"
PROTOCOL_3_0 = 196608


class PostgresServer(Server):
    """PostgreSQL on 127.0.0.1 with one superuser, its password kept in `folder`.

    `settings` are server settings such as {"max_connections": 200}; change them before a (re)start.
    `programs` is the folder with another version's `postgres` and `initdb`.
    """

    name = "PostgreSQL"

    def __init__(
        self,
        folder: Path | str,
        port: int | None = None,
        *,
        settings: Mapping[str, object] | None = None,
        programs: Path | None = None,
    ) -> None:
        super().__init__(folder, {"clients": port})
        self.settings: dict[str, object] = dict(settings or {})
        self._programs = programs

    @property
    def dsn(self) -> str:
        """The superuser's DSN of the database `postgres`; contains the password."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Return the superuser's DSN of a database of this server; it contains the password."""
        password = (self.folder / "password").read_text()
        return f"postgresql://{SUPERUSER}:{password}@{ports.HOST}:{self.port()}/{database}"

    def _launch(self, lock: int, timeout: float) -> ServerProcess:
        programs = self._programs or postgres_programs()
        data = self.folder / "data"
        account = account_for(data, programs)
        if not data.exists():
            self._initialise(data, programs, account)
        settings = {
            "port": self.port(),
            "listen_addresses": ports.HOST,
            "unix_socket_directories": "",
            **self.settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        process = ServerProcess(
            self.name,
            [*account.prefix, str(programs / "postgres"), "-D", str(data), *options],
            log=self.log,
            lock=lock,
            # "Fast": sessions are ended, a checkpoint is written.
            stop_signal=signal.SIGINT,
            env=_environment(),
            uid=account.uid,
        )
        try:
            process.wait_until(self._accepts_logins, timeout)
        except BaseException:
            process.kill()
            raise
        return process

    def _initialise(self, data: Path, programs: Path, account: Account) -> None:
        password = self.folder / "password"
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(18))
        account.give(new)
        account.give(password)
        # Only root can change users; others not even to themselves.
        other = account.uid >= 0
        made = subprocess.run(  # noqa: S603 our own arguments
            [
                *account.prefix,
                str(programs / "initdb"),
                "--no-sync",
                "--no-locale",
                "--encoding=UTF8",
                "--auth=scram-sha-256",
                f"--username={SUPERUSER}",
                f"--pwfile={password}",
                f"--pgdata={new}",
            ],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
            cwd="/",
            user=account.uid if other else None,
            group=account.uid if other else None,
            extra_groups=[] if other else None,
        )
        if made.returncode != 0:
            raise LocalServerError(f"initdb failed in {self.folder}: {made.stderr.strip()}")
        # Only whole data get the final name; an interrupted initdb is started over.
        new.rename(data)

    def _accepts_logins(self) -> bool:
        """Return whether the server answers a login by asking for a password, which it does once recovery is over."""
        body = struct.pack("!I", PROTOCOL_3_0) + b"user\0" + SUPERUSER.encode() + b"\0database\0postgres\0\0"
        try:
            with socket.create_connection((ports.HOST, self.port()), timeout=2) as connection:
                connection.sendall(struct.pack("!I", len(body) + 4) + body)
                return connection.recv(1) == b"R"
        except OSError:
            return False


def _environment() -> dict[str, str]:
    # PGDATA, PGPORT and the like of the user's own PostgreSQL must not leak in; on macOS the server refuses
    # to start without a valid locale.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}
