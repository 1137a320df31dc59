"""Lanes change hands at once: no beat is waited for. The leases here are so long that none falls into a test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from relay.decide import shares
from relay.keys import LANES
from tests.support.postgres.outbox import connected
from tests.support.relay.claiming import KEYS, LONG, owns, running
from tests.support.relay.stages import HandRelay, relay_connections, writer

if TYPE_CHECKING:
    import asyncpg


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine no replica is to be taken for a silent one."""
    monkeypatch.setattr(shares, "ORPHAN_AFTER", LONG)


async def owners(connection: asyncpg.Connection) -> dict[object, int]:
    return dict(await connection.fetch("SELECT owner, count(*) FROM outbox.lane GROUP BY owner"))


@pytest.mark.usefixtures("_patience")
async def test_a_replica_that_comes_gets_its_share_and_one_that_drains_leaves_it_to_the_others(outbox: str) -> None:
    async with running(outbox) as first, connected(outbox) as connection:
        await owns(first, LANES)
        async with running(outbox) as second:
            await owns(second, 8)
            async with running(outbox) as third:
                for relay, share in ((first, 6), (second, 5), (third, 5)):
                    await owns(relay, share)
                second.tenure.begin_drain()
                await owns(first, 8)
                await owns(third, 8)
                assert await owners(connection) == {first.tenure.replica: 8, third.tenure.replica: 8}


@pytest.mark.usefixtures("_patience")
async def test_each_lane_is_given_back_as_soon_as_it_is_settled(outbox: str) -> None:
    async with running(outbox) as first, writer(outbox) as service:
        await owns(first, LANES)
        await service.enqueue(KEYS[12])
        taken = await first.take_all()
        async with running(outbox) as second:
            await owns(second, 7)
            await first.settle(taken)
            await owns(second, 8)


@pytest.mark.usefixtures("_patience")
async def test_the_others_claim_the_lanes_of_one_that_drains_before_it_has_drained(outbox: str) -> None:
    async with running(outbox) as first, running(outbox) as second, writer(outbox) as service:
        await owns(first, 8)
        await owns(second, 8)
        (lane, *_) = first.tenure.lanes
        await service.enqueue(KEYS[lane])
        while not (taken := await first.take_all()):
            pass
        first.tenure.begin_drain()
        await owns(second, LANES - 1)
        assert list(first.tenure.lanes) == [lane]
        # Without it they would wait for half a second, whether somebody else claims what is no more than its share.
        draining = "SELECT draining FROM outbox.replica WHERE id = $1"
        assert await service.connection.fetchval(draining, first.tenure.replica)
        await first.settle(taken)
        await owns(second, LANES)


@pytest.mark.slow
@pytest.mark.usefixtures("_patience")
async def test_the_lanes_of_a_dead_replica_are_claimed_when_its_lease_ends_and_not_at_the_next_beat(
    outbox: str,
) -> None:
    async with running(outbox, lease=8.0) as doomed:
        await owns(doomed, LANES)
        async with running(outbox) as survivor:
            await owns(survivor, 8)
            replica = doomed.tenure.replica
            doomed.disconnect()
            await owns(survivor, LANES)
            async with connected(outbox) as connection:
                late = await connection.fetchval(
                    "SELECT extract(epoch FROM max(l.claimed_at) - r.lease_expires_at)::float8"
                    " FROM outbox.lane AS l, outbox.replica AS r WHERE r.id = $1 GROUP BY r.lease_expires_at",
                    replica,
                )
            assert 0 < late < 5


async def test_lanes_that_were_given_back_for_a_replica_that_died_are_claimed_again_at_once(outbox: str) -> None:
    async with running(outbox) as survivor:
        await owns(survivor, LANES)
        async with relay_connections(outbox) as connections:
            doomed = HandRelay(connections, lease=LONG)
            await doomed.claim.register(None)
        await owns(survivor, 8)
        await owns(survivor, LANES)


@pytest.mark.usefixtures("_patience")
async def test_two_replicas_that_find_the_same_lanes_free_share_them_without_waiting_for_a_beat(outbox: str) -> None:
    """Both try the first ones; who was slower has to look again."""
    async with connected(outbox) as connection, running(outbox) as first, running(outbox) as second:
        await owns(first, 8)
        await owns(second, 8)
        # First, or a look in between would find that what they own was taken from them.
        for relay in (first, second):
            for lane in list(relay.tenure.lanes):
                relay.tenure.remove_lane(lane)
        await connection.execute("UPDATE outbox.lane SET owner = NULL, claimed_at = NULL, epoch = epoch + 1")
        await connection.execute("SELECT pg_notify('outbox', 'lanes')")
        await owns(first, 8)
        await owns(second, 8)


@pytest.mark.usefixtures("_patience")
async def test_a_lane_that_somebody_keeps_locked_is_not_tried_all_the_time(outbox: str) -> None:
    async with connected(outbox) as other:
        await other.execute("BEGIN")
        await other.execute("SELECT FROM outbox.lane WHERE lane = 5 FOR UPDATE")
        async with running(outbox) as relay:
            await owns(relay, LANES - 1)
            tries = 0
            claim = relay.control.claim

            async def counted(*arguments: Any) -> Any:
                nonlocal tries
                tries += 1
                return await claim(*arguments)

            relay.control.claim = counted  # type: ignore[assignment,method-assign]
            await asyncio.sleep(3)
            assert 0 < tries < 15
            await other.execute("COMMIT")
            await owns(relay, LANES)
