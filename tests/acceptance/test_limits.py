"""A topic with a limited rate: it goes at that rate and in order, and no other topic goes slower for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from relay.postgres.admin.status import read_status
from tests.support.kafka.consumer import read_topic
from tests.support.postgres.outbox import concerns
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.writers import Writers, fill
from tests.support.promises import check_first_occurrences_in_order
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic

RATE = 200
BACKLOG = 3_000
"""Events of the limited topic: more than the buffer holds, and fifteen seconds of its rate."""


async def receipts(here: Place, topic: str) -> int:
    count: int = await here.connection.fetchval(
        f"SELECT count(DISTINCT d.id) FROM {DELIVERIES} AS d JOIN outbox.event AS e USING (id) WHERE e.topic = $1",
        topic,
    )
    return count


@pytest.mark.slow
async def test_a_limited_topic_keeps_its_rate_and_order_and_its_backlog_is_in_nobodys_way(
    here: Place, make_topic: MakeTopic
) -> None:
    slow, other = here.topic, make_topic(4)
    limits = f"{slow}={RATE}/s"
    async with here.relay(publish_limits=limits, buffer_max_events=2_000) as relay:
        await relay.logged("lanes.claimed")
        began = time.monotonic()
        await fill(here.connection, slow, BACKLOG)
        async with Writers(here.dsn, slow, pause=0.05) as writers:
            # All of the other topic goes through while most of the backlog waits.
            await fill(here.connection, other, 10_000)

            async def others_are_through() -> bool:
                return await receipts(here, other) == 10_000

            await until("the other topic's events are through", others_are_through, 60)
            through = await receipts(here, slow)
            seconds = time.monotonic() - began
            # Two seconds' worth is what a burst and the batches under way may be ahead, on any machine.
            assert through <= RATE * (seconds + 2)
            assert through < BACKLOG, "the backlog was over before the others were through: the limit does nothing"
            assert await relay.metric("limited_events_total") > 0
            assert await relay.unready_because() == []

            async def told() -> bool:
                return slow in (await read_status(here.connection)).limited

            await until("people are told of the limit", told)
            assert not [each for each in concerns(await read_status(here.connection)) if slow in each]
            await writers.end()
        await here.settled(120)
        assert time.monotonic() - began >= BACKLOG / RATE - 2
        await relay.stop()
    assert await here.check_everything() == []
    check_first_occurrences_in_order(await read_topic(here.bootstrap_servers, other))
