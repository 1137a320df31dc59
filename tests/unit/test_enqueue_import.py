"""A service that enqueues must not load, or even need, what the relay and the other clients need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

OF_THE_RELAY = {
    *("aiohttp", "aiokafka", "click", "prometheus_client", "pydantic", "pydantic_settings", "rich", "structlog"),
    *("tenacity", "uvloop"),
}
CLIENTS = {"asyncpg", "psycopg", "psycopg2", "sqlalchemy", "django"}
SLOW = {"typing", "pathlib", "traceback", "importlib.resources", "logging", "asyncio"}


def loaded_by(module: str) -> set[str]:
    """All modules that are there after an import in a new process, which has nothing of the environment before."""
    code = f"import sys; before = set(sys.modules); import {module}; import json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=ENV)
    return set(json.loads(done.stdout))


ENV = {"PYTHONPATH": ":".join(path for path in sys.path if path)}


def test_importing_enqueue_needs_the_standard_library_alone() -> None:
    loaded = loaded_by("relay.enqueue")
    assert {name for name in loaded if name.startswith("relay.")} == {
        *("relay.enqueue", "relay.enqueue.arguments", "relay.enqueue.contract", "relay.enqueue.dispatch"),
        *("relay.enqueue.event", "relay.enqueue.typed", "relay.enqueue.wake_up"),
        *("relay.errors", "relay.headers", "relay.names"),
    }
    packages = {name.partition(".")[0] for name in loaded}
    assert packages - sys.stdlib_module_names - {"relay", "__main__"} == set()


def test_importing_enqueue_leaves_the_slow_parts_of_the_standard_library_alone() -> None:
    assert loaded_by("relay.enqueue") & SLOW == set()


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_each_clients_module_loads_that_client_and_nothing_of_the_relay(client: str) -> None:
    pytest.importorskip(client)
    loaded = loaded_by(f"relay.enqueue.{client}")
    packages = {name.partition(".")[0] for name in loaded}
    assert packages & CLIENTS <= {client}
    assert not packages & OF_THE_RELAY
    ours = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("relay.")}
    assert ours == {"relay.enqueue", "relay.errors", "relay.headers", "relay.names"}
