"""What stands in the way of housekeeping stands in the way of nothing else, and is named until it is gone."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest

from relay.postgres.admin.failures import Failures
from relay.postgres.admin.migrate import make_roles
from relay.postgres.admin.status import read_status
from tests.support.kafka.consumer import read_topic
from tests.support.kafka.topics import alter_topic
from tests.support.postgres.outbox import add_event, concerns
from tests.support.postgres.writers import fill
from tests.support.relay.process import relay_run
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place
    from tests.support.relay.process import RelayProcess

NEWEST = 5_000_500
"""Beyond the segment that `relay migrate` makes: it can be dropped, and others have to be made."""


class Cause(NamedTuple):
    """Something another team does to the database; statements of a superuser."""

    begin: str
    end: str
    chore: str
    error: str


FORBID = """
CREATE FUNCTION change_freeze() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no {what} during the freeze'; END
$$;
CREATE EVENT TRIGGER change_freeze ON {when} EXECUTE FUNCTION change_freeze();
"""
ALLOW = "DROP EVENT TRIGGER change_freeze; DROP FUNCTION change_freeze();"

CAUSES = {
    "a view on a segment": Cause(
        "CREATE VIEW report AS SELECT * FROM outbox.event_1", "DROP VIEW report", "drop segments", "depend on it"
    ),
    "an event trigger that forbids DROP": Cause(
        FORBID.format(what="drop", when="sql_drop"), ALLOW, "drop segments", "no drop during the freeze"
    ),
    "an event trigger that forbids all DDL": Cause(
        FORBID.format(what="ddl", when="ddl_command_start"), ALLOW, "make segments", "no ddl during the freeze"
    ),
    "a function whose right was revoked": Cause(
        "REVOKE EXECUTE ON FUNCTION outbox.add_segment FROM outbox_relay",
        "GRANT EXECUTE ON FUNCTION outbox.add_segment TO outbox_relay",
        "make segments",
        "permission denied for function add_segment",
    ),
    "an old reader": Cause(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox.event",
        "COMMIT",
        "make segments",
        "the session with pid ",
    ),
    "a prepared transaction": Cause(
        "BEGIN; SELECT count(*) FROM outbox.event; PREPARE TRANSACTION 'forgotten'",
        "ROLLBACK PREPARED 'forgotten'",
        "make segments",
        "the prepared transaction 'forgotten' (role postgres",
    ),
    "a table whose right was revoked": Cause(
        "REVOKE DELETE ON outbox.replay_receipt FROM outbox_relay",
        "GRANT DELETE ON outbox.replay_receipt TO outbox_relay",
        "forget replays",
        "permission denied for table replay_receipt",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
async def test_events_flow_whatever_stands_in_the_way_of_housekeeping(here: Place, cause: Cause) -> None:
    await make_roles(here.connection)
    role = f"relay_{secrets.token_hex(4)}"
    await here.connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' IN ROLE outbox_relay")
    others = await asyncpg.connect(here.dsn)
    await others.execute(cause.begin)
    await here.connection.execute(f"SELECT setval('outbox.event_id', {NEWEST})")
    server = urlsplit(here.dsn)
    dsn = server._replace(netloc=f"{role}:secret@{server.netloc.rpartition('@')[2]}").geturl()
    try:
        async with relay_run(
            dsn,
            here.bootstrap_servers,
            replica_name="one",
            replica_lease=6,
            kafka_request_timeout=2,
            segment_ids=10_000,
            segment_retention=0,
            segment_check_interval=0.2,
        ) as relay:
            told = await relay.logged("housekeeping.put_off")
            assert told["chore"] == cause.chore
            assert cause.error in told["error"]
            await fill(here.connection, here.topic, 100)
            await here.settled()
            await until("it is tried again", lambda: at_least(relay, "housekeeping_failures_total", 3))
            assert await relay.metric("housekeeping_overdue_seconds") > 0
            (concern,) = [line for line in concerns(await read_status(here.connection)) if cause.chore in line]
            assert "replica one" in concern
            assert cause.error in concern
            assert await relay.unready_because() == []

            await others.execute(cause.end)
            await relay.logged("housekeeping.works_again")
            await until("the old segment is dropped", lambda: at_least(relay, "segments_dropped_total", 1))
            await until("nothing is put off any more", lambda: nothing_put_off(here))
            assert [line["chore"] for line in relay.happened("housekeeping.put_off")].count(cause.chore) == 1, relay
            assert len(relay.happened("postgres.connected")) == 1, relay
            await relay.stop()
    finally:
        await others.close()
        await here.connection.execute(f"DROP ROLE {role}")
    assert await here.check_everything() == []


async def nothing_put_off(here: Place) -> bool:
    return not (await read_status(here.connection)).put_off


async def at_least(relay: RelayProcess, metric: str, number: float) -> bool:
    return await relay.metric(metric) >= number


@pytest.mark.slow
async def test_what_failed_outlives_its_segment_and_goes_out_in_order_when_it_is_replayed(here: Place) -> None:
    """The event, what waits behind it in the same and in later segments; and a held one of which none has failed."""
    key, segment = "backlog-7", "SELECT name FROM outbox.segment WHERE lower_id = 1 AND kept"
    await here.connection.execute("SELECT outbox.set_max_event_bytes(10000000)")
    huge = (await add_event(here.connection, key, here.topic, b"x" * 3_000_000))["id"]
    await fill(here.connection, here.topic, 500, keys=50)
    expected = await here.connection.fetchval("SELECT count(*) FROM outbox.event WHERE key = $1", key.encode())
    await here.connection.execute(f"SELECT setval('outbox.event_id', {NEWEST})")
    async with relay_run(
        here.dsn,
        here.bootstrap_servers,
        segment_ids=10_000,
        segment_retention=0,
        segment_check_interval=0.2,
    ) as relay:
        told = await relay.logged("segment.retired")
        assert (told["segment"], told["kept"]) == ("event_1", expected)
        assert await here.connection.fetchval("SELECT count(*) FROM outbox.event") == expected
        later = (await add_event(here.connection, key, here.topic, b"later"))["id"]
        await until("the later one waits", lambda: held(here, later))
        found = await Failures(here.connection, "outbox").event(huge, 10)
        assert found is not None
        assert (found.state, found.payload_bytes) == ("failed", 3_000_000)

        await alter_topic(here.bootstrap_servers, here.topic, max_message_bytes=10_000_000)
        await here.connection.execute("UPDATE outbox.failure SET state = 'replaying'")

        async def replayed() -> bool:
            return not await here.connection.fetchval("SELECT EXISTS (SELECT FROM outbox.held)")

        await until("all that waited is on its way", replayed)
        await here.settled()
        await until("the small segment goes as well", lambda: gone(here, segment))
        await relay.stop()
    records = [
        record.id for record in await read_topic(here.bootstrap_servers, here.topic) if record.key == key.encode()
    ]
    assert records == sorted(set(records))
    assert len(records) == expected + 1


async def held(here: Place, id_: int) -> bool:
    return bool(await here.connection.fetchval("SELECT count(*) FROM outbox.held WHERE id = $1", id_))


async def gone(here: Place, segment: str) -> bool:
    return await here.connection.fetchval(segment) is None
