"""`relay erase` on real servers: nothing of a payload is left that anybody can select, and all else stays."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.postgres.admin.migrate import make_roles
from relay.postgres.sql import query
from tests.support.postgres.outbox import add_event, connected
from tests.support.postgres.receipts import add_receipt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers

SECRET = "born 17 May 1971"


class Desk:
    """An outbox and the commands."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def ask(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
        """Do something with the database."""

        async def asked() -> Any:
            async with connected(self.dsn) as connection:
                return await work(connection)

        return asyncio.run(asked())

    def value(self, question: str, *arguments: object) -> Any:
        """One value of the database."""
        return self.ask(lambda connection: connection.fetchval(question, *arguments))

    def __call__(self, *arguments: str, **env: str) -> Result:
        """Run a command."""
        return CliRunner().invoke(main, [*arguments], env={"RELAY_POSTGRES_DSN": self.dsn, "COLUMNS": "300", **env})

    def erase(self, *arguments: str, **env: str) -> Result:
        """Erase without asking; it must be done."""
        done = self("erase", *arguments, "--reason", "request 4711", "--yes", **env)
        assert done.exit_code == 0, done.output
        return done

    def refused(self, *arguments: str, **env: str) -> str:
        """Why it is not done; nothing may have changed."""
        before = self.everything()
        shown = self("erase", *arguments, "--reason", "request 4711", "--yes", **env)
        assert shown.exit_code == 1, shown.output
        assert self.everything() == before
        assert "nothing was changed" in shown.stderr
        return " ".join(shown.stderr.split())

    def everything(self) -> str:
        """All that a SELECT can reach: every row of every table, written as text."""

        async def read(connection: asyncpg.Connection) -> str:
            tables = await connection.fetch(
                "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r'"
            )
            rows = [
                row[0]
                for (table,) in tables
                for row in await connection.fetch(f"SELECT t::text FROM {table} AS t ORDER BY 1")
            ]
            return "\n".join(rows)

        text: str = self.ask(read)
        return text

    def finds(self, secret: str = SECRET) -> bool:
        """Whether it is anywhere in the database, or in what a command shows."""
        shown = [
            self("export").output,
            self("export", "--format", "csv").output,
            self("failed", "list", "--json").output,
            self("failed", "list", "--state", "discarded").output,
            self("failed", "actions", "--json").output,
            self("scheduled", "list", "--json").output,
            *(self("failed", "show", str(id_), "--json").output for id_ in range(1, 12)),
            self.everything(),
        ]
        return any(secret in text or secret.encode().hex() in text for text in shown)


@pytest.fixture
def desk(outbox: str) -> Desk:
    return Desk(outbox)


async def add(connection: asyncpg.Connection, key: str | None = "customer-7", topic: str = "orders") -> int:
    """Write an event with a secret in payload and headers; returns its id."""
    row = await add_event(connection, key, topic, payload=f'{{"x": "{SECRET}"}}', headers={"about": SECRET})
    return int(row["id"])


async def fail(connection: asyncpg.Connection, id_: int, state: str = "failed") -> None:
    """Record a failure whose details quote the event."""
    await connection.execute(
        "INSERT INTO outbox.failure (lane, id, topic, key, state, attempts, error, detail, history, policy)"
        " SELECT lane, id, topic, key, $2, 1, 'Unknown', $3, $4, 'block'"
        " FROM outbox.event WHERE id = $1",
        *(id_, state, f"bad value {SECRET}", json.dumps([{"attempt": 1, "error": SECRET}])),
    )


async def hold(connection: asyncpg.Connection, id_: int) -> None:
    """Hold an event back."""
    await connection.execute("INSERT INTO outbox.held SELECT lane, id, topic, key FROM outbox.event WHERE id = $1", id_)


async def in_every_state(connection: asyncpg.Connection) -> None:
    """Events 1 to 5 of one key: delivered, discarded, failed, held, pending; and a scheduled one."""
    ids = [await add(connection) for _ in range(5)]
    await add_receipt(connection, ids[0], offset=5)
    await fail(connection, ids[1], "discarded")
    await fail(connection, ids[2])
    await hold(connection, ids[3])
    await connection.execute(
        "INSERT INTO outbox.scheduled (topic, key, payload, headers, delay)"
        " VALUES ('orders', 'customer-7', $1, $2, '1 h')",
        SECRET.encode(),
        json.dumps({"about": SECRET}),
    )


def test_nothing_of_a_key_can_be_selected_or_shown_afterwards(desk: Desk) -> None:
    desk.ask(in_every_state)
    desk.ask(lambda connection: add_event(connection, "customer-8", payload="of another"))
    assert desk.finds()
    done = desk.erase("--key", "customer-7", "--force")
    assert not desk.finds()
    assert "5 events erased" in done.stdout
    assert "VACUUM" not in done.stdout
    assert desk.finds("of another")
    states = [json.loads(line)["state"] for line in desk("export").stdout.splitlines()]
    assert states == ["delivered", "discarded", "discarded", "discarded", "discarded", "pending"]
    assert desk.value("SELECT count(*) FROM outbox.scheduled") == 0


def test_receipts_and_who_asked_for_it_stay(desk: Desk) -> None:
    desk.ask(in_every_state)
    desk.erase("--event", "1", "--event", "2")
    assert desk.value("SELECT kafka_offset FROM outbox.receipt_of(1)") == 5
    kind, reason, counts, filter_, finished = desk.ask(
        lambda connection: connection.fetchrow(
            "SELECT kind, reason, counts, filter, finished_at IS NOT NULL FROM outbox.action"
        )
    )
    assert (kind, reason, finished) == ("erase", "request 4711", True)
    assert json.loads(counts) == {"events": 2, "discarded": 0, "cancelled": 0}
    assert json.loads(filter_) == {"ids": [1, 2]}
    assert "request 4711" in desk("failed", "actions").stdout
    assert "erased" in desk("failed", "show", "1").stdout
    exported = json.loads(desk("export").stdout.splitlines()[0])
    assert (exported["state"], exported["payload"], exported["erased_by"]) == ("delivered", None, 1)


def test_an_erased_event_is_not_replayed_and_the_reason_is_said(desk: Desk) -> None:
    desk.ask(in_every_state)
    desk.ask(lambda connection: add(connection, "customer-9"))
    desk.ask(lambda connection: add_receipt(connection, 6, offset=6))
    desk.erase("--event", "1")
    desk.erase("--event", "2")
    for id_ in ("1", "2"):
        refused = desk("failed", "replay", id_)
        assert refused.exit_code == 1
        assert "was erased (action" in " ".join(refused.stderr.split())
    shown = desk("replay", "--topic", "orders", "--since", "1h", "--dry-run").stdout
    assert "1 event would be published again" in shown
    assert "had them erased: 1 event" in shown
    refused = desk("replay", "--topic", "orders", "--since", "1h", "--key", "customer-7", "--dry-run")
    assert refused.exit_code == 1
    assert "were erased" in refused.stderr

    async def to_replay(connection: asyncpg.Connection) -> list[int]:
        found = []
        for lane in range(16):
            rows = await connection.fetch(
                query("events_to_replay"),
                *(1, lane, 0, 100),
                *await connection.fetchrow("SELECT now() - interval '1 h', now()"),
                *("orders", None, 100, 1_000_000, '{"outbox-replay": "1"}'),
            )
            found += [row["id"] for row in rows]
        return found

    assert desk.ask(to_replay) == [6]


@pytest.mark.parametrize(("id_", "state"), [("3", "failed"), ("4", "held"), ("5", "pending")])
def test_what_is_still_to_be_published_is_refused(desk: Desk, id_: str, state: str) -> None:
    desk.ask(in_every_state)
    assert f"event {id_} of the topic orders is {state}" in desk.refused("--event", id_)
    assert "--force" in desk.refused("--event", "1", "--event", id_)


def test_scheduled_events_are_cancelled_only_if_that_is_asked_for(desk: Desk) -> None:
    desk.ask(in_every_state)
    event_id = str(desk.value("SELECT event_id FROM outbox.scheduled"))
    assert "still to come" in desk.refused("--event", event_id)
    assert "not all of these" in desk.refused("--event", str(uuid4()), "--force")
    desk.erase("--event", event_id, "--force")
    assert desk.value("SELECT count(*) FROM outbox.scheduled") == 0
    assert desk.value("SELECT count(*) FROM outbox.event WHERE payload IS NOT NULL") == 5


def test_what_a_replica_may_have_in_hand_is_refused_until_the_lane_is_released(desk: Desk) -> None:
    desk.ask(in_every_state)

    async def own(connection: asyncpg.Connection) -> None:
        replica = uuid4()
        await connection.execute(
            "INSERT INTO outbox.replica (id, name, version, lease_expires_at) VALUES ($1, 'r1', '1', now() + '1 h')",
            replica,
        )
        await connection.execute("UPDATE outbox.lane SET owner = $1, claimed_at = now()", replica)

    desk.ask(own)
    lane = desk.value("SELECT lane FROM outbox.event LIMIT 1")
    said = desk.refused("--key", "customer-7", "--force")
    assert "in the hands of r1" in said
    assert f"relay lanes release {lane} --for" in said
    # Failed, it is in nobody's hands.
    desk.erase("--event", "3", "--force")
    desk.ask(lambda c: c.execute("UPDATE outbox.replica SET lease_expires_at = now() - interval '1 s'"))
    desk.erase("--key", "customer-7", "--force")
    assert not desk.finds()


def test_what_is_being_replayed_is_refused(desk: Desk) -> None:
    desk.ask(in_every_state)
    desk.ask(lambda c: c.execute("UPDATE outbox.failure SET state = 'replaying' WHERE id = 3"))
    assert "event 3 of the topic orders is being replayed" in desk.refused("--event", "3", "--force")
    asked = desk("replay", "--topic", "orders", "--since", "1h", "--yes", "--no-wait")
    assert asked.exit_code == 0
    assert "event 1 of the topic orders is being replayed" in desk.refused("--event", "1")
    assert desk("replay", "cancel", "1").exit_code == 0
    desk.erase("--event", "1")


def test_what_has_changed_since_the_preview_is_refused_by_the_database(desk: Desk) -> None:
    desk.ask(in_every_state)
    call = "SELECT * FROM outbox.erase($1, NULL, NULL, NULL, $2, false, '{}', '', 'm')"
    before = desk.everything()
    for id_, force in ((5, False), (4, False), (3, False)):
        with pytest.raises(asyncpg.ObjectInUseError, match=f"event {id_} is"):
            desk.value(call, [id_], force)
    assert desk.everything() == before


def test_a_tombstone_is_published_only_where_it_means_something(
    desk: Desk, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    env = {"RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
    compacted, plain = make_topic(1, **{"cleanup.policy": "compact,delete"}), make_topic(1)

    async def plant(connection: asyncpg.Connection) -> None:
        await add(connection, "k", compacted)
        await add(connection, None, compacted)
        await add(connection, "k", plain)

    desk.ask(plant)
    assert "is not compacted" in desk.refused("--event", "3", "--force", "--tombstone", **env)
    assert "without a key" in desk.refused("--event", "2", "--force", "--tombstone", **env)
    desk.erase("--event", "1", "--force", "--tombstone", **env)
    assert desk.value("SELECT count(*) FROM outbox.pending WHERE id = 1 AND payload IS NULL AND headers = '{}'") == 1
    assert "cannot be asked" in desk.refused(
        "--event", "3", "--force", "--tombstone", RELAY_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"
    )


def test_a_key_can_be_erased_in_one_topic_alone(desk: Desk) -> None:
    async def plant(connection: asyncpg.Connection) -> None:
        for topic in ("orders", "mail"):
            await add_receipt(connection, await add(connection, topic=topic))

    desk.ask(plant)
    desk.erase("--key", "customer-7", "--topic", "mail")
    assert desk.value("SELECT array_agg(topic) FROM outbox.event WHERE payload IS NULL") == ["mail"]
    assert "erased already" in desk.refused("--key", "customer-7", "--topic", "mail")
    assert "no event of key" in desk.refused("--key", "customer-8")


def test_a_dry_run_and_a_no_change_nothing(desk: Desk) -> None:
    desk.ask(in_every_state)
    before = desk.everything()
    shown = desk("erase", "--key", "customer-7", "--force", "--dry-run", "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["states"] == {
        "delivered": 1, "discarded": 1, "failed": 1, "held": 1, "pending": 1
    }  # fmt: skip
    assert "3 events would never be published" in shown.stderr
    assert "no terminal to ask on" in " ".join(desk("erase", "--event", "1", "--reason", "x").stderr.split())
    assert desk.everything() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say what to erase"),
        (["--event", "1", "--key", "k"], "say what to erase"),
        (["--event", "1", "--topic", "orders"], "narrows --key down"),
        (["--event", "x"], "neither an id nor"),
        (["--event", "99999999999999999999"], "is not an id"),
        (["--key", "k", "--tombstone"], "add --force"),
        (["--key", "k", "--topic", "or?ders"], "not a topic name"),
        (["--key", "k", "--reason", " "], "needs --reason"),
    ],
)
def test_what_makes_no_sense_is_refused(desk: Desk, arguments: list[str], says: str) -> None:
    refused = desk("erase", "--yes", "--reason", "x", *arguments)
    assert refused.exit_code == 2
    assert says in " ".join(refused.stderr.split())


def test_an_event_that_does_not_exist_is_refused(desk: Desk) -> None:
    desk.ask(in_every_state)
    assert "there is no event 6: the newest id is 5" in desk.refused("--event", "1", "--event", "6")


def test_only_the_role_of_people_may_erase_and_it_is_signed(desk: Desk) -> None:
    desk.ask(in_every_state)

    async def as_role(connection: asyncpg.Connection, role: str) -> Any:
        await make_roles(connection)
        await connection.execute(f"SET ROLE {role}")
        return await connection.fetchrow(
            "SELECT * FROM outbox.erase('{1}', NULL, NULL, NULL, false, false, '{}', '', 'm')"
        )

    for role in ("outbox_writer", "outbox_relay"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            desk.ask(partial(as_role, role=role))
    assert desk.ask(partial(as_role, role="outbox_admin"))["events"] == 1
    assert desk.value("SELECT requested_by LIKE session_user || ' (m)' FROM outbox.action")

    async def by_hand(connection: asyncpg.Connection) -> None:
        await connection.execute("SET ROLE outbox_admin")
        await connection.execute("UPDATE outbox.event SET payload = NULL")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        desk.ask(by_hand)


def test_who_is_not_the_owner_is_told_what_to_vacuum(desk: Desk) -> None:
    desk.ask(in_every_state)
    done = desk.erase("--event", "1", "--no-vacuum")
    assert "VACUUM outbox.event_1" in done.stdout


def test_a_publication_that_keeps_rows_from_changing_is_named(desk: Desk) -> None:
    desk.ask(in_every_state)
    desk.ask(lambda connection: connection.execute("CREATE PUBLICATION everything FOR ALL TABLES"))
    shown = desk("erase", "--event", "1", "--reason", "x", "--yes")
    if shown.exit_code:
        assert "publication" in shown.stderr
        assert "nothing was changed" in " ".join(shown.stderr.split())
    else:
        assert desk.value("SELECT payload IS NULL FROM outbox.event WHERE id = 1")
