"""A topic that a person pauses: it waits whatever becomes of the replicas, others go on, and it goes on in order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from relay.cli import main
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.writers import Writers, fill
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic
    from tests.support.relay.process import RelayProcess


async def topics(here: Place, *arguments: str) -> None:
    """Run `relay topics`, which must work."""

    def run() -> None:
        done = CliRunner().invoke(main, ["topics", *arguments], env={"RELAY_POSTGRES_DSN": here.dsn})
        assert done.exit_code == 0, done.output

    await asyncio.to_thread(run)


async def receipts(here: Place, topic: str) -> int:
    count: int = await here.connection.fetchval(
        f"SELECT count(DISTINCT d.id) FROM {DELIVERIES} AS d JOIN outbox.event AS e USING (id) WHERE e.topic = $1",
        topic,
    )
    return count


async def delivered(here: Place, topic: str, events: int) -> None:
    """Write events of a topic, and wait until so many more have receipts."""
    before = await receipts(here, topic)
    await fill(here.connection, topic, events)

    async def there() -> bool:
        return await receipts(here, topic) >= before + events

    await until(f"{events} events of {topic} are delivered", there)


async def landed(here: Place, relay: RelayProcess) -> int:
    """Wait until events of the paused topic are held and nothing is in flight; the number of its receipts."""

    async def quiet() -> bool:
        held = await here.connection.fetchval("SELECT count(*) FROM outbox.held WHERE topic = $1", here.topic)
        return bool(held) and await relay.metric("inflight_events") == 0

    await until("its events are held, and nothing is in flight", quiet)
    return await receipts(here, here.topic)


@pytest.mark.slow
async def test_a_paused_topic_waits_through_a_crash_and_hand_overs_while_another_flows_and_goes_on_in_order(
    here: Place, make_topic: MakeTopic
) -> None:
    other = make_topic(1)
    async with Writers(here.dsn, here.topic, pause=0.01) as writers:
        async with here.relay(replica_name="one") as one:
            await writers.commit(50)
            await topics(here, "pause", here.topic, "--for", "1h", "--reason", "a test")
            assert (await one.logged("pause.began"))["reason"] == "a test"
            before = await landed(here, one)
            await delivered(here, other, 500)
            status, answer = await one.get("/readyz")
            assert (status, list(answer["paused_topics"]), answer["troubled_topics"]) == (200, [here.topic], {})
            assert (await one.metric("paused_topics"), await one.metric("troubled_topics")) == (1, 0)
            await one.kill()
        await here.relay_is_gone()
        await here.end_leases()
        async with here.relay(replica_name="two") as two:
            await two.logged("lanes.claimed")
            assert two.happened("pause.began"), "it claims no lane before it knows what is paused"
            await delivered(here, other, 500)
            async with here.relay(replica_name="three") as three:
                # Lanes with held events are handed over, and come back when it stops.
                await three.logged("lanes.claimed")
                await delivered(here, other, 500)
                await three.stop()
            await delivered(here, other, 500)
            await writers.commit(50)
            assert await receipts(here, here.topic) == before, "something of the paused topic was sent"
            await topics(here, "resume", here.topic)
            await two.logged("pause.ended")
            await writers.commit(50)
            await writers.end()
            await here.settled()
            assert (await two.get("/readyz"))[1].get("paused_topics") is None
            await two.stop()
    assert await here.check_everything() == []


async def test_a_pause_ends_by_itself_at_its_time(here: Place) -> None:
    async with here.relay() as relay:
        await relay.logged("lanes.claimed")
        await topics(here, "pause", here.topic, "--for", "2s")
        await relay.logged("pause.began")
        await fill(here.connection, here.topic, 200)
        # The hold is recorded, or the time was over before: then there is nothing to see of it.
        await relay.logged("pause.ended")
        await here.receipts_reach(200)
        await here.settled()
        await relay.stop()
    assert await here.check_everything() == []
