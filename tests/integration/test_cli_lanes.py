"""`relay lanes` on a real server, with replicas that run."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.cli.show.ownership import lane_notes
from relay.decide import shares
from relay.keys import LANES
from relay.postgres.admin.lanes import record_intent
from relay.postgres.admin.migrate import make_roles
from relay.postgres.admin.status import read_status
from tests.support.postgres.outbox import concerns, connected, migrated
from tests.support.relay.claiming import KEYS, LONG, owns, running
from tests.support.relay.stages import HandRelay, relay_connections, writer
from tests.support.waiting import until

if TYPE_CHECKING:
    import asyncpg


@pytest.fixture
async def outbox(database: str, with_outbox: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The DSN of a database with an outbox."""
    # On a busy machine no replica is to be taken for a silent one.
    monkeypatch.setattr(shares, "ORPHAN_AFTER", LONG)
    async with migrated(database):
        return database


async def lanes(dsn: str, *arguments: str) -> Result:
    """Run the command, while replicas run in this process."""

    def run() -> Result:
        return CliRunner().invoke(main, ["lanes", *arguments], env={"RELAY_POSTGRES_DSN": dsn, "COLUMNS": "160"})

    return await asyncio.to_thread(run)


async def report(dsn: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await lanes(dsn, "--json")).output)
    return found


async def owned_by(relay: HandRelay, *wanted: int) -> None:
    """Wait until a replica owns these lanes among others."""

    async def look() -> bool:
        return set(wanted) <= set(relay.tenure.lanes)

    await until(f"{relay.tenure!r} owns {wanted}", look, 20.0)


async def test_a_moved_lane_goes_to_its_replica_and_the_others_even_out(outbox: str) -> None:
    async with running(outbox, name="one") as one, running(outbox, name="two") as two:
        await owns(one, 8)
        await owns(two, 8)
        moved = await lanes(outbox, "move", "0-1", "3", "--to", "two", "--for", "600", "--reason", "test")
        assert moved.output == "lanes 0-1 3: moved to two for 10 min 0 s\n"
        await owned_by(two, 0, 1, 3)
        await owns(one, 8)
        await owns(two, 8)
        assert not {0, 1, 3} & set(one.tenure.lanes)
        found = (await report(outbox))["lanes"][3]
        assert (found["moved_to"], found["replica"], found["reason"]) == ("two", "two", "test")
        assert 500 < found["intent_seconds"] <= 600

        two.tenure.begin_drain()
        await owns(one, LANES)


async def test_more_lanes_than_the_share_can_be_moved_and_taken_back(outbox: str) -> None:
    async with running(outbox, name="one") as one, running(outbox, name="two") as two:
        await owns(one, 8)
        identity = str(two.tenure.replica)
        assert (await lanes(outbox, "move", "0-11", "--to", identity[:8])).exit_code == 0
        await owns(two, 12)
        await owns(one, 4)
        assert "released" in (await lanes(outbox, "release", "0-11")).output
        await owns(two, 8)
        await owns(one, 8)


async def test_a_lane_is_handed_over_when_what_was_taken_is_settled_and_the_command_does_not_wait_for_ever(
    outbox: str,
) -> None:
    async with running(outbox, name="one") as one, running(outbox, name="two") as two, writer(outbox) as service:
        await owns(one, 8)
        await owns(two, 8)
        (lane, *_) = one.tenure.lanes
        await service.enqueue(KEYS[lane])
        while not (taken := await one.take_all()):
            pass
        asked = await lanes(outbox, "move", str(lane), "--to", "two", "--wait", "0.2")
        assert asked.exit_code == 0
        assert asked.output.startswith(f"lane {lane}: requested; the owner hands each over once it has settled")

        async def shown() -> bool:
            return bool((await report(outbox))["lanes"][lane]["handing_back"])

        await until("the hand-over is shown", shown)
        assert one.tenure.owns(lane, one.lane(lane).epoch)
        await one.settle(taken)
        await owned_by(two, lane)
        assert not (await report(outbox))["lanes"][lane]["handing_back"]


async def test_a_lane_that_is_released_for_a_time_is_nobodys_for_so_long(outbox: str) -> None:
    async with running(outbox, name="one") as one, connected(outbox) as connection:
        await owns(one, LANES)
        assert (await lanes(outbox, "release", "5", "--for", "10m")).output == (
            "lane 5: released; no replica claims them for 10 min 0 s\n"
        )
        await owns(one, LANES - 1)
        async with running(outbox, name="two") as two:
            await owns(two, 7)
            await owns(one, 8)
            status = await read_status(connection)
            assert (status.lanes[5].replica, status.lanes[5].parked) == (None, True)
            (concern,) = (each for each in concerns(status) if "lanes" in each)
            assert concern.startswith("lanes that a person released for a time: 5; their events wait for at most ")
            await connection.execute("UPDATE outbox.lane_intent SET until = clock_timestamp() + interval '1 s'")
            await connection.execute("SELECT pg_notify('outbox', 'lanes')")
            await owns(two, 8)


CLAIM_ALL = """
UPDATE outbox.lane AS l SET owner = r.id, epoch = l.epoch + 1, claimed_at = clock_timestamp() FROM outbox.replica AS r
"""


@pytest.mark.parametrize("seconds", ["0", "600"])
async def test_a_lane_that_is_claimed_just_before_somebody_asks_for_it_is_not_called_released(
    outbox: str, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    """Its new owner is to give it back: what was seen of it before the request says nothing."""

    async def claim_and_ask(connection: asyncpg.Connection, *arguments: Any, **options: Any) -> dict[int, int]:
        await connection.execute(CLAIM_ALL)
        return await record_intent(connection, *arguments, **options)

    monkeypatch.setattr("relay.admin.lanes.record_intent", claim_and_ask)
    async with relay_connections(outbox) as connections:
        await HandRelay(connections).claim.register(None)
        asked = await lanes(outbox, "release", "5", "--for", seconds, "--wait", "0.2", "--json")
    assert json.loads(asked.output) == {"lanes": [5], "to_go": [5]}


@pytest.mark.parametrize(("seconds", "to_go"), [("600", [5]), ("0", [])])
async def test_a_parked_lane_with_an_owner_is_not_called_released_whoever_that_is(
    outbox: str, monkeypatch: pytest.MonkeyPatch, seconds: str, to_go: list[int]
) -> None:
    """A claim that began before the request may be committed after it; the owner's next look gives the lane back."""

    async def ask_and_claim(connection: asyncpg.Connection, *arguments: Any, **options: Any) -> dict[int, int]:
        epochs = await record_intent(connection, *arguments, **options)
        await connection.execute(CLAIM_ALL)
        return epochs

    monkeypatch.setattr("relay.admin.lanes.record_intent", ask_and_claim)
    async with relay_connections(outbox) as connections:
        await HandRelay(connections).claim.register(None)
        asked = await lanes(outbox, "release", "5", "--for", seconds, "--wait", "0.2", "--json")
    assert json.loads(asked.output) == {"lanes": [5], "to_go": to_go}


async def test_a_lane_that_is_released_once_is_taken_over_anew(outbox: str) -> None:
    async with running(outbox, name="one") as one, connected(outbox) as connection:
        await owns(one, LANES)
        before = one.lane(5)
        assert (await lanes(outbox, "release", "5")).output == "lane 5: released\n"
        await owns(one, LANES)
        assert one.lane(5).epoch == before.epoch + 1
        assert one.lane(5) is not before
        assert await connection.fetchval("SELECT epoch FROM outbox.lane WHERE lane = 5") == one.lane(5).epoch


async def test_the_replica_that_is_meant_has_to_be_one_that_lives(outbox: str) -> None:
    async with running(outbox, name="one"), running(outbox, name="two") as two, running(outbox, name="two"):
        unknown = await lanes(outbox, "move", "1", "--to", "three")
        assert (unknown.exit_code, unknown.output) == (
            1,
            "relay: no live replica has the name or id three; live replicas: one, two, two\n",
        )
        ambiguous = await lanes(outbox, "move", "1", "--to", "two")
        assert ambiguous.exit_code == 1
        assert "2 live replicas have the name two; name one of them by its id: " in ambiguous.output
        assert str(two.tenure.replica)[:8] in ambiguous.output
        async with connected(outbox) as connection:
            await connection.execute("UPDATE outbox.replica SET draining = true WHERE name = 'one'")
            assert "one is stopping or dead" in (await lanes(outbox, "move", "1", "--to", "one")).output
            assert await connection.fetchval("SELECT count(*) FROM outbox.lane_intent") == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["move", "16", "--to", "x"],
        ["move", "3-1", "--to", "x"],
        ["move", "-1", "--to", "x"],
        ["move", "one", "--to", "x"],
        ["move", "1"],
        ["move", "--to", "x"],
        ["move", "1", "--to", "x", "--for", "0"],
        ["release"],
        ["release", "1", "--for", "-1"],
        ["--json", "release", "1"],
        ["steal", "1"],
    ],
    ids=" ".join,
)
async def test_wrong_usage_is_refused(outbox: str, arguments: list[str]) -> None:
    assert (await lanes(outbox, *arguments)).exit_code == 2


async def test_an_admin_may_ask_and_a_writer_may_not(outbox: str) -> None:
    async with connected(outbox) as connection:
        await make_roles(connection)
        await connection.execute("SET ROLE outbox_admin")
        await record_intent(connection, "outbox", [3], replica=None, seconds=0.0, reason="", requested_by="test")
        await record_intent(connection, "outbox", [3, 4], replica=None, seconds=0.0, reason="", requested_by="test")
        assert await connection.fetchval("SELECT count(*) FROM outbox.lane_intent") == 2
        await connection.execute("SET ROLE outbox_writer")
        with pytest.raises(Exception, match="permission denied"):
            await record_intent(connection, "outbox", [3], replica=None, seconds=0.0, reason="", requested_by="test")


async def test_a_silent_replica_is_shown_with_the_time_until_its_lanes_are_free(outbox: str) -> None:
    async with running(outbox, name="one") as one, connected(outbox) as connection:
        await owns(one, LANES)
        status = await read_status(connection)
        assert status.replicas[0].silent_seconds is None
        assert {lane.free_in_seconds for lane in status.lanes} == {None}
        await connection.execute(
            "UPDATE outbox.replica SET renewed_at = clock_timestamp() - interval '8 s',"
            " lease_expires_at = clock_timestamp() + interval '7 s', duplicates = 3, leases_lost = 1"
        )
        status = await read_status(connection)
        (replica,) = status.replicas
        assert replica.silent_seconds == pytest.approx(8, abs=3)
        assert status.lanes[0].free_in_seconds == pytest.approx(7, abs=3)
        assert lane_notes(status.lanes[0])[0].startswith("owner silent, free in ")
        assert concerns(status)[0].startswith("replica one has been silent for ")
        shown = await lanes(outbox)
        assert "3 duplicates, 1 lease lost" in shown.output


async def test_a_replica_shows_what_it_has_counted(outbox: str) -> None:
    async with running(outbox, name="one") as one:
        await owns(one, LANES)
        one.telemetry.emit("settle.duplicates", events=4)
        one.telemetry.emit("lease.lost", reason="test")

        async def shown() -> bool:
            # The next beat would be in 200 s; a look that is under way may undo this.
            one.claim._show_at = 0.0
            one.tenure.lanes_may_be_free()
            found = (await report(outbox))["replicas"][0]
            return (found["duplicates"], found["leases_lost"], found["lanes"]) == (4, 1, list(range(LANES)))

        await until("the counts are shown", shown)
