"""The command's frame: lazy subcommands, one line per error, exit codes, and `relay config`."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

import relay
from relay import cli
from relay.errors import PostgresLostError, RelayError, SchemaError, SettingsError
from relay.settings.describe import reference

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "geheim-7f3a"
ENOUGH = {
    "RELAY_POSTGRES_DSN": f"postgresql://relay:{SECRET}@db:5432/shop",
    "RELAY_KAFKA_BOOTSTRAP_SERVERS": "broker-1:9092",
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RELAY_"):
            monkeypatch.delenv(name)


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, output and errors."""
    result = CliRunner().invoke(cli.main, arguments, env=env, prog_name="relay")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `relay status` raise something."""

    def make(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        module = types.ModuleType("relay.cli.status")
        module.__dict__["command"] = command
        monkeypatch.setitem(sys.modules, "relay.cli.status", module)
        monkeypatch.setattr(cli.Program, "list_commands", lambda *_: ["status"])

    return make


def test_relay_alone_says_what_it_is_and_what_to_try() -> None:
    code, output, _ = run()
    assert code == 0
    assert "PostgreSQL outbox to Kafka" in output
    assert "relay demo" in output
    assert "config" in output


def test_help_loads_no_subcommand() -> None:
    script = (
        "import sys; from relay.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'aiokafka', 'asyncpg', 'pydantic', 'relay.cli.config'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    assert run("--version") == (0, f"relay {relay.__version__}\n", "")


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "relay", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"relay {relay.__version__}\n"


def test_every_subcommand_that_is_offered_loads_and_has_its_name() -> None:
    offered = cli.main.list_commands(click.Context(cli.main))
    assert "config" in offered
    for name in offered:
        command = importlib.import_module(f"relay.cli.{name}").command
        assert isinstance(command, click.Command)
        assert command.name == name


def test_a_subcommand_whose_module_is_missing_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.main.table, "nowhere", ("relay.cli.nowhere:command", "Not here."))
    code, output, _ = run("--help")
    assert code == 0
    assert "nowhere" not in output
    assert run("nowhere")[0] == 2


def test_an_unknown_subcommand_or_option_is_a_usage_error() -> None:
    assert run("rum")[0] == 2
    code, _, errors = run("config", "--jsn")
    assert code == 2
    assert "--json" in errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RelayError("it broke; mend it"), 1),
        (SchemaError("it broke; mend it"), 1),
        (SettingsError("it broke; mend it"), 2),
        (PostgresLostError("it broke; mend it"), 3),
        (ExceptionGroup("tasks", [ExceptionGroup("tasks", [SettingsError("it broke; mend it")])]), 2),
    ],
)
def test_an_error_raised_on_purpose_is_one_line_and_its_exit_code(
    failing: Callable[[BaseException], None], error: Exception, code: int
) -> None:
    failing(error)
    assert run("status") == (code, "", "relay: it broke; mend it\n")


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), ExceptionGroup("tasks", [SettingsError("x"), ValueError("a bug")])]
)
def test_a_bug_keeps_its_traceback(failing: Callable[[BaseException], None], error: Exception) -> None:
    failing(error)
    with pytest.raises(type(error)) as raised:
        run("status")
    assert raised.value is error


def test_ctrl_c_ends_with_130_and_without_a_traceback(failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    code, output, errors = run("status")
    assert (code, output) == (130, "")
    assert "Traceback" not in errors


def test_config_shows_values_and_sources_and_no_secret() -> None:
    code, output, _ = run("config", env=ENOUGH | {"RELAY_HTTP_PORT": "9000"})
    assert code == 0
    lines = {line.split()[0]: line.split()[1:] for line in output.splitlines()}
    assert lines["RELAY_POSTGRES_DSN"] == ["postgresql://relay:********@db:5432/shop", "environment"]
    assert lines["RELAY_HTTP_PORT"] == ["9000", "environment"]
    assert lines["RELAY_REPLICA_LEASE"] == ["15", "default"]
    assert lines["RELAY_SCAN_WAKE_UP"] == ["true", "default"]
    assert SECRET not in output


def test_config_as_json_is_for_machines() -> None:
    code, output, _ = run("config", "--json", env=ENOUGH)
    shown = json.loads(output)
    assert code == 0
    assert shown["RELAY_HTTP_PORT"] == {"value": 8080, "source": "default"}
    assert shown["RELAY_KAFKA_SASL_PASSWORD"] == {"value": None, "source": "default"}
    assert SECRET not in output


def test_config_shows_a_setting_by_its_new_name_and_warns_of_the_old_one() -> None:
    code, output, errors = run("config", env=ENOUGH | {"RELAY_HEALTH_MAX_LAG": "30"})
    assert code == 0
    lines = {line.split()[0]: line.split()[1:] for line in output.splitlines()}
    assert lines["RELAY_HEALTH_MAX_STALL"] == ["30", "environment"]
    assert "RELAY_HEALTH_MAX_LAG" not in lines
    assert errors.startswith(
        "relay: RELAY_HEALTH_MAX_LAG is the old name of RELAY_HEALTH_MAX_STALL and will be refused"
    )


def test_config_tells_every_problem_and_ends_with_2() -> None:
    code, output, errors = run("config", env={"RELAY_HTTP_PROT": "1"})
    assert (code, output) == (2, "")
    assert errors.startswith("relay: 3 problems with the settings:\n")
    for name in ("RELAY_POSTGRES_DSN", "RELAY_KAFKA_BOOTSTRAP_SERVERS", "did you mean RELAY_HTTP_PORT?"):
        assert name in errors


def test_config_reference_needs_no_settings() -> None:
    assert run("config", "--reference") == (0, reference() + "\n", "")


ENDED_WHILE = """
import os, signal, sys

number, module = getattr(signal, sys.argv.pop()), sys.argv.pop()

class Signals:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Signals())
from relay.__main__ import main
main()
print("not ended")
"""


@pytest.mark.parametrize(
    ("module", "signal"),
    [("relay.cli", "SIGTERM"), ("click", "SIGTERM"), ("aiokafka", "SIGTERM"), ("relay.run.service", "SIGINT")],
)
def test_run_ends_well_by_a_signal_while_it_is_still_being_imported(module: str, signal: str) -> None:
    """As process 1 of a container, it would otherwise not hear the signal at all."""
    done = subprocess.run(
        [sys.executable, "-c", ENDED_WHILE, "run", module, signal], capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
