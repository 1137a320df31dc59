"""Real Kafka without an installation: Java of a wheel, jars of Maven Central, one KRaft node in a folder."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import struct
import subprocess
import uuid
from typing import TYPE_CHECKING

from relay.local import ports
from relay.local.errors import LocalServerError
from relay.local.parts import KAFKA_VERSION, java_home, java_version, kafka_jars
from relay.local.process import ServerProcess
from relay.local.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

API_METADATA = 3
METADATA_VERSION = 2


_COLLECTOR = "-XX:+UseSerialGC"
"""Java's garbage collector. To G1, a produce request of some hundred KB is a humongous object in so small a heap: its
concurrent marking took five times the CPU of the broker's own work."""


class KafkaServer(Server):
    """One Kafka broker and controller on 127.0.0.1, without automatic creation of topics.

    `properties` are broker properties that are added to or replace the defaults, such as
    {"message.max.bytes": 2_000_000}; change them before a (re)start. `heap` is Java's -Xmx.
    """

    name = "Kafka"
    format_arguments: Sequence[str] = ()
    """Arguments of the tool that formats the storage, such as users that exist from the start."""
    java_arguments: Sequence[str] = ()
    """Further arguments of the Java that runs the broker, such as system properties."""

    def __init__(
        self,
        folder: Path | str,
        port: int | None = None,
        *,
        properties: Mapping[str, object] | None = None,
        version: str = KAFKA_VERSION,
        heap: str = "256m",
    ) -> None:
        super().__init__(folder, {"clients": port, "controller": None})
        self.properties: dict[str, object] = dict(properties or {})
        self.version = version
        self._heap = heap

    @property
    def bootstrap_servers(self) -> str:
        """host:port, as clients want it."""
        return f"{ports.HOST}:{self.port()}"

    def _launch(self, lock: int, timeout: float) -> ServerProcess:
        home = java_home()
        java = [str(home / "bin" / "java"), "-cp", os.pathsep.join(map(str, kafka_jars(self.version)))]
        java += [
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        ]
        if java_version(home) >= 24:
            # Otherwise every start warns about Kafka's use of sun.misc.Unsafe.
            java += ["--sun-misc-unsafe-memory-access=allow"]
        data = self.folder / "data"
        if not data.exists():
            self._format(java, data)
        process = ServerProcess(
            self.name,
            [
                *java,
                f"-Xmx{self._heap}",
                _COLLECTOR,
                *self.java_arguments,
                "kafka.Kafka",
                str(self._configuration(data)),
            ],
            log=self.log,
            lock=lock,
            stop_signal=signal.SIGTERM,
            env=dict(os.environ),
        )
        try:
            process.wait_until(self._serves, timeout)
        except BaseException:
            process.kill()
            raise
        return process

    def _configuration(self, data: Path) -> Path:
        clients, controller = self.port(), self.port("controller")
        properties: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{ports.HOST}:{controller}",
            "listeners": f"PLAINTEXT://{ports.HOST}:{clients},CONTROLLER://{ports.HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{ports.HOST}:{clients}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": data,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "auto.create.topics.enable": "false",
            # After a kill the controller refuses the new broker until the old one's session ends, by default
            # 9 s.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            **self.properties,
        }
        file = self.folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        return file

    def _format(self, java: list[str], data: Path) -> None:
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        format_storage = [
            "kafka.tools.StorageTool",
            "format",
            "-t",
            self._new_cluster_id(),
            "-c",
            str(self._configuration(new)),
            *self.format_arguments,
        ]
        made = subprocess.run(  # noqa: S603 our own arguments
            # The simplest compiler: this runs for a second.
            [*java, "-XX:TieredStopAtLevel=1", *format_storage],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise LocalServerError(
                f"Kafka's storage could not be created in {self.folder}: {(made.stderr or made.stdout).strip()}"
            )
        # Only whole data get the final name; an interrupted format is started over.
        new.rename(data)

    def _new_cluster_id(self) -> str:
        """Return a new id in Kafka's form of a UUID; a leading dash would be taken for an option."""
        return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")

    def _cluster_id(self) -> str:
        lines = (self.folder / "data" / "meta.properties").read_text().splitlines()
        return next(line.partition("=")[2] for line in lines if line.startswith("cluster.id="))

    def _serves(self) -> bool:
        """Return whether a broker of our cluster answers a request for metadata and names itself.

        An open port is not enough, because it opens before the broker takes requests. An answer alone is not enough
        either: another Kafka may have taken the port while ours is still starting.
        """
        client = b"relay-local"
        body = struct.pack("!hhih", API_METADATA, METADATA_VERSION, 1, len(client)) + client + struct.pack("!i", 0)
        try:
            with socket.create_connection((ports.HOST, self.port()), timeout=5) as connection:
                connection.sendall(struct.pack("!i", len(body)) + body)
                answer = connection.makefile("rb")
                with answer:
                    (size,) = struct.unpack("!i", answer.read(4))
                    content = answer.read(size)
        except (OSError, struct.error):
            return False
        return self.port() in _brokers(content) and self._cluster_id().encode() in content


def _brokers(answer: bytes) -> list[int]:
    """Return the brokers' ports in an answer to a request for metadata."""
    _, count = struct.unpack_from("!ii", answer)
    at = 8
    found = []
    for _ in range(count):
        (host_size,) = struct.unpack_from("!h", answer, at + 4)
        port, rack_size = struct.unpack_from("!ih", answer, at + 6 + host_size)
        found.append(port)
        at += 12 + host_size + max(0, rack_size)
    return found
