"""PostgreSQL raises what no table knows: the process lives, says why, and goes on when the cause is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.support.postgres.writers import fill
from tests.support.relay.process import relay_run

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place

EVENTS = 200
RAISES = """
    CREATE FUNCTION raises() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = 'ZX001', DETAIL = 'geheim'; END $$;
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "statements"), [("receipt", ["settle", "settle_recorded"]), ("lane", ["claim"])], ids=["settle", "claim"]
)
async def test_an_error_that_no_table_knows_is_told_once_and_repeats_nothing(
    here: Place, table: str, statements: list[str]
) -> None:
    await here.connection.execute(
        f"{RAISES} CREATE TRIGGER raises BEFORE INSERT OR UPDATE ON outbox.{table} EXECUTE FUNCTION raises()"
    )
    await fill(here.connection, here.topic, EVENTS)
    async with here.relay(log_level="debug") as relay:
        await relay.logged("tenure.failed", 3)
        told = [line for line in relay.happened("tenure.failing") if line["level"] != "debug"]
        # Receipts of an earlier tenure have a statement of their own.
        assert [line["statement"] for line in told] == statements
        assert all(line["error"].endswith(f"{line['statement']} failed: not today (SQLSTATE ZX001)") for line in told)
        assert f"the flow keeps failing: {told[-1]['error']}" in await relay.unready_because()
        assert await relay.metric("flow_failed_total") >= 3
        await here.connection.execute(f"DROP TRIGGER raises ON outbox.{table}")
        await here.settled()
        await relay.ready()
        assert relay.happened("tenure.works")
        await relay.stop()
        assert not relay.texts()
    assert await here.check_everything() == []


@pytest.mark.slow
async def test_a_second_replica_goes_on_with_the_lanes_of_one_whose_flow_ends(here: Place) -> None:
    await here.connection.execute("CREATE ROLE outbox_unlucky LOGIN SUPERUSER PASSWORD 'x'")
    try:
        await here.connection.execute(
            f"{RAISES} CREATE TRIGGER raises BEFORE INSERT ON outbox.receipt FOR EACH STATEMENT"
            " WHEN (current_user = 'outbox_unlucky') EXECUTE FUNCTION raises()"
        )
        parts = urlsplit(here.dsn)
        unlucky = urlunsplit(parts._replace(netloc=f"outbox_unlucky:x@{parts.netloc.rpartition('@')[2]}"))
        async with relay_run(unlucky, here.bootstrap_servers, replica_name="one") as one:
            await one.logged("lanes.claimed")
            await fill(here.connection, here.topic, EVENTS)
            await one.logged("tenure.failing")
            async with here.relay(replica_name="other") as other:
                await here.settled()
                assert not one.ended
                await other.stop()
            await here.connection.execute("DROP TRIGGER raises ON outbox.receipt")
            await one.ready()
            await one.stop()
        repeats = await here.check_everything()
        assert len(repeats) <= EVENTS, "more than what was in flight"
    finally:
        await here.connection.execute("DROP ROLE outbox_unlucky")


async def test_a_table_and_a_right_that_are_taken_from_a_running_relay_are_waited_for(here: Place) -> None:
    async with here.relay() as relay:
        await relay.ready()
        await here.connection.execute("ALTER TABLE outbox.receipt RENAME TO mislaid")
        await fill(here.connection, here.topic, EVENTS)
        line = await relay.logged("tenure.failing")
        assert "the outbox is missing or of another version" in line["error"]
        await here.connection.execute("ALTER TABLE outbox.mislaid RENAME TO receipt")
        await here.settled()
        await relay.stop()
        assert not relay.texts()
    assert await here.check_everything() == []
