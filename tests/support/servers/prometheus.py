"""A real Prometheus, and promtool: those on the PATH, or the ones of Debian's package, kept beside Kafka's jars."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relay.local.parts import cache_folder
from relay.local.ports import HOST, free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

FETCH_SECONDS = 120
START_SECONDS = 30.0
SCRAPE_INTERVAL = "250ms"


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; skip the test, saying why, if there is none to be had."""
    found = shutil.which(name)
    if found:
        return found
    kept = cache_folder() / "prometheus"
    if not (kept / "usr/bin" / name).exists():
        _fetch(kept)
    return str(kept / "usr/bin" / name)


def _fetch(kept: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("prometheus and promtool are not on the PATH, and there is no apt-get to fetch Debian's package")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".prometheus-") as folder:
        try:
            _run(["apt-get", "download", "prometheus"], folder)
            (package,) = Path(folder).glob("*.deb")
            _run(["dpkg-deb", "-x", package.name, "unpacked"], folder)
        except (subprocess.SubprocessError, ValueError) as error:
            pytest.skip(f"prometheus and promtool are not on the PATH, and Debian's package cannot be had: {error}")
        try:
            Path(folder, "unpacked").rename(kept)
        except OSError:
            # Another process was faster; its copy is as good.
            if not kept.exists():
                raise


def _run(command: Sequence[str], folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, timeout=FETCH_SECONDS, capture_output=True)


class Prometheus:
    """A running Prometheus, asked over its API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://{HOST}:{port}/api/v1"

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query: {"metric": labels, "value": [time, text]} each."""
        found: list[dict[str, Any]] = (await self._get("query", query=expression))["result"]
        return found

    async def query_range(self, expression: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series of a range query: {"metric": labels, "values": [[time, text], ...]} each."""
        parameters = {"query": expression, "start": f"{begin:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        found: list[dict[str, Any]] = (await self._get("query_range", **parameters))["result"]
        return found

    async def now(self) -> float:
        """Its clock, in unix seconds."""
        (series,) = await self.query("vector(time())")
        return float(series["value"][0])

    async def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = (await self._get("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        url = f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}"
        return await asyncio.to_thread(_read, url)


def _read(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
    return data


@asynccontextmanager
async def prometheus(folder: Path, targets: Sequence[int], rules: Path | None = None) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes these ports of this machine four times a second, as the job `outbox`."""
    config = {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [
            {"job_name": "outbox", "static_configs": [{"targets": [f"{HOST}:{port}" for port in targets]}]}
        ],
    }
    # JSON is YAML.
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={HOST}:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    server = Prometheus(port)

    async def answers() -> bool:
        if process.returncode is not None:
            raise AssertionError(f"Prometheus ended: {(folder / 'prometheus.log').read_text()}")
        try:
            return bool(await server.query("up == 1"))
        except OSError:
            return False

    try:
        await until("Prometheus has scraped something", answers, START_SECONDS)
        yield server
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
