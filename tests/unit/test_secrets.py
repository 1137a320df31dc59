"""Secrets from files and commands: read when they are needed, within bounds, and told to nobody."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from pydantic import SecretStr

from relay.errors import PostgresLostError, SettingsError
from relay.postgres.connect import dsn_of
from relay.postgres.dsn import login
from relay.settings import Settings, Warned, load_postgres, load_with_sources
from relay.settings.command import MOST_BYTES, Command
from relay.settings.describe import effective
from relay.settings.secret import KEPT, CommandSecret, FileSecret, reveal
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "geheim-7f3a"
DSN = "postgresql://relay@db:5432/shop"
ENOUGH = {"RELAY_POSTGRES_DSN": DSN, "RELAY_KAFKA_BOOTSTRAP_SERVERS": "broker-1:9092"}


def script(folder: Path, text: str) -> str:
    """A command line that runs a shell script."""
    file = folder / "command"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o700)
    return str(file)


async def output(line: str, timeout: float = 10.0) -> str:
    return await Command(line, timeout).output("RELAY_X_COMMAND")


async def refusal(line: str, timeout: float = 10.0) -> str:
    with pytest.raises(SettingsError) as raised:
        await output(line, timeout)
    text = str(raised.value)
    assert text.startswith(f"RELAY_X_COMMAND ({line.split()[0]}) ")
    assert "\n" not in text
    assert SECRET not in text
    return text


async def test_a_command_prints_the_secret_and_a_line_end() -> None:
    assert await output(f"printf '%s\\n' '{SECRET} two'") == f"{SECRET} two"


async def test_a_command_that_fails_says_its_status_and_last_words_and_not_what_it_printed(tmp_path: Path) -> None:
    line = script(tmp_path, f"echo {SECRET}; echo first >&2; printf 'no \\033[31mcredentials\\n' >&2; exit 3")
    assert "ended with status 3 (no \\x1b[31mcredentials); run it by hand" in await refusal(line)


async def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = script(tmp_path, f"echo {SECRET}; sleep 600 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait")
    assert "did not end within 0.5 s and was killed" in await refusal(line, timeout=0.5)
    started = [int(pid) for pid in pids.read_text().split()]

    async def gone() -> bool:
        return not any(_runs(pid) for pid in started)

    await until("they are gone", gone)


async def test_what_a_command_leaves_behind_with_its_output_open_is_killed(tmp_path: Path) -> None:
    """The command itself has ended: what it started would stay, one more for each connection."""
    pid = tmp_path / "pid"
    line = script(tmp_path, f"sleep 600 & echo $! > {pid}; echo {SECRET}")
    assert "did not end within 0.5 s and was killed" in await refusal(line, timeout=0.5)

    async def gone() -> bool:
        return not _runs(int(pid.read_text()))

    await until("it is gone", gone)


@pytest.mark.parametrize(
    "text", ["set -x; echo {0}; exit 1", "echo {0}; echo {0} >&2; exit 1", "echo {0} >&2; printf 'x\n{0}\ny'; exit 1"]
)
async def test_what_a_command_prints_is_masked_in_its_last_words(tmp_path: Path, text: str) -> None:
    line = script(tmp_path, text.format(SECRET))
    assert "ended with status 1" in await refusal(line)


async def test_a_command_whose_caller_gives_up_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    waiting = asyncio.create_task(output(script(tmp_path, f"echo $$ > {pid}.new; mv {pid}.new {pid}; sleep 600")))

    async def started() -> bool:
        return pid.exists()

    await until("it runs", started)
    waiting.cancel()
    await asyncio.wait([waiting])

    async def gone() -> bool:
        return not _runs(int(pid.read_text()))

    await until("it is gone", gone)


async def test_a_command_whose_caller_gives_up_while_it_starts_is_killed(tmp_path: Path) -> None:
    """The program may run before its pipes are connected. When that is depends on the system, so it tries again."""
    for turns in [*range(6)] * 4:
        pid = tmp_path / f"pid{turns}"
        waiting = asyncio.create_task(output(script(tmp_path, f"echo $$ > {pid}; sleep 600")))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting], timeout=20)
        assert waiting.cancelled(), f"after {turns} turns of the loop"
        assert not [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_command_that_prints_without_end_is_ended() -> None:
    assert f"printed more than {MOST_BYTES:,} bytes" in await refusal(f"yes {'x' * 100}", timeout=60)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 0", "printed nothing; run it by hand"),
        ("echo; echo", "printed nothing"),
        ("echo hint >&2", "printed nothing (hint)"),
        ("printf '\\377'", "printed what is not UTF-8 text"),
        ("kill -9 $$", "ended with status -9"),
    ],
)
async def test_what_a_command_does_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    assert said in await refusal(script(tmp_path, text))


async def test_a_command_reads_nothing_and_waits_for_nobody() -> None:
    assert await output("sh -c 'read line; echo done'") == "done"


async def test_a_program_that_has_gone_since_the_start_is_said(tmp_path: Path) -> None:
    line = script(tmp_path, "echo x")
    command = Command(line)
    (tmp_path / "command").unlink()
    with pytest.raises(SettingsError, match="cannot be run: no such file or directory; correct the command"):
        await command.output("RELAY_X_COMMAND")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"echo '{SECRET}", "cannot be split into words (No closing quotation); close the quotation marks"),
        ("' '", "begins with ' ', which is not a program"),
        (" ", "has no words"),
        (f"/no/such/program {SECRET}", "begins with '/no/such/program', which is not a program that can be run"),
    ],
)
def test_a_command_that_cannot_run_is_refused_at_the_start_and_its_arguments_are_not_told(line: str, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.load(ENOUGH | {"RELAY_POSTGRES_PASSWORD_COMMAND": line})
    assert f"RELAY_POSTGRES_PASSWORD_COMMAND {said}" in str(raised.value)
    assert SECRET not in str(raised.value)


async def test_connections_that_are_made_together_share_one_run_and_later_ones_get_another(tmp_path: Path) -> None:
    now = 100.0
    runs = tmp_path / "runs"
    secret = CommandSecret(
        "RELAY_X", Command(script(tmp_path, f"echo run >> {runs}; wc -l < {runs}")), clock=lambda: now
    )
    assert {text.strip() for text in await asyncio.gather(*(reveal(secret) for _ in range(5)))} == {"1"}
    now += KEPT + 0.1
    assert (await reveal(secret)).strip() == "2"


async def test_what_a_command_prints_is_checked_and_a_failure_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text(SECRET)
    settings = load_postgres({"RELAY_POSTGRES_DSN_COMMAND": f"cat {file}"})
    with pytest.raises(SettingsError) as raised:
        await login(settings)
    assert "RELAY_POSTGRES_DSN (printed by RELAY_POSTGRES_DSN_COMMAND) must begin with postgresql://" in str(
        raised.value
    )
    assert SECRET not in str(raised.value)
    file.write_text(DSN)
    assert await login(settings) == DSN


async def test_what_a_command_prints_has_no_null_byte(tmp_path: Path) -> None:
    line = script(tmp_path, f"printf '{SECRET}\\000'")
    with pytest.raises(SettingsError, match=r"printed by RELAY_POSTGRES_PASSWORD_COMMAND. has a null byte") as raised:
        await login(load_postgres({"RELAY_POSTGRES_DSN": DSN, "RELAY_POSTGRES_PASSWORD_COMMAND": line}))
    assert SECRET not in str(raised.value)


async def test_a_secret_from_a_command_is_in_no_representation(tmp_path: Path) -> None:
    line = script(tmp_path, f"echo {SECRET}")
    settings, sources = load_with_sources(
        ENOUGH | {"RELAY_POSTGRES_PASSWORD_COMMAND": f"{line} --argument {SECRET}", "RELAY_POSTGRES_DSN": DSN}
    )
    assert await login(settings.postgres) == f"{DSN}?password={SECRET}"
    assert sources["RELAY_POSTGRES_PASSWORD"] == "command"
    shown = str(effective(settings, sources))
    for text in (repr(settings), str(settings), repr(settings.model_dump()), shown):
        assert SECRET not in text
    assert settings.postgres.password is not None
    with pytest.raises(SettingsError, match="has not run"):
        settings.postgres.password.get_secret_value()


async def test_a_dsn_from_a_command_is_masked_without_running_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    env = {**ENOUGH, "RELAY_POSTGRES_DSN": "", "RELAY_POSTGRES_DSN_COMMAND": f"touch {ran}"}
    shown = {row.name: row for row in effective(*load_with_sources(env))}
    assert (shown["RELAY_POSTGRES_DSN"].value, shown["RELAY_POSTGRES_DSN"].source) == ("********", "command")
    assert not ran.exists()


def test_two_ways_to_give_one_secret_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    with pytest.raises(SettingsError, match="_FILE and RELAY_POSTGRES_PASSWORD_COMMAND are both set; keep one"):
        Settings.load(ENOUGH | {"RELAY_POSTGRES_PASSWORD_FILE": str(file), "RELAY_POSTGRES_PASSWORD_COMMAND": "echo x"})


@pytest.mark.parametrize("dsn", [f"postgresql://relay:{SECRET}@db/shop", f"postgresql://db/shop?password={SECRET}"])
def test_a_password_beside_one_in_the_dsn_is_refused(dsn: str) -> None:
    for load in (Settings.load, load_postgres):
        with pytest.raises(SettingsError) as raised:
            load(ENOUGH | {"RELAY_POSTGRES_DSN": dsn, "RELAY_POSTGRES_PASSWORD": "other"})
        assert str(raised.value) == (
            "RELAY_POSTGRES_DSN has a password and RELAY_POSTGRES_PASSWORD is set too; leave one of them out"
        )


@pytest.mark.parametrize(
    ("dsn", "with_it"),
    [
        (DSN, f"{DSN}?password=a%2Fb%3F%26%20%25"),
        (f"{DSN}?sslmode=require", f"{DSN}?sslmode=require&password=a%2Fb%3F%26%20%25"),
        ("postgresql:///shop?host=/run/x", "postgresql:///shop?host=/run/x&password=a%2Fb%3F%26%20%25"),
    ],
)
async def test_the_password_is_read_for_each_connection_and_put_into_the_dsn(
    tmp_path: Path, dsn: str, with_it: str
) -> None:
    file = tmp_path / "password"
    file.write_text("a/b?& %\n")
    file.chmod(0o600)
    settings = load_postgres({"RELAY_POSTGRES_DSN": dsn, "RELAY_POSTGRES_PASSWORD_FILE": str(file)})
    assert await login(settings) == with_it
    file.write_text("new")
    assert (await login(settings)).endswith("password=new")
    file.unlink()
    with pytest.raises(SettingsError, match="RELAY_POSTGRES_PASSWORD_FILE names"):
        await login(settings)
    with pytest.raises(PostgresLostError, match="RELAY_POSTGRES_PASSWORD_FILE names"):
        await dsn_of(settings)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "is not a regular file; write the secret to a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file; write the secret to a file"),
        (lambda path: path.mkdir(), "cannot be read (Is a directory); correct the path or the file"),
        (lambda path: path.write_bytes(b"a\x00b"), "has a null byte; correct it"),
        (lambda path: path.write_bytes(b"x" * 65_537), "has more than 65,536 bytes; correct the path or the file"),
    ],
)
async def test_a_file_that_would_never_end_or_never_begin_is_refused_at_the_start_and_later(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    """A pipe would stop the event loop for ever, and with it probes and heartbeats."""
    file = tmp_path / "password"
    env = {"RELAY_POSTGRES_DSN": DSN, "RELAY_POSTGRES_PASSWORD_FILE": str(file)}
    file.write_text(SECRET)
    settings = load_postgres(env)
    file.unlink()
    make(file)
    for refused in (lambda: load_postgres(env), settings.password.get_secret_value if settings.password else None):
        assert refused is not None
        with pytest.raises(SettingsError) as raised:
            refused()
        assert said in str(raised.value)
        assert str(file) in str(raised.value)


def warnings_of(env: dict[str, str]) -> list[str]:
    told: list[Warned] = []
    Settings.load(ENOUGH | {"RELAY_KAFKA_SECURITY_PROTOCOL": "SSL"} | env, told.append)
    return [str(each) for each in told]


SAFE_DSN = f"{DSN}?sslmode=verify-full"


def test_a_secret_file_that_every_user_may_read_is_warned_about(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    env = {"RELAY_POSTGRES_DSN": SAFE_DSN, "RELAY_POSTGRES_PASSWORD_FILE": str(file)}
    for mode in (0o600, 0o640):
        file.chmod(mode)
        assert warnings_of(env) == []
    file.chmod(0o644)
    (warning,) = warnings_of(env)
    assert warning.startswith(
        f"RELAY_POSTGRES_PASSWORD_FILE names {file}, which every user of this machine may read (mode 0644); "
    )
    assert SECRET not in warning


def test_a_settings_file_is_warned_about_only_if_it_holds_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("[kafka]\nsecurity_protocol = 'SSL'\n")
    file.chmod(0o644)
    env = {"RELAY_CONFIG_FILE": str(file)}
    assert warnings_of({"RELAY_POSTGRES_DSN": SAFE_DSN, **env}) == []
    file.write_text(f"[postgres]\npassword = '{SECRET}'\n")
    (warning,) = warnings_of({"RELAY_POSTGRES_DSN": SAFE_DSN, **env})
    assert warning.startswith(f"RELAY_CONFIG_FILE names {file}, which every user")


def test_a_key_that_every_user_may_read_is_warned_about(tmp_path: Path) -> None:
    key = tmp_path / "client.key"
    key.write_text("KEY")
    key.chmod(0o604)
    kafka = {"RELAY_KAFKA_SSL_CERTFILE": str(key), "RELAY_KAFKA_SSL_KEYFILE": str(key)}
    (of_kafka,) = warnings_of({"RELAY_POSTGRES_DSN": SAFE_DSN, **kafka})
    assert of_kafka.startswith(f"RELAY_KAFKA_SSL_KEYFILE names {key}, which every user")
    assert warnings_of({"RELAY_POSTGRES_DSN": SAFE_DSN, **kafka, "RELAY_KAFKA_SSL_KEY_PASSWORD": "x"}) == []
    (of_postgres,) = warnings_of({"RELAY_POSTGRES_DSN": f"{SAFE_DSN}&sslkey={key}"})
    assert of_postgres.startswith(f"sslkey in RELAY_POSTGRES_DSN names {key}, which every user")
    assert stat.S_IMODE(key.stat().st_mode) == 0o604


@pytest.mark.parametrize(
    ("dsn", "far"),
    [
        ("postgresql://relay@db:5432/shop", "db"),
        ("postgresql://relay@localhost,db-2:5432/shop", "db-2"),
        ("postgresql://relay@[2001:db8::1]:5432/shop", "2001:db8::1"),
        ("postgresql:///shop?host=db", "db"),
        ("postgresql://relay@localhost:5432/shop", ""),
        ("postgresql://relay@127.0.0.3/shop", ""),
        ("postgresql://relay@[::1]:5432/shop", ""),
        ("postgresql:///shop?host=/run/postgresql", ""),
        ("postgresql:///shop", ""),
        ("postgresql://relay@db/shop?sslmode=prefer", ""),
        ("postgresql://relay@db/shop?sslmode=disable", ""),
        ("postgresql://relay@db/shop?ssl=true", ""),
    ],
)
def test_a_dsn_without_sslmode_is_warned_about_unless_it_stays_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, dsn: str, far: str
) -> None:
    for name in ("PGHOST", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    told = warnings_of({"RELAY_POSTGRES_DSN": dsn})
    if far:
        assert [text.partition(" is not encrypted")[0] for text in told] == [
            f"RELAY_POSTGRES_DSN has no sslmode, so the connection to {far}"
        ]
    else:
        assert told == []
    monkeypatch.setenv("PGSSLMODE", "require")
    assert warnings_of({"RELAY_POSTGRES_DSN": dsn}) == []


LOGIN = {
    "RELAY_KAFKA_SASL_MECHANISM": "PLAIN",
    "RELAY_KAFKA_SASL_USERNAME": "relay",
    "RELAY_KAFKA_SASL_PASSWORD": SECRET,
}


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RELAY_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, "events go to broker-1 unencrypted, and nobody logs in"),
        (
            {"RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", **LOGIN},
            "the secret and all events go to broker-1 unencrypted; set SASL_SSL",
        ),
        (
            {
                "RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                **LOGIN,
                "RELAY_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            },
            "SASL_PLAINTEXT: events go to broker-1 unencrypted; set SASL_SSL",
        ),
        (
            {
                "RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "RELAY_KAFKA_SASL_MECHANISM": "OAUTHBEARER",
                "RELAY_KAFKA_OAUTH_PROVIDER": "oidc",
                "RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT": "http://login.example/token",
                "RELAY_KAFKA_OAUTH_CLIENT_ID": "relay",
                "RELAY_KAFKA_OAUTH_CLIENT_SECRET": SECRET,
            },
            "the client secret goes to login.example unencrypted; use https",
        ),
    ],
)
def test_unencrypted_ways_to_kafka_are_warned_about_unless_they_stay_on_this_machine(
    env: dict[str, str], said: str
) -> None:
    (warning,) = warnings_of({"RELAY_POSTGRES_DSN": SAFE_DSN, **env})
    assert said in warning
    assert SECRET not in warning
    near = {
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": "localhost:9092,127.0.0.1:1,[::1]:2",
        **(
            {"RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT": "http://localhost:8080/token"}
            if "RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT" in env
            else {}
        ),
    }
    assert warnings_of({"RELAY_POSTGRES_DSN": SAFE_DSN, **env, **near}) == []


def test_a_file_secret_that_is_gone_says_so_and_a_plain_one_is_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RELAY_X_FILE names"):
        FileSecret("RELAY_X", str(tmp_path / "none")).get_secret_value()
    assert asyncio.run(reveal(SecretStr("x"))) == "x"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() == 0, reason="root may read every file")
def test_a_secret_file_that_this_user_may_not_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    file.chmod(0)
    with pytest.raises(SettingsError, match=r"RELAY_POSTGRES_PASSWORD_FILE names .* \(Permission denied\)"):
        Settings.load(ENOUGH | {"RELAY_POSTGRES_PASSWORD_FILE": str(file)})
