"""Programs in other languages that keep the SQL contract: what they commit is in Kafka, and nothing else.

Each is in tests/languages, with its versions pinned, and does the same: it places an order, pays and rolls back, pays
with an event that is refused, attaches a document of all bytes, and removes the order. A language whose toolchain or
package registry is not here is skipped, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote, urlsplit

import pytest

from relay.local.parts import postgres_programs
from tests.support.documents import blocks, page
from tests.support.kafka.consumer import read_topic
from tests.support.postgres.outbox import connected, migrated
from tests.support.relay.process import relay_run
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.servers import shared as servers

PROGRAMS = Path(__file__).parents[1] / "languages"
FETCH_SECONDS = 180
BUILD_SECONDS = 300
RUN_SECONDS = 60
JDBC = "org.postgresql:postgresql:42.7.14"
ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, state text NOT NULL)"


def skip(language: str, why: str) -> NoReturn:
    """Leave a language out, and say so."""
    pytest.skip(f"{language} was not tried: {why}")


def tool(language: str, name: str) -> str:
    """The path of a program of the toolchain."""
    found = shutil.which(name)
    if found is None:
        skip(language, f"there is no {name} here")
    return found


def fetch(language: str, folder: Path, *command: str, **env: str) -> None:
    """Get what the program needs from the language's package registry, or skip: that it is away is no fault of ours."""
    try:
        done = run(folder, *command, timeout=FETCH_SECONDS, **env)
    except subprocess.TimeoutExpired:
        skip(language, f"its packages did not come within {FETCH_SECONDS} s")
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        skip(language, f"its packages could not be fetched: {lines[-1] if lines else done.returncode}")


def build(folder: Path, *command: str, **env: str) -> None:
    """Compile."""
    done = run(folder, *command, timeout=BUILD_SECONDS, **env)
    assert done.returncode == 0, done.stdout + done.stderr


def run(folder: Path, *command: str, timeout: float, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command there, for a bounded time."""
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def go(folder: Path) -> list[str]:
    """Go with pgx."""
    compiler = tool("Go", "go")
    # Another version of Go is not fetched: what is here must do.
    fetch("Go", folder, compiler, "mod", "download", GOTOOLCHAIN="local", GOFLAGS="-mod=readonly")
    build(folder, compiler, "build", "-o", "shop", ".", GOTOOLCHAIN="local", GOPROXY="off", GOFLAGS="-mod=readonly")
    return ["./shop"]


def java(folder: Path) -> list[str]:
    """Java with JDBC."""
    compiler, machine = tool("Java", "javac"), tool("Java", "java")
    maven = tool("Java", "mvn")
    fetch(
        *("Java", folder, maven, "--batch-mode", "--quiet"),
        *("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy", f"-Dartifact={JDBC}"),
        *(f"-DoutputDirectory={folder}", "-Dmdep.stripVersion=true"),
    )
    build(folder, compiler, "-encoding", "UTF-8", "-Xlint:all", "-Werror", "-cp", "postgresql.jar", "Shop.java")
    return [machine, "-cp", f"postgresql.jar{os.pathsep}.", "Shop"]


def typescript(folder: Path) -> list[str]:
    """TypeScript with node-postgres."""
    packages, node = tool("TypeScript", "npm"), tool("TypeScript", "node")
    fetch("TypeScript", folder, packages, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")
    build(folder, node, "node_modules/typescript/bin/tsc")
    return [node, "built/shop.js"]


def shell(folder: Path) -> list[str]:
    """A shell script with psql."""
    return [tool("the shell", "bash"), "shop.sh"]


LANGUAGES: dict[str, Callable[[Path], list[str]]] = {"go": go, "java": java, "typescript": typescript, "shell": shell}


@pytest.fixture
async def with_orders(database: str) -> str:
    """The DSN of a database with an outbox and a table of orders."""
    async with migrated(database) as connection:
        await connection.execute(ORDERS)
    return database


def environment(dsn: str) -> dict[str, str]:
    """Where libpq, and with it every client, finds the database."""
    parts = urlsplit(dsn)
    found = {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path[1:],
        "PATH": os.environ["PATH"],
    }
    if shutil.which("psql") is None:
        found["PATH"] += f"{os.pathsep}{postgres_programs()}"
    return found


@pytest.mark.parametrize(
    "language", [name if name == "shell" else pytest.param(name, marks=pytest.mark.proof) for name in LANGUAGES]
)
async def test_a_program_in_another_language_enqueues_what_it_commits(
    language: str, with_orders: str, kafka: servers.Kafka, topic: str, tmp_path: Path
) -> None:
    folder = tmp_path / language
    shutil.copytree(PROGRAMS / language, folder)
    for file in folder.glob("[Ss]hop.*"):
        named = file.read_text().replace('"orders"', f'"{topic}"').replace("'orders'", f"'{topic}'")
        assert topic in named
        file.write_text(named)
    command = LANGUAGES[language](folder)

    done = run(folder, *command, timeout=RUN_SECONDS, **environment(with_orders))

    assert (done.returncode, done.stdout, done.stderr) == (0, "refused: event_topic\n", "")
    async with connected(with_orders) as connection, relay_run(with_orders, kafka.bootstrap_servers):
        assert await connection.fetchval("SELECT count(*) FROM orders") == 0

        async def delivered() -> bool:
            return bool(await connection.fetchval("SELECT count(*) = 0 FROM outbox.pending"))

        await until("all events are delivered", delivered)
    placed, documented, removed = await read_topic(kafka.bootstrap_servers, topic)
    assert json.loads(placed.value or b"") == {"order": 42, "note": "grün €😀"}
    assert placed.headers["source"] == "shop"
    assert documented.value == bytes(range(256))
    assert removed.value is None
    kept = [placed, documented, removed]
    assert [record.key for record in kept] == [b"42"] * 3
    assert [record.headers["outbox-type"] for record in kept] == ["order.placed", "order.documented", "order.removed"]


@pytest.mark.parametrize(
    ("shown", "file"),
    [("go", "go/shop.go"), ("java", "java/Shop.java"), ("ts", "typescript/shop.ts"), ("bash", "shell/shop.sh")],
)
def test_the_page_shows_the_programs_as_they_are_run(shown: str, file: str) -> None:
    (example,) = blocks(page("relay/enqueue/README.md"), shown)
    assert indented_alike(example) in indented_alike((PROGRAMS / file).read_text())


def indented_alike(code: str) -> str:
    """Without indentation: the page shows a method as it stands alone."""
    return "\n".join(line.strip() for line in code.strip().splitlines())
