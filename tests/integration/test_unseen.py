"""An event that the relay has passed without a trace of it is found and shouted, on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.decide.check_sample import Coverage
from relay.decide.chores import CHECK
from relay.postgres.admin.status import read_status
from relay.postgres.flow.housekeeping import HousekeepingConnection
from relay.run.health import Health
from relay.settings import HealthSettings
from relay.stages.housekeeping.check import Check, UnseenEventsError
from relay.stages.housekeeping.ports import PutOff
from relay.telemetry import Telemetry
from tests.support.events import ids
from tests.support.postgres.outbox import concerns, migrated
from tests.support.postgres.receipts import add_receipt
from tests.support.relay.stages import HandRelay, Row, hand_relay, lane_of, relay_connections, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.relay.stages import Writer

LANE = lane_of("k")


class Checked:
    """Ten delivered events below the position, and one that fails, and the check on them."""

    def __init__(self, relay: HandRelay, service: Writer) -> None:
        self.relay = relay
        self.service = service
        self.telemetry = Telemetry()
        self.health = Health(HealthSettings(), 0.0)
        self.health.postgres_ok()
        self.health.kafka_ok()
        self.health.listen_to(self.telemetry)
        self.check = Check(Coverage(0.0), self.telemetry)
        self.port = HousekeepingConnection(relay.connections["control"], "outbox")
        self.events: list[Row] = []

    async def begin(self) -> None:
        self.events = [await self.service.enqueue() for _ in range(10)]
        await self.relay.settle(await self.relay.take_all())
        await self.relay.take_all()
        await self.relay.claim.beat()

    async def look(self) -> None:
        await self.check.look(self.port)

    async def sql(self, statement: str) -> None:
        await self.service.connection.execute(statement)

    def reasons(self) -> list[str]:
        return self.health.ready(0.0)


@pytest.fixture
async def checked(database: str, with_outbox: None) -> AsyncIterator[Checked]:
    async with migrated(database), hand_relay(database) as relay, writer(database) as service:
        checked = Checked(relay, service)
        await checked.begin()
        yield checked


async def test_nothing_is_said_of_events_that_are_delivered_failed_held_or_not_reached_yet(checked: Checked) -> None:
    failed, held = checked.events[2], checked.events[5]
    await checked.sql(f"DELETE FROM outbox.receipt WHERE max_id IN ({failed.id}, {held.id})")
    await checked.sql(
        "INSERT INTO outbox.failure (lane, id, topic, state, attempts, error, policy)"
        f" VALUES ({LANE}, {failed.id}, 'orders', 'failed', 1, 'MessageSizeTooLarge', 'block')"
    )
    await checked.sql(f"INSERT INTO outbox.held (lane, id, topic) VALUES ({LANE}, {held.id}, 'orders')")
    await checked.service.enqueue()
    await checked.look()
    assert checked.reasons() == []
    assert checked.telemetry.value("unseen_events") == 0


async def test_an_event_whose_receipt_was_deleted_is_shouted_until_it_is_mended(checked: Checked) -> None:
    lost = checked.events[4]
    await checked.sql(f"DELETE FROM outbox.receipt WHERE max_id = {lost.id}")
    for _ in range(2):
        with pytest.raises(UnseenEventsError, match=f"1 event below the lane's position .* id {lost.id};"):
            await checked.look()
    assert checked.telemetry.value("unseen_events") == 1
    (reason,) = checked.reasons()
    assert reason.startswith("the relay has passed events that it has not seen: 1 event below")
    assert f"id {lost.id}" in reason
    await add_receipt(checked.service.connection, lost.id)
    await checked.look()
    assert checked.reasons() == []
    assert checked.telemetry.value("unseen_events") == 0


async def test_status_says_which_events_a_replica_has_found(checked: Checked) -> None:
    await checked.sql(f"DELETE FROM outbox.receipt WHERE max_id = {checked.events[4].id}")
    with pytest.raises(UnseenEventsError) as caught:
        await checked.look()
    found = PutOff(CHECK, 90.0, str(caught.value))
    await checked.port.show_put_off(checked.relay.tenure.replica, [found])
    status = await read_status(checked.service.connection)
    assert any(f"id {checked.events[4].id};" in concern and "(found " in concern for concern in concerns(status))


async def test_an_event_that_appeared_behind_the_position_is_published_once_the_lane_begins_below_it(
    checked: Checked, database: str
) -> None:
    """What the run book says is to be done: hidden as by a policy, it was not there when the relay read."""
    hidden = checked.events[-1].id
    await checked.sql(f"DELETE FROM outbox.receipt WHERE max_id = {hidden}")
    with pytest.raises(UnseenEventsError):
        await checked.look()
    await checked.sql(f"UPDATE outbox.lane SET position = {hidden} - 1 WHERE lane = {LANE}")
    async with relay_connections(database) as connections:
        again = HandRelay(connections)
        await again.start(former=checked.relay.tenure.replica)
        assert ids(await again.take_all()) == [hidden]
        await again.settle(again.taken)
    await checked.look()
    assert checked.reasons() == []


async def test_many_events_of_which_nothing_is_recorded_are_counted_and_a_few_of_them_named(checked: Checked) -> None:
    await checked.sql("DELETE FROM outbox.receipt")
    with pytest.raises(UnseenEventsError, match=r"10 events .* id 1, 2, 3, 4, 5, \.\.\.;"):
        await checked.look()
