"""The library alone beside one client: in an environment of its own, and to type checkers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import blocks, page
from tests.support.postgres.outbox import migrated

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]
SECTIONS = dict(
    re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##|\Z)", page("relay/enqueue/README.md"), re.MULTILINE | re.DOTALL)
)

# Client -> what to install for it, the sections with its examples, and its environment's program.
CLIENTS = {
    "asyncpg": (
        ["asyncpg", "asyncpg-stubs"],
        ["With asyncpg", "Typed events", "With a schema registry", "Timers", "What not to do"],
    ),
    "psycopg": (["psycopg[binary]"], ["psycopg", "psycopg, asynchronous"]),
    "psycopg2": (["psycopg2-binary", "types-psycopg2"], ["psycopg2"]),
    "sqlalchemy": (
        ["sqlalchemy[asyncio]", "psycopg[binary]", "fastapi"],
        ["SQLAlchemy", "SQLAlchemy, asynchronous", "FastAPI", "Wake-ups"],
    ),
    "django": (["django", "django-stubs", "psycopg[binary]"], ["Django", "A Django view"]),
}

PROGRAMS = {
    "asyncpg": """
async def main():
    connection = await asyncpg.connect(DSN)
    async with connection.transaction():
        await enqueue(connection, "orders", key="k", payload="x")
        await enqueue_many(connection, [Event("orders", key="k", payload="x")])
    await connection.close()
import asyncio, asyncpg
asyncio.run(main())
""",
    "psycopg": """
import psycopg
with psycopg.connect(DSN) as connection, connection.transaction():
    enqueue(connection, "orders", key="k", payload="x")
    enqueue_many(connection, [Event("orders", key="k", payload="x")])
""",
    "psycopg2": """
import psycopg2
with psycopg2.connect(DSN) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT")
    enqueue(connection, "orders", key="k", payload="x")
    enqueue_many(connection, [Event("orders", key="k", payload="x")])
""",
    "sqlalchemy": """
import sqlalchemy
with sqlalchemy.create_engine(DSN.replace("postgresql:", "postgresql+psycopg:")).begin() as connection:
    enqueue(connection, "orders", key="k", payload="x")
    enqueue_many(connection, [Event("orders", key="k", payload="x")])
""",
    "django": """
import django, django.conf
from urllib.parse import urlsplit
parts = urlsplit(DSN)
django.conf.settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": parts.path[1:], "USER": parts.username,
    "PASSWORD": parts.password, "HOST": parts.hostname, "PORT": parts.port}})
django.setup()
from django.db import connection, transaction
with transaction.atomic():
    enqueue(connection, "orders", key="k", payload="x")
    enqueue_many(connection, [Event("orders", key="k", payload="x")])
""",
}

WRONG = {
    "asyncpg": """
import asyncpg
from relay.enqueue import cancel, enqueue, reschedule

async def right(connection: asyncpg.Connection) -> bool:
    await enqueue(connection, "orders", key="1", payload="x", delay=60, timer="t")
    return await cancel(connection, timer="t") or await reschedule(connection, timer="t", delay=1.5)

async def wrong(connection: asyncpg.Connection) -> None:
    cancel(connection, timer="t")  # wrong
    await reschedule(connection, timer="t", delay="1 s")  # wrong
    await cancel(connection, name="t")  # wrong
    await enqueue(connection, "orders", key="1", payload="x", delay="1 s")  # wrong
    enqueue(connection, "orders", key="1", payload="x")  # wrong
    await enqueue(connection, "orders", key=1, payload="x")  # wrong
    await enqueue(connection, "orders", key="1")  # wrong
""",
    "psycopg": """
from typing import Any
import psycopg
from relay.enqueue import enqueue

async def wrong(connection: psycopg.AsyncConnection[Any], blocking: psycopg.Connection[Any]) -> None:
    enqueue(connection, "orders", key="1", payload="x")  # wrong
    await enqueue(connection, "orders", key="1", payload={})  # wrong
    await enqueue(blocking, "orders", key="1", payload="x")  # wrong
    enqueue("orders", key="1", payload="x")  # wrong
""",
    "psycopg2": """
from datetime import datetime, timedelta, timezone
from psycopg2.extensions import connection as Connection
from relay.enqueue import Event, cancel, enqueue, reschedule, wake_up

def right(connection: Connection) -> bool:
    enqueue(connection, Event("orders", key="1", payload="x"), deliver_at=datetime.now(timezone.utc), timer="t")
    return cancel(connection, timer="t") or reschedule(connection, timer="t", delay=timedelta(days=1))

async def wrong(connection: Connection) -> None:
    await cancel(connection, timer="t")  # wrong
    enqueue(connection, Event("orders", key="1", payload="x"), deliver_at="2030-01-01")  # wrong
    await enqueue(connection, "orders", key="1", payload="x")  # wrong
    enqueue(connection, "orders", key="1", payload=1)  # wrong
    enqueue(connection, object())  # wrong
    enqueue(connection, "orders", key="1", payload="x", wake_up="yes")  # wrong
    with wake_up.after(connection.cursor()) as wrong:
        wrong.commit()  # wrong
    wake_up.use(connection)  # wrong
""",
    "sqlalchemy": """
from relay.enqueue import enqueue
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

async def wrong(connection: AsyncConnection, session: AsyncSession, blocking: Session) -> None:
    enqueue(connection, "orders", key="1", payload="x")  # wrong
    enqueue(session, "orders", key="1", payload="x")  # wrong
    await enqueue(blocking, "orders", key="1", payload="x")  # wrong
    enqueue(blocking, "orders", key="1", payload=1)  # wrong
""",
    "django": """
from django.db import connection
from relay.enqueue import enqueue

async def wrong() -> None:
    await enqueue(connection, "orders", key="1", payload="x")  # wrong
    enqueue(connection, "orders", key="1", payload=1)  # wrong
""",
}

MODELS = """
from django.db import models

class Order(models.Model):
    state: models.TextField[str, str] = models.TextField()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, as it is published."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module", params=CLIENTS)
def alone(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a client, and the Python of an environment with the package, without its dependencies, and that."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin/python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
    subprocess.run([*install, *CLIENTS[name][0]], check=True)
    return name, python


async def test_the_package_alone_enqueues_on_the_one_client_that_is_there(
    alone: tuple[str, Path], database: str, tmp_path: Path
) -> None:
    name, python = alone
    program = f"from relay.enqueue import Event, enqueue, enqueue_many\nDSN = {database!r}\n{PROGRAMS[name]}"
    async with migrated(database) as connection:
        done = subprocess.run(  # noqa: ASYNC221 nothing else runs
            [str(python), "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert await connection.fetchval("SELECT count(*) FROM outbox.event") == 2


def lines_with_errors(command: list[str], pattern: str, folder: Path) -> tuple[set[tuple[str, int]], str]:
    """What a checker finds: pairs (file, line)."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = re.findall(pattern, done.stdout, re.MULTILINE)
    return {(Path(file).name, int(line)) for file, line in found}, done.stdout + done.stderr


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_accept_the_examples_and_nothing_else(
    alone: tuple[str, Path], checker: str, tmp_path: Path
) -> None:
    name, python = alone
    programs = [program for section in CLIENTS[name][1] for program in blocks(SECTIONS[section], "python")]
    for number, program in enumerate(programs):
        # A part of a program stands behind the whole one.
        if "import" in program and "def " in program:
            (tmp_path / f"right_{number}.py").write_text(program)
    (tmp_path / "wrong.py").write_text(WRONG[name])
    if name == "django":
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop/__init__.py").touch()
        (tmp_path / "shop/models.py").write_text(MODELS)
    expected = {("wrong.py", number) for number, line in enumerate(WRONG[name].split("\n"), 1) if "# wrong" in line}
    files = sorted(path.name for path in tmp_path.glob("*.py"))
    if checker == "mypy":
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", str(python)]
        found, said = lines_with_errors([*command, *files], r"^(\S+?):(\d+): error:", tmp_path)
    else:
        (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
        command = [sys.executable, "-m", "pyright", "--pythonpath", str(python), *files]
        found, said = lines_with_errors(command, r"^ *(\S+?):(\d+):\d+ - error:", tmp_path)
    assert found == expected, said
