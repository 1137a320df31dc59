"""podman's commands, as the machine that the tests run on needs them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECONDS = 900
LIMITS = ("--memory", "128m", "--cpus", "0.2")
"""What deploy/README.md says that a replica gets along with."""
LOCKED_UP = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges")
"""How compose, manifests and chart run it."""


def podman(*arguments: str, check: bool = True, timeout: float = SECONDS) -> str:
    """Run a command of podman and return what it printed."""
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def try_podman(*arguments: str, timeout: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a command of podman that may fail."""
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=timeout)


def how_to_run() -> list[str]:
    """Return the options of `podman run` that a sandbox may need, as those of the tests' machines are."""
    # A sandbox may not raise its limits, as podman would.
    options = ["--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
    # crun refuses the hybrid cgroups of some machines.
    return [*options, "--runtime", "runc"] if shutil.which("runc") else options


def how_to_build() -> list[str]:
    """Return the options of `podman build` that let it reach the package registry as this machine does."""
    options = ["--isolation", "chroot", "--network", "host"]
    certificates = Path("/etc/ssl/certs")
    return [*options, "--volume", f"{certificates}:{certificates}:ro"] if certificates.exists() else options


def command(image: str, *arguments: str, env: dict[str, str], options: tuple[str, ...] = LOCKED_UP) -> list[str]:
    """Return the command line, without podman itself, that runs `arguments` in a container that leaves nothing."""
    variables = [part for name, value in env.items() for part in ("--env", f"{name}={value}")]
    return ["run", "--rm", *how_to_run(), *options, *variables, image, *arguments]


class Container:
    """A container that runs in the background."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = int(self.inspect()["State"]["Pid"])
        """Of its process 1, as this machine numbers it."""

    def inspect(self) -> dict[str, Any]:
        """What podman knows of it."""
        (found,) = json.loads(podman("inspect", self.name))
        known: dict[str, Any] = found
        return known

    def log(self) -> str:
        """What it has printed so far."""
        done = try_podman("logs", self.name)
        return done.stdout + done.stderr

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside it, in the same container."""
        return await asyncio.to_thread(try_podman, "exec", self.name, *arguments)

    def peak_memory(self) -> int:
        """The most memory that its process has had, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    async def stop(self, grace: int) -> int:
        """Send SIGTERM, wait until it ends or `grace` seconds are over, and return the exit code."""
        await asyncio.to_thread(podman, "stop", "--time", str(grace), self.name)
        return int(self.inspect()["State"]["ExitCode"])


@asynccontextmanager
async def running(
    image: str, *arguments: str, env: dict[str, str], options: tuple[str, ...] = LOCKED_UP
) -> AsyncIterator[Container]:
    """A container in the background, removed at the end."""
    line = [part for part in command(image, *arguments, env=env, options=options) if part != "--rm"]
    name = (await asyncio.to_thread(podman, line[0], "--detach", *line[1:])).strip()
    try:
        yield Container(name)
    finally:
        await asyncio.to_thread(podman, "rm", "--force", "--time", "0", name)


def is_root() -> bool:
    """Whether this process may make devices and owners, as debootstrap does."""
    return os.geteuid() == 0
