"""The chart's resources applied in order, as Helm and a kubelet do: the Job, then replicas, their probes and their end.

No cluster is needed: a container gets the command, the variables, the files and the limits that the chart gives it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from relay.local.ports import HOST, free_port
from tests.acceptance.conftest import Place
from tests.support.containers import image as images
from tests.support.containers.podman import command, running, try_podman
from tests.support.containers.pods import container_of, of_kind, pod_of, variables, write_volumes
from tests.support.go_tools import go_tool
from tests.support.postgres.load import Load
from tests.support.postgres.outbox import connected
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeTopic
    from tests.support.containers.podman import Container
    from tests.support.containers.pods import Resource
    from tests.support.servers import shared as servers

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def image() -> str:
    return images.build()


class Cluster:
    """What applies the chart with one file of values: it mounts secrets, runs pods and asks their probes."""

    def __init__(self, image: str, resources: list[Resource], secrets: dict[str, dict[str, str]], folder: Path) -> None:
        self.resources = resources
        self._image = image
        self._secrets = secrets
        self._folder = folder

    def options(self, resource: Resource) -> tuple[str, ...]:
        """The options of podman that stand for what the manifest says of a container."""
        container = container_of(resource)
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        options = ["--read-only", "--security-opt", "no-new-privileges"]
        options += [part for name in security["capabilities"]["drop"] for part in ("--cap-drop", name)]
        options += ["--user", "{runAsUser}:{runAsGroup}".format(**pod_of(resource)["securityContext"])]
        options += ["--memory", container["resources"]["limits"]["memory"].replace("Mi", "m")]
        folder = self._folder / resource["metadata"]["name"]
        folder.mkdir(exist_ok=True)
        for place, files in write_volumes(resource, self._secrets, folder).items():
            for file in files.iterdir():
                os.chown(file, 0, pod_of(resource)["securityContext"]["fsGroup"])
                file.chmod(0o440)
            options += ["--volume", f"{files}:{place}:ro"]
        return tuple(options)

    async def migrate(self) -> str:
        """Run the hook's Job to its end, which must be a good one."""
        (job,) = of_kind(self.resources, "Job")
        env = variables(job, self.resources)
        line = command(self._image, *container_of(job)["args"], env=env, options=self.options(job))
        deadline = job["spec"]["activeDeadlineSeconds"]
        done = await asyncio.to_thread(try_podman, *line, timeout=deadline)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @asynccontextmanager
    async def replica(self, name: str) -> AsyncIterator[tuple[Container, int]]:
        """A pod of the Deployment, and the port of its probes, which no other pod on this host may have."""
        (deployment,) = of_kind(self.resources, "Deployment")
        port = free_port()
        env = variables(deployment, self.resources, name) | {"RELAY_HTTP_HOST": HOST, "RELAY_HTTP_PORT": str(port)}
        options = self.options(deployment)
        async with running(self._image, *container_of(deployment)["args"], env=env, options=options) as container:
            yield container, port

    async def probed(self, kind: str, port: int) -> bool:
        """Whether a probe of the Deployment succeeds."""
        probe: dict[str, Any] = container_of(of_kind(self.resources, "Deployment")[0])[kind]
        url = f"http://{HOST}:{port}{probe['httpGet']['path']}"
        timeout = aiohttp.ClientTimeout(total=probe["timeoutSeconds"])
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


def render(folder: Path, bootstrap_servers: str) -> list[Resource]:
    """The chart's resources for servers of ours."""
    yaml = pytest.importorskip("yaml")
    values = folder / "values.yaml"
    values.write_text(
        f"settings: {{RELAY_KAFKA_BOOTSTRAP_SERVERS: {bootstrap_servers}, RELAY_REPLICA_LEASE: 11}}\n"
        "secrets: {RELAY_POSTGRES_DSN: {name: outbox-relay, key: postgres-dsn}}\n"
        "migrate: {secrets: {RELAY_POSTGRES_DSN: {name: outbox-migrate, key: dsn}}}\n"
    )
    line = [go_tool("helm"), "template", "outbox", str(ROOT / "deploy/helm/outbox-relay"), "--kube-version", "1.29"]
    done = subprocess.run([*line, "--values", str(values)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


async def test_the_charts_resources_migrate_relay_and_are_replaced_without_a_repeat(
    image: str, database: str, kafka: servers.Kafka, make_topic: MakeTopic, tmp_path: Path
) -> None:
    secrets = {"outbox-relay": {"postgres-dsn": f"{database}\n"}, "outbox-migrate": {"dsn": f"{database}\n"}}
    cluster = Cluster(image, render(tmp_path, kafka.bootstrap_servers), secrets, tmp_path)
    assert "applied 0001 outbox" in await cluster.migrate()
    assert "applied" not in await cluster.migrate(), "the same release may be applied again"
    grace = pod_of(of_kind(cluster.resources, "Deployment")[0])["terminationGracePeriodSeconds"]

    async with connected(database) as connection:
        here = Place(database, kafka.bootstrap_servers, make_topic(4), connection)
        async with cluster.replica("outbox-relay-a") as (first, port):
            await until("it has started", lambda: cluster.probed("startupProbe", port), timeout=60, interval=0.5)
            await until("it is ready", lambda: cluster.probed("readinessProbe", port), timeout=60, interval=0.5)
            async with Load(here.dsn, here.topic, rate=300) as load:
                await load.commit(600)
                async with cluster.replica("outbox-relay-b") as (second, other):
                    await until(
                        "it is ready", lambda: cluster.probed("readinessProbe", other), timeout=60, interval=0.5
                    )
                    owners = "SELECT array_agg(DISTINCT name ORDER BY name) FROM outbox.replica"
                    assert await connection.fetchval(owners) == ["outbox-relay-a", "outbox-relay-b"]
                    assert await first.stop(grace) == 0, first.log()
                    await load.commit(600)
                    assert await cluster.probed("livenessProbe", other)
                    await here.settled(timeout=60)
                    assert await second.stop(grace) == 0, second.log()
        async with cluster.replica("outbox-relay-c") as (third, port):
            await here.settled(timeout=60)
            assert await third.stop(grace) == 0, third.log()
        assert await here.check_everything() == []
