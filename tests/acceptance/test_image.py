"""The image of deploy/Dockerfile, run as compose, manifests and chart run it: locked up, and with little.

Size and memory are in the properties of a JUnit report (`--junitxml FILE`).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relay.local.ports import HOST, free_port
from relay.postgres.sql import migrations
from tests.acceptance.conftest import Place
from tests.support.containers import image as images
from tests.support.containers.podman import LIMITS, LOCKED_UP, command, podman, running, try_podman
from tests.support.postgres.load import Load
from tests.support.postgres.outbox import connected
from tests.support.postgres.writers import fill
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.conftest import MakeTopic
    from tests.support.containers.podman import Container
    from tests.support.servers import shared as servers

pytestmark = pytest.mark.proof

MOST_MEBIBYTES = 120
EVENTS = 100_000
GRACE = 40
LOCK = images.ROOT / "deploy/locks/runtime.txt"


@pytest.fixture(scope="module")
def image() -> str:
    return images.build()


@pytest.fixture(scope="module")
def facts(image: str) -> dict[str, Any]:
    """What podman knows of the image."""
    (found,) = json.loads(podman("inspect", image))
    known: dict[str, Any] = found
    return known


def run(image: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a container that is locked up."""
    return try_podman(*command(image, *arguments, env=env), timeout=120)


def locked() -> dict[str, str]:
    """The packages of the lock, with their versions."""
    return dict(re.findall(r"^([\w-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))


def test_it_runs_as_a_user_without_rights_and_needs_no_shell(image: str, facts: dict[str, Any]) -> None:
    assert facts["Config"]["User"] == "10001:10001"
    assert facts["Config"]["Entrypoint"] == ["relay"]
    assert facts["Config"]["Cmd"] == ["run"]
    no_shell = [part for shell in ("bash", "dash") for part in ("--volume", f"/dev/null:/usr/bin/{shell}:ro")]
    line = command(image, "version", env={}, options=(*LOCKED_UP, *no_shell))
    assert try_podman(*line).stdout.startswith("relay ")


def test_its_labels_say_what_it_is_and_where_from(facts: dict[str, Any]) -> None:
    project = tomllib.loads((images.ROOT / "pyproject.toml").read_text())["project"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in facts["Labels"].items()}
    assert labels["title"] == project["name"]
    assert labels["description"] == project["description"]
    assert labels["licenses"] == project["license"]
    assert labels["revision"] == images.COMMIT
    assert labels["version"] == "0.0.0-test"


def test_it_says_what_it_runs_which_is_what_the_lock_has(image: str) -> None:
    shown = json.loads(run(image, "version", "--json").stdout)
    assert shown["commit"] == images.COMMIT
    assert shown["schema"] == migrations()[-1].version
    assert shown["python_optimised"], "an interpreter without optimisation costs a quarter more CPU"
    assert shown["dependencies"].items() <= locked().items()
    assert "cramjam" in shown["dependencies"], "the extra for compression is missing"


def test_it_carries_the_list_of_what_is_in_it(image: str) -> None:
    read = run_python(image, "print(open('/opt/relay/sbom.cdx.json').read())")
    bill = json.loads(read)
    packages = {each["name"].lower().replace("_", "-"): each["version"] for each in bill["components"]}
    # Markers leave a few out, such as those of other platforms.
    assert locked().items() >= {name: number for name, number in packages.items() if name in locked()}.items()
    assert {"aiokafka", "asyncpg", "pydantic-core", "uvloop", "python"} <= packages.keys()
    assert any(each["purl"].startswith("pkg:deb/debian/libc6@") for each in bill["components"])
    assert bill["metadata"]["component"]["purl"].startswith("pkg:pypi/outbox-relay@")
    assert bill["dependencies"]

    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    schema = pytest.importorskip("cyclonedx.schema")
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(read) is None


def test_it_is_small(image: str, record_testsuite_property: Callable[[str, object], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        podman("save", "--format", "oci-archive", "--output", str(archive), image)
        size = len(gzip.compress(archive.read_bytes(), 6)) / 2**20
    record_testsuite_property("compressed MiB", size)
    assert size < MOST_MEBIBYTES


def test_it_has_compiled_what_the_relay_imports(image: str) -> None:
    look = (
        "import importlib.util, sys, relay.run.service, relay.cli.run; "
        "print([m.__name__ for m in sys.modules.values() if (f := getattr(m, '__file__', None)) and f.endswith('.py') "
        "and not __import__('os').path.exists(importlib.util.cache_from_source(f))])"
    )
    assert run_python(image, look).strip() == "[]"


def run_python(image: str, program: str) -> str:
    """Run a program with the image's Python."""
    options = (*LOCKED_UP, "--entrypoint", "/opt/relay/bin/python3")
    done = try_podman(*command(image, "-c", program, env={}, options=options))
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_it_migrates_delivers_answers_probes_and_drains_on_a_fifth_of_a_core(
    image: str,
    database: str,
    kafka: servers.Kafka,
    make_topic: MakeTopic,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    env = {"RELAY_POSTGRES_DSN": database, "RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
    env |= {"RELAY_HTTP_HOST": HOST, "RELAY_HTTP_PORT": str(free_port())}
    little = (*LOCKED_UP, *LIMITS)

    early = await asyncio.to_thread(try_podman, *command(image, env=env, options=little))
    assert early.returncode == 1
    assert "run `relay migrate`" in early.stdout + early.stderr
    for _ in range(2):
        done = await asyncio.to_thread(try_podman, *command(image, "migrate", env=env, options=little))
        assert done.returncode == 0, done.stderr
    assert "is up to date" in done.stdout

    async with connected(database) as connection:
        here = Place(database, kafka.bootstrap_servers, make_topic(4), connection)
        await fill(connection, here.topic, EVENTS, keys=5_000, payload_bytes=500)
        async with running(image, env=env, options=little) as relay:
            await until("the relay is ready", lambda: healthy(relay), timeout=60, interval=0.5)
            assert (await relay.run("relay", "health", "--live")).stdout == "alive\n"
            await here.settled(timeout=180)
            record_testsuite_property("MiB while 100,000 events are delivered", relay.peak_memory() / 2**20)
            async with Load(here.dsn, here.topic, rate=200) as load:
                await load.commit(400)
                assert await relay.stop(GRACE) == 0, relay.log()
                assert '"abandoned_events": 0' in relay.log(), relay.log()
        async with running(image, env=env, options=little) as relay:
            # Nothing may be left to deliver, and nobody hears a signal before Python has begun to run the relay.
            await until("the second relay is ready", lambda: healthy(relay), timeout=60, interval=0.5)
            await here.settled(timeout=60)
            assert await relay.stop(GRACE) == 0, relay.log()
        assert await here.check_everything() == [], "it drained: nothing is repeated"


async def test_events_of_a_megabyte_fit_into_192_mebibytes(
    image: str,
    database: str,
    kafka: servers.Kafka,
    make_topic: MakeTopic,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    env = {"RELAY_POSTGRES_DSN": database, "RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
    env |= {"RELAY_HTTP_HOST": HOST, "RELAY_HTTP_PORT": str(free_port())}
    done = await asyncio.to_thread(try_podman, *command(image, "migrate", env=env))
    assert done.returncode == 0, done.stderr
    async with connected(database) as connection:
        topic = make_topic(4)
        await fill(connection, topic, 300, keys=40, payload_bytes=900_000)
        here = Place(database, kafka.bootstrap_servers, topic, connection)
        async with running(image, env=env, options=(*LOCKED_UP, "--memory", "192m")) as relay:
            await until("the relay is ready", lambda: healthy(relay), timeout=60, interval=0.5)
            await here.settled(timeout=180)
            record_testsuite_property("MiB while events of 900 kB are delivered", relay.peak_memory() / 2**20)
            assert await relay.stop(GRACE) == 0, relay.log()


async def healthy(relay: Container) -> bool:
    """Whether `relay health` says so, beside it."""
    return (await relay.run("relay", "health")).returncode == 0
