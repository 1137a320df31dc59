"""What README and chapters show: their commands with the output below them, their programs, and how to run these."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

CHAPTERS = (
    "README.md",
    "relay/enqueue/README.md",
    "deploy/README.md",
    "deploy/FAILURES.md",
    "deploy/EVENTS.md",
    "deploy/OBSERVABILITY.md",
    "deploy/SETTINGS.md",
    "deploy/INSTALL.md",
    "deploy/RUNBOOK.md",
    "deploy/VERSIONS.md",
)
"""The README and the pages for readers who use the relay: every command in them is run as it stands there."""

NOT_RUN = {
    "python3 -m venv .venv && .venv/bin/pip install -e '.[local]' && .venv/bin/relay demo": (
        "it installs; tests/acceptance/test_demo.py runs the demo"
    ),
    "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest": "it runs this; .ci/run runs it",
    ".ci/run": "it runs this",
    ".venv/bin/relay local --topic orders": "it starts servers; tests/acceptance/test_local.py runs it",
    "docker build -f deploy/Dockerfile -t outbox-relay .": "it needs Docker, which the tests do without",
    "docker compose -f deploy/compose.yaml up --build": "it needs Docker, which the tests do without",
    "kubectl apply -k deploy/kubernetes/base": "it needs a cluster; test_manifests.py judges what it applies",
    "helm install outbox deploy/helm/outbox-relay --values deploy/helm/examples/minimal.yaml": (
        "it needs a cluster; test_manifests.py judges what it installs"
    ),
    'kafka-topics.sh --bootstrap-server "$RELAY_KAFKA_BOOTSTRAP_SERVERS" --create --topic orders \\\n'
    "  --partitions 12 --replication-factor 3": "it is one of Kafka's own tools, which need Kafka's distribution",
    'kafka-configs.sh --bootstrap-server "$RELAY_KAFKA_BOOTSTRAP_SERVERS" --alter --entity-type topics \\\n'
    "  --entity-name orders --add-config max.message.bytes=3000000": "the same; the tests raise the limit themselves",
}
"""Commands that no test runs as they stand there, and why."""


class Step(NamedTuple):
    """A block of commands, and what the page shows below it; empty if nothing."""

    command: str
    shown: str


def page(name: str) -> str:
    """The text of a page, named from the top of the repository."""
    return (ROOT / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indentation}", "", block, flags=re.MULTILINE) for indentation, block in found]


def steps(text: str) -> list[Step]:
    """The blocks of commands of a page, in order."""
    found = re.findall(r"^( *)```sh\n(.*?)^\1```\n(?:\1```\n(.*?)^\1```$)?", text, re.MULTILINE | re.DOTALL)
    return [Step(_dedented(block, indent).strip(), _dedented(shown, indent)) for indent, block, shown in found]


def _dedented(block: str, indentation: str) -> str:
    return re.sub(f"^{indentation}", "", block, flags=re.MULTILINE)


def programs(text: str) -> dict[str, str]:
    """The programs that a reader is told to save, by the name of the file."""
    return dict(re.findall(r"Save this as `(\w+\.py)`.*?```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def missing(shown: str, printed: str) -> list[str]:
    """The shown lines that were not printed, whatever numbers, times, names of users and widths of columns they have.

    A line of dots stands for any lines, and a line that begins with spaces goes on with the line before it.
    """
    words = {_words(line) for line in _whole_lines(printed)}
    return [line for line in _whole_lines(shown) if line.strip() != "..." and _words(line) not in words]


def _whole_lines(text: str) -> list[str]:
    return re.sub(r"\n {13,}(?=\S)", " ", text).splitlines()


def _words(line: str) -> str:
    for pattern, word in (
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(Z|\+00:00)", "TIME"),
        (r"\S+ \(\S+@[^)\s]+\)", "USER"),
        (r"^database \S+,", "database NAME,"),
        (r"\b[0-9A-F]+/[0-9A-F]+$", "POSITION"),
        (r"\b\d+([.,]\d+)*( (ms|s|min|h|d)\b( \d+ s)?)", "SPAN"),
        (r"(?<![\w-])-?\d+([.,]\d+)*", "N"),
        (r" {2,}", " "),
    ):
        line = re.sub(pattern, word, line)
    return line.strip()
