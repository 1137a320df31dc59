"""One row that cannot be read, or whose outcome cannot be recorded: set aside and shown, the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.conftest import Place, place
from tests.support.kafka.consumer import read_topic
from tests.support.postgres.receipts import DELIVERY_OF_EACH
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers

UNLUCKY = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM outbox.places(NEW.ids) AS p WHERE NEW.min_id + p.difference = {}) THEN
        RAISE EXCEPTION 'an unlucky receipt' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER unlucky BEFORE INSERT ON outbox.receipt FOR EACH ROW EXECUTE FUNCTION refuse();
"""
"""Every receipt is refused that names an event, as by a constraint that somebody has added."""

EVENTS = 60
KEYS = 6


@pytest.fixture
async def here(sql_ascii: str, kafka: servers.Kafka, make_topic: MakeTopic) -> AsyncIterator[Place]:
    """An outbox in a database that takes any byte as text: there a row can be made unreadable."""
    async with place(sql_ascii, kafka.bootstrap_servers, make_topic(4)) as made:
        yield made


async def write(here: Place, first: int, events: int = EVENTS) -> list[int]:
    """Events of several keys, their numbers as payloads; returns their ids."""
    rows = await here.connection.fetch(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT $1, convert_to('k' || i % $4::int, 'UTF8'), convert_to(i::text, 'UTF8')"
        " FROM generate_series($2::int, $2::int + $3::int - 1) AS i RETURNING id",
        here.topic,
        first,
        events,
        KEYS,
    )
    return [row[0] for row in rows]


async def make_unreadable(here: Place, id_: int) -> None:
    """As rows are that a writer got in before the outbox refused them: a type that is not UTF-8."""
    await here.connection.execute("ALTER TABLE outbox.event DROP CONSTRAINT IF EXISTS event_utf8")
    await here.connection.execute(
        r"UPDATE outbox.event SET type = convert_from('\x636166e9'::bytea, 'SQL_ASCII') WHERE id = $1", id_
    )


async def numbers(here: Place, key: int) -> list[int]:
    records = await read_topic(here.bootstrap_servers, here.topic)
    return [int(record.value or b"") for record in records if record.key == b"k%d" % key]


async def test_an_event_that_cannot_be_read_fails_alone_and_its_key_waits_behind_it(here: Place) -> None:
    ids = await write(here, 0)
    await make_unreadable(here, ids[31])
    async with here.relay() as relay:
        failed = await relay.logged("event.failed")
        assert failed["id"] == ids[31]
        assert "cannot be read" in failed["error"]
        ids += await write(here, EVENTS)
        behind = {id_ for id_ in ids[31:] if ids.index(id_) % KEYS == 31 % KEYS}
        await here.receipts_reach(len(ids) - len(behind))
        assert await here.connection.fetchval("SELECT array_agg(id) FROM outbox.failure") == [ids[31]]

        async def all_held() -> bool:
            held = await here.connection.fetch("SELECT id FROM outbox.held")
            return {row[0] for row in held} == behind - {ids[31]}

        await until("what is behind it is held", all_held)

        # Replayed as it is, it fails once more; mended and replayed, it goes on in its place.
        await replay(here)

        async def failed_again() -> bool:
            return bool(await here.connection.fetchval("SELECT attempts = 2 AND state = 'failed' FROM outbox.failure"))

        await until("it has failed again", failed_again)
        await here.connection.execute("UPDATE outbox.event SET type = NULL WHERE id = $1", ids[31])
        await replay(here)
        await here.settled()
        await relay.stop()
        assert not relay.happened("tenure.failing")
        assert not relay.texts()
    for key in range(KEYS):
        assert await numbers(here, key) == list(range(key, 2 * EVENTS, KEYS))


async def replay(here: Place) -> None:
    await here.connection.execute("UPDATE outbox.failure SET state = 'replaying'")
    await here.connection.execute("SELECT outbox.wake_up()")


async def test_several_that_cannot_be_read_are_found_at_a_take_over_too(here: Place) -> None:
    ids = await write(here, 0, 300)
    # The sweep of a take-over goes up to the highest id with a receipt.
    last = "(SELECT DISTINCT ON (lane) id FROM outbox.event ORDER BY lane, id DESC)"
    await here.connection.execute(DELIVERY_OF_EACH.format(offset="-1", events=last))
    bad = [ids[3], ids[100], ids[101], ids[200]]
    for id_ in bad:
        await make_unreadable(here, id_)
    async with here.relay(failure_policy="skip") as relay:
        await relay.logged("event.failed", len(bad))
        await here.receipts_reach(len(ids) - len(bad))
        assert sorted(await here.connection.fetchval("SELECT array_agg(id) FROM outbox.failure")) == bad
        await relay.stop()
        assert not relay.happened("tenure.failing")


async def test_a_receipt_that_is_refused_is_set_aside_and_the_position_stays_below_it(here: Place) -> None:
    ids = await write(here, 0)
    await here.connection.execute(UNLUCKY.format(ids[20]))
    lane = await here.connection.fetchval("SELECT lane FROM outbox.event WHERE id = $1", ids[20])
    async with here.relay() as relay:
        line = await relay.logged("event.unrecorded")
        assert line["id"] == ids[20]
        ids += await write(here, EVENTS)
        await here.receipts_reach(len(ids) - 1)
        await relay.unready_for("the outcome of some events (1) cannot be recorded: the statement settle")
        assert await relay.metric("unrecorded_events") == 1
        assert await here.connection.fetchval("SELECT position FROM outbox.lane WHERE lane = $1", lane) < ids[20]
        await here.connection.execute("DROP TRIGGER unlucky ON outbox.receipt")
        await here.settled()
        await relay.ready()
        await relay.stop()
        assert not relay.happened("tenure.failing")
        assert len(relay.happened("event.unrecorded")) == 1
    for key in range(KEYS):
        assert await numbers(here, key) == list(range(key, 2 * EVENTS, KEYS))


async def test_a_failure_that_is_refused_keeps_its_key_closed_and_the_others_go_on(
    here: Place, make_topic: MakeTopic
) -> None:
    here.topic = make_topic(1, **{"max.message.bytes": 2_000})
    ids = await write(here, 0, 20)
    await here.connection.execute(
        "CREATE FUNCTION raises() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = 'ZX001'; END $$;"
        " CREATE TRIGGER raises BEFORE INSERT ON outbox.failure EXECUTE FUNCTION raises()"
    )
    await here.connection.execute(
        "UPDATE outbox.event SET payload = convert_to(rpad('8 ', 3000, md5('x')), 'UTF8') WHERE id = $1", ids[8]
    )
    async with here.relay() as relay:
        line = await relay.logged("event.unrecorded")
        assert (line["id"], "not today" in line["error"]) == (ids[8], True)
        ids += await write(here, 20, 20)
        behind = {id_ for id_ in ids[8:] if ids.index(id_) % KEYS == 8 % KEYS}
        await here.receipts_reach(len(ids) - len(behind))
        assert not relay.happened("tenure.failing")
        await here.connection.execute("DROP TRIGGER raises ON outbox.failure")

        async def recorded() -> bool:
            return bool(await here.connection.fetchval("SELECT count(*) FROM outbox.failure"))

        await until("the failure is recorded", recorded)
        assert await here.receipts() == len(ids) - len(behind), "its key was not closed"
        await relay.stop()
