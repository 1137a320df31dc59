"""`relay doctor`: silent beside a healthy relay, and each thing that is wrong found when it is provoked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr

from relay.admin.doctor.postgres import Examination
from relay.admin.doctor.server import literal, of_server
from relay.cli import main
from relay.kafka.checkup import Events, check_up
from relay.postgres.admin.doctor import Server
from relay.settings import KafkaSettings, PostgresSettings, TopicSettings
from tests.support.postgres.outbox import add_event, connected

if TYPE_CHECKING:
    from relay.admin.doctor.check import Check
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers


async def doctor(here: Place, *arguments: str, **more: str) -> Result:
    env = {
        "RELAY_POSTGRES_DSN": here.dsn,
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": here.bootstrap_servers,
        "RELAY_KAFKA_REQUEST_TIMEOUT": "3",
        **more,
    }
    return await asyncio.to_thread(CliRunner().invoke, main, ["doctor", *arguments], env=env)


async def test_beside_a_healthy_relay_there_is_nothing_to_say(here: Place) -> None:
    async with here.relay() as relay:
        await relay.ready()
        await add_event(here.connection, topic=here.topic)
        await here.settled()
        found = await doctor(here, "--json")
        checks: list[dict[str, Any]] = json.loads(found.stdout)
        assert [check for check in checks if check["state"] != "ok"] == []
        assert found.exit_code == 0
        assert {check["area"] for check in checks} == {"settings", "postgres", "outbox", "kafka"}
        assert f"the topic {here.topic} has 4 partitions" in {check["what"] for check in checks}
        shown = await doctor(here)
        assert shown.exit_code == 0
        assert all(line.startswith("ok ") for line in shown.stdout.splitlines())
        await relay.stop()


async def test_what_is_wrong_is_said_with_its_meaning_and_what_to_do(here: Place) -> None:
    found = await doctor(here)
    assert found.exit_code == 1
    assert "problem  outbox    no replica is alive\n" in found.stdout
    assert "means: nothing is being published\n" in found.stdout
    assert "do: start `relay run`, or read its log\n" in found.stdout

    away = await doctor(here, RELAY_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert away.exit_code == 1
    assert "problem  kafka     the broker 127.0.0.1:1 cannot be used: nothing listens on this port\n" in away.stdout
    assert "do: start the broker, or correct RELAY_KAFKA_BOOTSTRAP_SERVERS\n" in away.stdout

    wrong = await doctor(here, RELAY_HTTP_PORT="-1")
    assert wrong.exit_code == 1
    assert "problem  settings  RELAY_HTTP_PORT is '-1' but should be" in wrong.stdout
    assert "ok       postgres  PostgreSQL" in wrong.stdout, "the rest is looked at all the same"

    missing = await doctor(here, RELAY_POSTGRES_SCHEMA="elsewhere")
    assert "problem  outbox    there is no outbox in the schema elsewhere of this database\n" in missing.stdout
    assert "ok       postgres  PostgreSQL" in missing.stdout, "what needs no outbox is looked at all the same"
    assert "ok       kafka     " in missing.stdout


async def test_what_is_wrong_with_the_server_is_found(here: Place) -> None:
    settings = PostgresSettings(dsn=SecretStr(here.dsn))
    async with connected(here.dsn) as other:
        transaction = other.transaction()
        await transaction.start()
        pid = await other.fetchval("SELECT pg_backend_pid()")
        await here.connection.execute("ALTER TABLE outbox.lane SET (autovacuum_enabled = off)")
        found = {check.what: check for check in await Examination(settings, older_than=0.0).checks()}
        await transaction.rollback()
    old = _one(found, f"session {pid} (postgres, idle in transaction) has been in a transaction for ")
    assert (old.state, old.do) == ("warning", f"if it is no longer needed: SELECT pg_terminate_backend({pid})")
    assert old.what.endswith(": SELECT pg_backend_pid()")
    table = _one(found, "autovacuum is off for the table lane")
    assert table.do == "as the owner of the outbox, run ALTER TABLE outbox.lane RESET (autovacuum_enabled)"
    await here.connection.execute(table.do.partition("run ")[2])
    again = {check.what for check in await Examination(settings, older_than=0.0).checks()}
    assert not any(what.startswith(("autovacuum", f"session {pid} ")) for what in again)

    skewed = {check.what for check in await Examination(settings, clock=lambda: 0.0).checks()}
    assert any(what.startswith("PostgreSQL's clock is ") and "ahead of" in what for what in skewed)


async def test_who_has_uncommitted_events_is_named_sooner_than_who_only_reads(here: Place) -> None:
    settings = PostgresSettings(dsn=SecretStr(here.dsn))
    async with connected(here.dsn) as reader, connected(here.dsn) as writer:
        reading, writing = reader.transaction(), writer.transaction()
        await reading.start()
        await reader.fetchval("SELECT pg_current_xact_id()")
        await writing.start()
        await add_event(writer, topic=here.topic)
        pid = await writer.fetchval("SELECT pg_backend_pid()")
        found = {check.what: check for check in await Examination(settings, uncommitted=0.0).checks()}
        await writing.rollback()
        await reading.rollback()
    (told,) = [check for what, check in found.items() if what.startswith(("session", "prepared"))]
    assert told.what.startswith(f"session {pid} (postgres, idle in transaction) has uncommitted events, in a transact")
    assert "relay_floor_lag_seconds" in told.means
    assert told.do == f"if it is no longer needed: SELECT pg_terminate_backend({pid})"


async def test_a_forgotten_prepared_transaction_with_events_is_named_with_what_ends_it(here: Place) -> None:
    settings = PostgresSettings(dsn=SecretStr(here.dsn))
    gid = f"it's {here.topic}"
    async with connected(here.dsn) as writer:
        await writer.execute("BEGIN")
        await add_event(writer, topic=here.topic)
        await writer.execute(f"PREPARE TRANSACTION {literal(gid)}")
    checks = await Examination(settings, uncommitted=0.0).checks()
    (told,) = [check for check in checks if check.what.startswith("prepared transaction")]
    assert here.topic in told.what
    assert " (postgres, prepared) has uncommitted events, in a transaction that began " in told.what
    statement, _, agreed = told.do.removeprefix("if it is no longer needed: ").partition(", once ")
    assert agreed == "its owner has agreed"
    await here.connection.execute(statement)
    assert not any(check.what.startswith("prepared") for check in await Examination(settings, uncommitted=0.0).checks())


HEALTHY = Server("18.4", True, True, 1_000.0, True, True, "relay")


@pytest.mark.parametrize(
    ("server", "state", "said"),
    [
        (HEALTHY, "ok", "PostgreSQL 18.4 answers relay, with TLS"),
        (replace(HEALTHY, encrypted=False), "warning", "the connection to PostgreSQL is not encrypted"),
        (replace(HEALTHY, clock=990.0), "warning", "PostgreSQL's clock is 10 s behind this machine's"),
        (replace(HEALTHY, autovacuum=False), "problem", "autovacuum is off"),
        (
            replace(HEALTHY, sees_others=False),
            "ok",
            "relay may not see when transactions of other roles began, so old ones are not looked for",
        ),
    ],
)
def test_a_server_is_judged(server: Server, state: str, said: str) -> None:
    checks = list(of_server(server, 1_000.0))
    assert [(check.state, check.what) for check in checks][-1] == (state, said)
    assert len(checks) <= 2


async def test_topics_that_are_missing_or_take_less_are_found(kafka: servers.Kafka, make_topic: MakeTopic) -> None:
    small = make_topic(1, **{"max.message.bytes": 10_000})
    settings = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, request_timeout=3.0)
    used = [small, "no-such-topic", "__internal"]
    for creates in (False, True):
        seen = await check_up(settings, TopicSettings(create=creates, replication=1), Events(used, 20_000))
        (less,) = (each for each in seen if each.state == "warning")
        assert less.what == f"the topic {small} takes record batches of 10,000 bytes, and events may have 20,000"
        assert less.do.startswith(f"run kafka-configs --bootstrap-server {kafka.bootstrap_servers} --alter ")
        assert f"--entity-name {small} --add-config max.message.bytes=22000, or as the owner" in less.do
        assert less.do.endswith("relay migrate --max-event-bytes 8000")
        missing = [each for each in seen if "no-such-topic" in each.what]
        assert [each[:2] for each in missing] == (
            [] if creates else [("problem", "topic no-such-topic does not exist")]
        )
        assert creates or "kafka-topics --bootstrap-server" in missing[0].do
        assert creates or "--create --topic no-such-topic --partitions 12 --replication-factor 1 " in missing[0].do
        assert not any("__internal" in each.what for each in seen)
    # What is told mends it.
    mended = await check_up(settings, TopicSettings(replication=1), Events([small], 8_000))
    assert [each for each in mended if each.state != "ok"] == []


async def test_an_event_that_waited_for_longer_than_its_topic_keeps_records_is_found(
    here: Place, make_topic: MakeTopic
) -> None:
    topics = {
        make_topic(1, **{"retention.ms": 3_600_000}): "problem",
        make_topic(1, **{"retention.ms": 3 * 3_600_000}): "warning",
        make_topic(1, **{"retention.ms": 24 * 3_600_000}): None,
        make_topic(1, **{"retention.ms": 3_600_000, "message.timestamp.type": "LogAppendTime"}): None,
        make_topic(1, **{"retention.ms": 3_600_000, "cleanup.policy": "compact"}): None,
        # What is older than this is published with another time.
        make_topic(1, **{"retention.ms": 3_600_000, "message.timestamp.before.max.ms": 60_000}): None,
    }
    for topic in topics:
        await here.connection.execute(
            "INSERT INTO outbox.event (topic, payload, created_at) VALUES ($1, 'x', now() - interval '2 h')", topic
        )
    checks = json.loads((await doctor(here, "--json")).stdout)
    told = {each["what"]: each for each in checks if "was written" in each["what"]}
    for topic, state in topics.items():
        found = [each["state"] for what, each in told.items() if f"the topic {topic} was written 2 hours ago" in what]
        assert found == ([state] if state else []), topic
    (worst,) = (each for each in told.values() if each["state"] == "problem")
    assert "--add-config retention.ms=28" in worst["do"]
    published = json.loads((await doctor(here, "--json", RELAY_KAFKA_TIMESTAMP="published")).stdout)
    assert not any("was written" in each["what"] for each in published)


async def test_a_dead_letter_topic_that_is_missing_is_found(here: Place) -> None:
    await add_event(here.connection, topic=here.topic)
    found = await doctor(here, RELAY_FAILURE_POLICY="dead-letter")
    assert f"problem  kafka     topic {here.topic}.dead-letter does not exist\n" in found.stdout
    assert "dead-letter" not in (await doctor(here)).stdout


def _one(found: dict[str, Check], beginning: str) -> Check:
    (check,) = (check for what, check in found.items() if what.startswith(beginning))
    return check
