"""A service that enqueues must not load, or even need, what the relay needs."""

from __future__ import annotations

import json
import subprocess
import sys

IMPORT = "import json, sys; import relay.enqueue, relay.enqueue.with_asyncpg; print(json.dumps(sorted(sys.modules)))"


def test_importing_enqueue_loads_neither_kafka_nor_the_service() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    packages = {name.partition(".")[0] for name in loaded}
    assert "asyncpg" in packages
    assert not packages & {
        "aiokafka",
        "pydantic",
        "pydantic_settings",
        "click",
        "rich",
        "structlog",
        "prometheus_client",
    }
    ours = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("relay.")}
    assert ours == {"relay.enqueue", "relay.errors", "relay.headers", "relay.names", "relay.postgres"}


def test_the_driver_is_loaded_only_for_its_connections() -> None:
    code = "import sys, relay.enqueue; sys.exit('asyncpg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
