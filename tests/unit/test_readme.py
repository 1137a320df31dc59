"""What README, chapters, run book and manifests say is what the program does."""

from __future__ import annotations

import re

import click
import pytest

from relay.cli import COMMANDS, main
from relay.run.connections import CONNECTIONS
from relay.run.health import Reason
from relay.settings import Settings, StopSettings
from relay.settings.describe import reference
from relay.settings.load import CONFIG_FILE, RENAMED, variables
from relay.telemetry import HAPPENINGS
from relay.telemetry.describe import metrics_reference
from tests.support import documents

ROOT = documents.ROOT
README = documents.page("README.md")
RUNBOOK = documents.page("deploy/RUNBOOK.md")
PAGES = [*documents.CHAPTERS, "CHANGELOG.md"]
MANIFESTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "deploy").rglob("*")
    if path.suffix in (".yaml", "") and path.is_file()
)


def code_of(page: str) -> str:
    """All fenced blocks and code spans of a page, one per line."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", prose)])


def test_the_page_on_settings_is_the_reference() -> None:
    assert documents.page("deploy/SETTINGS.md") == reference() + "\n", (
        "run `.venv/bin/relay config --reference > deploy/SETTINGS.md`"
    )


def test_the_table_of_metrics_is_the_reference() -> None:
    assert f"\n\n{metrics_reference()}\n\n" in documents.page("deploy/OBSERVABILITY.md"), (
        "replace the table in deploy/OBSERVABILITY.md by what "
        "`.venv/bin/python -c 'from relay.telemetry.describe import *; print(metrics_reference())'` prints"
    )


def test_the_chapter_on_running_says_how_many_connections_a_replica_holds() -> None:
    chapter = documents.page("deploy/README.md")
    assert f"**{len(CONNECTIONS)} connections**" in chapter
    install = (ROOT / "deploy/INSTALL.md").read_text()
    # The example has two replicas, a replay and a command.
    assert f"| {len(CONNECTIONS)} for each replica, 1 more during a replay, 1 for each command | " in install
    assert f"1 for each command | {2 * len(CONNECTIONS) + 2} | {2 * len(CONNECTIONS) + 2} |" in install
    assert all(re.search(rf"`(outbox-relay )?{purpose}`", chapter) for purpose in CONNECTIONS)


def test_the_readme_can_be_read_in_ten_minutes() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize(
    "command",
    [
        "python3 -m venv .venv && .venv/bin/pip install -e '.[local]' && .venv/bin/relay demo",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest",
    ],
)
def test_each_set_up_command_is_a_line_of_its_own_in_a_block(command: str) -> None:
    assert f"\n```sh\n{command}\n```\n" in README


def test_every_command_that_no_test_runs_is_still_shown() -> None:
    shown = {step.command for page in documents.CHAPTERS for step in documents.steps(documents.page(page))}
    assert documents.NOT_RUN.keys() <= shown


@pytest.mark.parametrize("page", PAGES)
def test_every_subcommand_and_option_that_is_named_exists(page: str) -> None:
    for words in re.findall(r"(?:^|/)relay ((?:[a-z]+ ?)+(?: ?--[a-z-]+)*)", code_of(page), re.MULTILINE):
        command: click.Command = main
        for word in words.split():
            if word.startswith("--"):
                assert word in {option for parameter in command.params for option in parameter.opts}, f"relay {words}"
            elif isinstance(command, click.Group):
                subcommand = command.get_command(click.Context(command), word)
                assert subcommand is not None, f"relay {words}"
                command = subcommand


def test_the_readme_shows_the_newcomer_s_commands() -> None:
    assert set(COMMANDS) <= set(re.findall(r"\brelay ([a-z]+)", code_of("README.md")))


@pytest.mark.parametrize("page", PAGES + MANIFESTS)
def test_every_setting_that_is_named_exists(page: str) -> None:
    known = variables(Settings)
    secrets = [name for name, variable in known.items() if variable.secret]
    names = {*known, *(f"{name}_{way}" for name in secrets for way in ("FILE", "COMMAND")), CONFIG_FILE}
    if page == "CHANGELOG.md":
        names |= RENAMED.keys()
    for name in set(re.findall(r"\bRELAY_[A-Z_]+", (ROOT / page).read_text())):
        # RELAY_KAFKA_SASL_* stands for several, RELAY_TEST_* is the tests'.
        known_start = name.endswith("_") and any(each.startswith(name) for each in names)
        assert name in names or known_start or name.startswith("RELAY_TEST_"), name


@pytest.mark.parametrize("happening", [name for name, happening in HAPPENINGS.items() if happening.level is not None])
def test_the_run_book_explains_every_log_line(happening: str) -> None:
    assert f"\n| {HAPPENINGS[happening].text} | `{happening}` |" in RUNBOOK


def test_the_run_book_explains_no_log_line_that_is_gone() -> None:
    explained = set(re.findall(r"^\| [^|]+ \| `([a-z]+\.[a-z_]+)` \|", RUNBOOK, re.MULTILINE))
    assert explained == {name for name, happening in HAPPENINGS.items() if happening.level is not None}


def as_the_run_book_has_it(reason: Reason) -> str:
    """The reason with N for a number: what precedes the details."""
    return re.sub(r"\{\w+:[^}]+\}", "N", reason.value)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_the_run_book_explains_every_reason_of_readyz(reason: Reason) -> None:
    assert re.search(
        rf"^\| `{re.escape(as_the_run_book_has_it(reason))}(: \.\.\.)?` \| \S.+ \| \S.+ \|$", RUNBOOK, re.MULTILINE
    )


def test_the_run_book_explains_no_reason_of_readyz_that_is_gone() -> None:
    _, _, section = RUNBOOK.partition("\n## Reasons of `/readyz`\n")
    rows = re.findall(r"^\| `([^`]+)`", section.partition("\n## ")[0], re.MULTILINE)
    assert {row.removesuffix(": ...") for row in rows} == set(map(as_the_run_book_has_it, Reason))


@pytest.mark.parametrize(
    ("manifest", "pattern"),
    [
        ("deploy/kubernetes/base/deployment.yaml", r"terminationGracePeriodSeconds: (\d+)"),
        ("deploy/compose.yaml", r"stop_grace_period: (\d+)s"),
    ],
)
def test_the_manifests_give_a_drain_longer_than_it_may_take(manifest: str, pattern: str) -> None:
    found = re.search(pattern, (ROOT / manifest).read_text())
    assert found is not None
    # Closing after a drain that was cut short is bounded by a few seconds more.
    assert int(found[1]) >= StopSettings().grace + 10
