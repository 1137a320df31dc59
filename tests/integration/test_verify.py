"""`relay verify` on real servers: what is planted is found, and an honest topic has no findings."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition
from click.testing import CliRunner, Result

from relay.cli import main
from tests.support.kafka.published import Publisher, publishing, stranger
from tests.support.kafka.topics import admin
from tests.support.postgres.outbox import connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncpg

    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers


class Desk:
    """An outbox, a topic with two partitions, and the command."""

    def __init__(self, dsn: str, bootstrap_servers: str, topic: str) -> None:
        self.dsn = dsn
        self.bootstrap_servers = bootstrap_servers
        self.topic = topic

    def plant(self, work: Callable[[Publisher, asyncpg.Connection], Awaitable[None]]) -> None:
        """Do something to the outbox and the topic."""

        async def planted() -> None:
            async with (
                connected(self.dsn) as connection,
                publishing(connection, self.bootstrap_servers, self.topic) as publisher,
            ):
                await work(publisher, connection)

        asyncio.run(planted())

    def __call__(self, *arguments: str, topic: bool = True, **env: str) -> Result:
        """Run the command."""
        settings = {
            "RELAY_POSTGRES_DSN": self.dsn,
            "RELAY_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "COLUMNS": "200",
            **env,
        }
        given = ["--topic", self.topic] if topic else []
        return CliRunner().invoke(main, ["verify", *given, *arguments], env=settings)

    def counts(self, *arguments: str) -> dict[str, int]:
        """What it counts that is not zero."""
        (topic,) = self.report(*arguments)["topics"]
        return {kind: number for kind, number in topic["counts"].items() if number}

    def report(self, *arguments: str, exit_code: int | None = None) -> Any:
        """What it says in JSON."""
        shown = self(*arguments, "--json")
        report = json.loads(shown.stdout)
        assert shown.exit_code == (bool(report["findings"]) if exit_code is None else exit_code), shown.output
        return report


@pytest.fixture
def desk(outbox: str, kafka: servers.Kafka, make_topic: MakeTopic) -> Desk:
    return Desk(outbox, kafka.bootstrap_servers, make_topic(2))


async def _honest(publisher: Publisher, _: object = None) -> None:
    for number in range(20):
        await publisher.deliver(f"k{number % 3}", f"payload {number}", partition=number % 3 % 2)
    await publisher.deliver(None, "no key")


def test_an_honest_topic_has_no_findings(desk: Desk) -> None:
    desk.plant(_honest)
    assert desk.counts() == {"in_place": 21}
    shown = desk()
    assert shown.exit_code == 0
    assert "nothing is wrong" in shown.stdout
    assert desk.counts("--sample", "500") == {"in_place": 21}


def test_an_event_that_is_not_in_the_topic_is_lost(desk: Desk) -> None:
    async def plant(publisher: Publisher, _: object) -> None:
        await _honest(publisher)
        # Another record is at the place, and none behind the end.
        await publisher.settle(await publisher.commit("lost"), 0, 3)
        await publisher.settle(await publisher.commit("lost"), 0, 10_000)
        await publisher.settle(await publisher.commit("lost"), 7, 0)
        await publisher.settle(await publisher.commit("lost"), 0, -1)

    desk.plant(plant)
    assert desk.counts() == {"in_place": 21, "lost": 4}
    why = [example["what"] for example in desk.report()["topics"][0]["examples"]]
    assert any("not at its place" in each for each in why)
    assert any("ends before its place" in each for each in why)
    assert any("does not have this partition" in each for each in why)
    assert any("not where" in each for each in why)
    assert "4 findings" in desk().stdout


def test_an_event_whose_place_kafka_did_not_say_is_looked_for(desk: Desk) -> None:
    async def plant(publisher: Publisher, _: object) -> None:
        event = await publisher.commit()
        await publisher.publish(event)
        await publisher.settle(event, 0, -1)

    desk.plant(plant)
    assert desk.counts() == {"in_place": 1}


def test_a_record_that_comes_again_is_repeated_and_a_replay_is_not(desk: Desk) -> None:
    async def plant(publisher: Publisher, _: object) -> None:
        first = await publisher.commit()
        # Published, not settled before a crash, and published again.
        await publisher.publish(first)
        await publisher.settle(first, 0, await publisher.publish(first))
        await publisher.publish(first, headers=[("outbox-replay", b"7")])

    desk.plant(plant)
    assert desk.counts() == {"in_place": 1, "repeated": 1, "replayed": 1}
    assert desk("--allow", "repeated").exit_code == 0


def test_an_event_that_came_after_a_later_one_of_its_key_is_out_of_order(desk: Desk) -> None:
    async def plant(publisher: Publisher, _: object) -> None:
        first, second, other = [await publisher.commit(key) for key in ("k", "k", "other")]
        for event in (other, second, first):
            await publisher.settle(event, 0, await publisher.publish(event))

    desk.plant(plant)
    assert desk.counts() == {"in_place": 3, "out_of_order": 1}
    (example,) = desk.report()["topics"][0]["examples"]
    assert (example["kind"], example["id"], example["offset"]) == ("out_of_order", 1, 2)


def test_an_event_that_a_person_had_replayed_may_come_late(desk: Desk) -> None:
    async def plant(publisher: Publisher, connection: asyncpg.Connection) -> None:
        first, second = await publisher.commit(), await publisher.commit()
        await publisher.settle(second, 0, await publisher.publish(second))
        await connection.execute(
            "INSERT INTO outbox.action (kind, filter) VALUES ('replay', $1)", json.dumps({"ids": [first.id]})
        )
        await publisher.settle(first, 0, await publisher.publish(first))

    desk.plant(plant)
    assert desk.counts() == {"in_place": 2, "replayed_late": 1}


def test_records_that_are_no_events_of_this_outbox_are_counted(desk: Desk) -> None:
    async def plant(publisher: Publisher, _: object) -> None:
        await _honest(publisher)
        await publisher.send(b"of somebody else")
        event = await publisher.commit()
        await publisher.publish(stranger())
        # A true id with another event_id, and one of another topic.
        await publisher.publish(event, event_id=stranger().event_id)
        await publisher.publish(await publisher.commit(topic="another"))
        await publisher.publish(event, headers=[("outbox-dead-letter-topic", b"orders")])

    desk.plant(plant)
    assert desk.counts() == {"in_place": 21, "foreign": 1, "unknown": 3, "dead_letters": 1}


def test_a_record_with_another_key_or_payload_is_changed(desk: Desk) -> None:
    async def plant(publisher: Publisher, _: object) -> None:
        for changed in ({"payload": b"y"}, {"payload": None}, {"key": b"other"}):
            event = await publisher.commit()
            await publisher.settle(event, 0, await publisher.publish(event, **changed))

    desk.plant(plant)
    assert desk.counts() == {"in_place": 3, "changed": 3}


def test_an_event_that_is_elsewhere_than_its_receipt_says_is_misplaced(desk: Desk) -> None:
    async def plant(publisher: Publisher, _: object) -> None:
        event = await publisher.commit()
        await publisher.publish(event, partition=1)
        await publisher.settle(event, 0, 0)
        await publisher.send(b"another")

    desk.plant(plant)
    assert desk.counts("--allow", "foreign") == {"misplaced": 1, "foreign": 1}


def test_what_the_relay_has_passed_is_found(desk: Desk) -> None:
    async def plant(publisher: Publisher, connection: asyncpg.Connection) -> None:
        await publisher.commit()
        await publisher.deliver()
        await connection.execute("UPDATE outbox.lane SET position = 2")

    desk.plant(plant)
    assert desk.counts() == {"in_place": 1, "unsettled": 1}


def test_a_record_without_a_receipt_is_on_its_way(desk: Desk) -> None:
    async def plant(publisher: Publisher, _: object) -> None:
        await publisher.deliver()
        await publisher.publish(await publisher.commit())
        await publisher.commit()

    desk.plant(plant)
    assert desk.counts() == {"in_place": 1, "pending": 1}


def test_the_markers_that_transactions_leave_are_no_records(desk: Desk) -> None:
    async def plant(publisher: Publisher, connection: asyncpg.Connection) -> None:
        await publisher.deliver()
        transactional = AIOKafkaProducer(
            bootstrap_servers=desk.bootstrap_servers, transactional_id=f"test-{secrets.token_hex(6)}"
        )
        async with transactional:
            for _ in range(2):
                async with transactional.transaction():
                    await Publisher(connection, transactional, desk.topic).deliver()
        await publisher.deliver()

    desk.plant(plant)
    assert desk.counts() == {"in_place": 4}
    assert desk.counts("--sample", "100") == {"in_place": 4}


def test_what_retention_has_dropped_is_not_lost(desk: Desk) -> None:
    desk.plant(_honest)

    async def drop() -> None:
        async with admin(desk.bootstrap_servers) as client:
            await client.delete_records({TopicPartition(desk.topic, 0): RecordsToDelete(before_offset=5)})

    asyncio.run(drop())
    assert desk.counts() == {"in_place": 16, "retained_away": 5}
    assert desk.counts("--sample", "300")["retained_away"] == 5


def test_what_the_outbox_has_dropped_is_not_unknown(desk: Desk) -> None:
    async def plant(publisher: Publisher, connection: asyncpg.Connection) -> None:
        for _ in range(3):
            await publisher.deliver()
        await connection.execute("SELECT setval('outbox.event_id', 5000000)")
        await connection.execute("SELECT outbox.add_segment(5000001, 10000001)")
        await publisher.deliver()
        await connection.execute("DROP TABLE outbox.event_1, outbox.receipt_1")

    desk.plant(plant)
    assert desk.counts() == {"in_place": 1, "pruned": 3}
    assert "was not compared" in desk().stdout


def test_a_compacted_topic_has_lost_only_the_last_of_a_key(
    outbox: str, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    desk = Desk(outbox, kafka.bootstrap_servers, make_topic(1, **{"cleanup.policy": "compact"}))

    async def plant(publisher: Publisher, _: object) -> None:
        # As if compaction had removed them: nobody can be told to compact now.
        await publisher.send(b"")
        for key in ("a", "b", "c"):
            await publisher.settle(await publisher.commit(key), 0, 0)
        await publisher.deliver("a")
        await publisher.settle(await publisher.commit("b", None), 0, 0)

    desk.plant(plant)
    assert desk.counts("--allow", "foreign") == {"in_place": 1, "compacted_away": 3, "lost": 1, "foreign": 1}
    (lost,) = [each for each in desk.report()["topics"][0]["examples"] if each["kind"] == "lost"]
    assert lost["id"] == 3
    assert desk.counts("--sample", "300")["lost"] == 1


def test_one_key_or_the_latest_events_can_be_compared_alone(desk: Desk) -> None:
    async def plant(publisher: Publisher, connection: asyncpg.Connection) -> None:
        await publisher.settle(await publisher.commit("a"), 0, 99)
        await connection.execute("UPDATE outbox.receipt SET delivered_at = now() - interval '3 h'")
        await publisher.deliver("a")
        await publisher.settle(await publisher.commit("b"), 0, 98)

    desk.plant(plant)
    assert desk.counts() == {"in_place": 1, "lost": 2}
    assert desk.counts("--since", "1h") == {"in_place": 1, "lost": 1}
    assert desk.counts("--key", "a") == {"in_place": 1, "lost": 1}
    assert desk.counts("--key", "a", "--since", "1h") == {"in_place": 1}


def test_metrics_are_written_as_a_whole_file(desk: Desk, tmp_path: Path) -> None:
    desk.plant(_honest)
    file = tmp_path / "relay_verify.prom"
    assert desk("--sample", "500", "--metrics", str(file), topic=False).exit_code == 0
    text = file.read_text()
    assert f'relay_verify_findings{{topic="{desk.topic}",kind="lost"}} 0' in text
    assert f'relay_verify_records{{topic="{desk.topic}"}} 21' in text
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
    refused = desk("--metrics", str(tmp_path / "none" / "file"))
    assert refused.exit_code == 1
    assert "cannot be written" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--topic", "no-such-topic"), 1, "does not exist"),
        ((), 2, "--topic, or --sample"),
        (("--sample", "5", "--since", "1h"), 2, "leave out --key and --since"),
        (("--topic", "orders", "--since", "0s"), 2, "is not before now"),
    ],
)
def test_what_cannot_be_compared_is_refused(desk: Desk, arguments: tuple[str, ...], code: int, says: str) -> None:
    desk.plant(_honest)
    refused = desk(*arguments, topic=False)
    assert refused.exit_code == code
    assert says in refused.stderr


def test_an_outbox_without_deliveries_has_nothing_to_compare(desk: Desk) -> None:
    refused = desk()
    assert refused.exit_code == 1
    assert "no event has been delivered" in refused.stderr
    desk.plant(_honest)
    refused = desk("--key", "none")
    assert "nothing to compare" in refused.stderr
    assert desk("--since", "1h", RELAY_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1").exit_code == 3
