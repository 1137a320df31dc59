"""People's commands log in as the relay does: with a password from a file or a command."""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest
from click.testing import CliRunner

from relay.cli import main
from tests.support.postgres.outbox import migrated

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ("status", "migrate --check", "failed list", "replay list", "lanes")


def without_password(dsn: str) -> tuple[str, str]:
    """The DSN without its password, and the password."""
    parts = urlsplit(dsn)
    assert parts.password
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port}")), parts.password


@pytest.mark.parametrize("way", ["FILE", "COMMAND"])
async def test_each_command_takes_the_password_from_a_file_or_a_command(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async with migrated(database):
        pass
    dsn, password = without_password(database)
    file = tmp_path / "password"
    file.write_text(f"{password}\n")
    env = {
        "RELAY_POSTGRES_DSN": dsn,
        f"RELAY_POSTGRES_PASSWORD_{way}": str(file) if way == "FILE" else shlex.join(["cat", str(file)]),
    }
    for command in COMMANDS:
        done = await _run(command, env)
        assert done == (0, ""), command

    file.write_text("wrong-5c2e")
    for command in COMMANDS:
        code, said = await _run(command, env)
        assert code == 3, command
        assert "password authentication failed" in said
        assert "or RELAY_POSTGRES_PASSWORD" in said
        assert "wrong-5c2e" not in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("false", "RELAY_POSTGRES_PASSWORD_COMMAND (false) ended with status 1; run it by hand"),
        ("true", "RELAY_POSTGRES_PASSWORD_COMMAND (true) printed nothing; run it by hand"),
        ("/no/such/program", "RELAY_POSTGRES_PASSWORD_COMMAND begins with '/no/such/program', which is not a program"),
    ],
)
async def test_a_command_that_gives_no_password_ends_each_of_them_with_2(database: str, line: str, said: str) -> None:
    dsn, _ = without_password(database)
    for command in COMMANDS:
        code, text = await _run(command, {"RELAY_POSTGRES_DSN": dsn, "RELAY_POSTGRES_PASSWORD_COMMAND": line})
        assert (code, said in text) == (2, True), (command, text)


async def _run(command: str, env: dict[str, str]) -> tuple[int, str]:
    """Exit code, and what was written to standard error."""
    result = await asyncio.to_thread(CliRunner().invoke, main, command.split(), env=env)
    return result.exit_code, result.stderr
