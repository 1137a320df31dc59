"""`relay verify` beside a real relay: an honest topic has no findings, with retention, compaction and crashes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from relay.local import create_topic
from tests.acceptance.conftest import place
from tests.support.kafka.consumer import read_topic
from tests.support.postgres.writers import Writers, fill
from tests.support.promises import first_occurrences
from tests.support.relay.process import environment
from tests.support.waiting import until

if TYPE_CHECKING:
    from relay.local import KafkaServer
    from tests.acceptance.conftest import Place
    from tests.support.servers import shared as servers


async def verify(here: Place, *arguments: str) -> tuple[int, dict[str, int]]:
    """Run the command; its exit code, and what it counted that is not zero."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "verify", "--topic", here.topic, "--json", *arguments),
        env=environment(postgres_dsn=here.dsn, kafka_bootstrap_servers=here.bootstrap_servers),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out, err
    (topic,) = json.loads(out)["topics"]
    return process.returncode or 0, {kind: number for kind, number in topic["counts"].items() if number}


@pytest.mark.slow
async def test_after_a_crash_the_repeats_are_counted_and_nothing_else_is_wrong(here: Place) -> None:
    async with AsyncExitStack() as stack:
        async with Writers(here.dsn, here.topic) as writers:
            async with here.relay() as relay:
                await writers.commit(200)
                relay.signal(signal.SIGKILL)
            await stack.enter_async_context(here.relay())
            await writers.commit(50)
        await here.settled()
        code, counts = await verify(here)
    records = await read_topic(here.bootstrap_servers, here.topic)
    repeats = len(records) - len(first_occurrences(records))
    assert counts.pop("repeated", 0) == repeats
    assert code == (1 if repeats else 0)
    assert list(counts) == ["in_place"]
    assert (await verify(here, "--allow", "repeated"))[0] == 0


@pytest.mark.slow
async def test_an_honest_topic_that_is_compacted_has_no_findings(
    postgres: servers.Postgres, own_kafka: KafkaServer, database: str
) -> None:
    configs: dict[str, Any] = {
        "cleanup.policy": "compact",
        "segment.ms": 1_000,
        "min.cleanable.dirty.ratio": 0.001,
        "delete.retention.ms": 0,
    }
    await create_topic(own_kafka.bootstrap_servers, "compacted", partitions=2, configs=configs)
    async with place(database, own_kafka.bootstrap_servers, "compacted") as here, here.relay():
        counts: dict[str, int] = {}

        async def compacted() -> bool:
            # The segment that is written to is not cleaned: others come after it.
            nonlocal counts
            await fill(here.connection, here.topic, 200)
            await here.settled()
            code, counts = await verify(here)
            assert code == 0, counts
            return counts.get("compacted_away", 0) > 0

        await until("Kafka has compacted the topic", compacted, 120)
    assert set(counts) == {"in_place", "compacted_away"}
