"""Least privilege in Kafka: the documented ACLs are enough, and each of them is needed for what the document says."""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from relay.errors import RefusedError
from relay.kafka.checkup import Events, Seen, check_up
from relay.kafka.producer import KafkaProducer
from relay.kafka.reconcile.reconcile import KafkaReconcile
from relay.kafka.topic_reader import topic_reader
from relay.local import create_topic
from relay.outcome import Acknowledged, BatchOutcome, PublishError, Refused
from relay.settings import KafkaSettings, TopicSettings
from relay.stages.reconcile.ports import Place, TroubleKind, UnfenceableError
from tests.integration.test_kafka_producer import ALL, always, event
from tests.support import documents
from tests.support.kafka.tails import SECONDS, Noted, read
from tests.support.servers import shared as servers
from tests.support.servers.secured_kafka import NEWCOMER, PASSWORD, SecuredKafka

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TOPIC, NEW = "owned", "new-"
MAX_BYTES = 54_321

USERS = {
    "describes": ("Describe",),
    "writes": ("Write",),
    "writes-and-reads-limits": ("Write", "DescribeConfigs"),
    "writes-and-creates": ("Write", "Create"),
    "writes-and-fences": ("Write",),
    "writes-fences-and-reads": ("Write", "Read"),
}
"""The users of this test, each with what it may do with the topic TOPIC and those that begin with NEW."""

IDS = "outbox-"
"""What the transactional ids begin with that the users may write to who fence."""


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredKafka]:
    with servers.server_folder() as folder, SecuredKafka(folder) as server:
        asyncio.run(
            create_topic(server.bootstrap_servers, TOPIC, partitions=1, configs={"max.message.bytes": MAX_BYTES})
        )
        for operation in sorted({each for operations in USERS.values() for each in operations}):
            principals = [f"User:{name}" for name, operations in USERS.items() if operation in operations]
            pattern = ("--topic", NEW, "--resource-pattern-type", "prefixed")
            server.allow("--operation", operation, "--topic", TOPIC, principals=principals)
            server.allow("--operation", operation, *pattern, principals=principals)
        pattern = ("--transactional-id", IDS, "--resource-pattern-type", "prefixed")
        fencing = [f"User:{name}" for name in USERS if "fences" in name]
        server.allow("--operation", "Write", *pattern, principals=fencing)
        servers.wait_for_coordinator(server)
        yield server


def settings_of(secured: SecuredKafka, user: str) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=secured.address("TOKEN"),
        security_protocol="SASL_SSL",
        sasl_mechanism="OAUTHBEARER",
        oauth_provider="token",
        oauth_token=SecretStr(secured.issuer.token(sub=user)),
        ssl_cafile=secured.authority.certificate,
        request_timeout=5.0,
    )


@asynccontextmanager
async def connected(
    secured: SecuredKafka, user: str, topics: TopicSettings, enlistment: Noted | None = None
) -> AsyncIterator[KafkaProducer]:
    producer = await KafkaProducer.connect(settings_of(secured, user), topics, enlistment=enlistment)
    try:
        yield producer
    finally:
        await producer.close(2)


async def published(producer: KafkaProducer, topic: str) -> BatchOutcome:
    """What becomes of one event."""
    async with asyncio.timeout(30):
        assert await producer.partition_count(topic)
        answered: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
        batch = producer.pack([event(1)], ALL, None)
        await producer.send(batch, topic, 0, always, partial(_answer, answered))
        return await answered


def _answer(answered: asyncio.Future[BatchOutcome], outcome: BatchOutcome) -> None:
    if not answered.done():
        answered.set_result(outcome)


async def test_write_is_enough_to_publish_and_without_the_others_their_service_is_missing(
    secured: SecuredKafka,
) -> None:
    creating = TopicSettings(create=True, partitions=2, replication=1)
    async with connected(secured, "writes", creating) as producer:
        assert isinstance(await published(producer, TOPIC), Acknowledged)
        assert (await producer.limits(TOPIC)).max_bytes is None
        with pytest.raises(PublishError) as raised:
            await producer.partition_count(f"{NEW}one")
        assert f"grant the relay CREATE on the topic {NEW}one or on the cluster, or create the topic" in str(
            raised.value
        )


async def test_describe_configs_shows_the_limits(secured: SecuredKafka) -> None:
    async with connected(secured, "writes-and-reads-limits", TopicSettings()) as producer:
        assert (await producer.limits(TOPIC)).max_bytes == MAX_BYTES
        assert isinstance(await published(producer, TOPIC), Acknowledged)


async def test_create_makes_topics(secured: SecuredKafka) -> None:
    creating = TopicSettings(create=True, partitions=2, replication=1)
    async with connected(secured, "writes-and-creates", creating) as producer:
        with pytest.raises(PublishError, match="does not exist; create it"):
            await producer.partition_count(f"{NEW}two")
        assert isinstance(await published(producer, f"{NEW}two"), Acknowledged)


async def test_without_write_nothing_is_published_and_the_error_names_it(secured: SecuredKafka) -> None:
    with pytest.raises(PublishError, match="grant the relay IDEMPOTENT_WRITE on the cluster, or WRITE on a topic"):
        async with connected(secured, "describes", TopicSettings()):
            raise AssertionError


@asynccontextmanager
async def reconciling(secured: SecuredKafka, user: str) -> AsyncIterator[KafkaReconcile]:
    port = KafkaReconcile(settings_of(secured, user))
    try:
        yield port
    finally:
        await port.close()


async def end_of(port: KafkaReconcile) -> int:
    ends = (await port.ends({TOPIC: 1}))[TOPIC]
    assert isinstance(ends, list)
    return ends[0]


async def test_write_on_the_transactional_ids_and_read_let_a_replica_find_what_another_left(
    secured: SecuredKafka,
) -> None:
    user, place, noted = "writes-fences-and-reads", Place(TOPIC, 0), Noted(f"{IDS}{secrets.token_hex(6)}")
    async with connected(secured, user, TopicSettings(), noted) as producer, reconciling(secured, user) as port:
        begin = await end_of(port)
        assert await published(producer, TOPIC) == Acknowledged(begin)
        fenced = await port.fence(str(producer.name), [place], SECONDS)
        assert fenced.unfenced == {}
        found, ended = await read(port, {place: begin}, dict([fenced.producer]))
        assert [each and each.id for _, each in found[place]] == [1]
        assert ended[place].trouble is None
        assert isinstance(await published(producer, TOPIC), Refused)


async def test_without_read_the_fence_holds_and_reading_says_which_right_is_missing(secured: SecuredKafka) -> None:
    user, place, noted = "writes-and-fences", Place(TOPIC, 0), Noted(f"{IDS}{secrets.token_hex(6)}")
    async with connected(secured, user, TopicSettings(), noted) as producer, reconciling(secured, user) as port:
        begin = await end_of(port)
        fenced = await port.fence(str(producer.name), [place], SECONDS)
        found, ended = await read(port, {place: begin}, dict([fenced.producer]))
        assert found == {place: []}
        assert ended[place].trouble == (
            TroubleKind.RIGHTS,
            f"no right to read topic {TOPIC}; grant the relay READ on it",
        )
        # Neither may it ask for the last sequences.
        _, ended = await read(port, {place: begin}, {noted.producer.id: None})
        assert ended[place].trouble == (
            TroubleKind.RIGHTS,
            f"no right to read topic {TOPIC}; grant the relay READ on it",
        )


@pytest.mark.parametrize("user", ["describes", "writes", "writes-fences-and-reads"])
async def test_read_lets_a_person_compare_a_topic_and_without_it_the_error_names_it(
    secured: SecuredKafka, user: str
) -> None:
    async with connected(secured, "writes", TopicSettings()) as producer:
        assert isinstance(await published(producer, TOPIC), Acknowledged)
    async with topic_reader(settings_of(secured, user)) as reader:
        assert await reader.partitions(TOPIC) == [0]
        bounds = await reader.bounds(TOPIC, [0])
        if "reads" in user:
            answers = [each async for answer in reader.read(TOPIC, bounds) for each in answer]
            assert sum(each.passed for each in answers) == bounds[0][1] - bounds[0][0]
        else:
            with pytest.raises(RefusedError, match=f"may not read the topic {TOPIC}; grant it READ"):
                await anext(reader.read(TOPIC, bounds))
        with pytest.raises(RefusedError, match="does not exist, or this login may not see it"):
            await reader.partitions("somebody-elses")


@pytest.mark.parametrize(
    ("user", "ids"), [("writes", IDS), ("writes-and-fences", "another-")], ids=["no right", "another prefix"]
)
async def test_without_a_right_to_the_transactional_id_a_producer_works_without_one_and_says_so(
    secured: SecuredKafka, user: str, ids: str
) -> None:
    noted = Noted(f"{ids}{secrets.token_hex(6)}")
    async with connected(secured, user, TopicSettings(), noted) as producer:
        (trouble,) = noted.troubles
        assert trouble.kind is TroubleKind.RIGHTS
        assert trouble.said.endswith("grant the relay WRITE and DESCRIBE on it")
        assert noted.enlisted == [(None, noted.producer)]
        assert isinstance(await published(producer, TOPIC), Acknowledged)
    async with reconciling(secured, user) as port:
        with pytest.raises(UnfenceableError) as raised:
            await port.fence(f"{ids}x", [Place(TOPIC, 0)], SECONDS)
        assert raised.value.trouble.kind is TroubleKind.RIGHTS


async def test_each_right_that_is_missing_is_told_with_the_command_that_grants_it(secured: SecuredKafka) -> None:
    """As `relay doctor` tells it: nothing is left to say when the commands were run."""
    login = KafkaSettings(
        bootstrap_servers=secured.address("LOGIN"),
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username=NEWCOMER,
        sasl_password=SecretStr(PASSWORD),
        ssl_cafile=secured.authority.certificate,
        request_timeout=5.0,
    )
    creating = TopicSettings(create=True, partitions=2, replication=1)

    async def told(topics: TopicSettings, topic: str) -> list[Seen]:
        return [each for each in await check_up(login, topics, Events([topic])) if each.state != "ok" or each.do]

    async def run(command: str) -> None:
        program, _, _, add, allow, principal, *more = shlex.split(command)
        assert (program, add, allow, principal) == ("kafka-acls", "--add", "--allow-principal", f"User:{NEWCOMER}")
        await asyncio.to_thread(secured.allow, *more, principals=[principal])

    producing, ids, writing = await told(TopicSettings(), TOPIC)
    assert "grant the relay IDEMPOTENT_WRITE on the cluster, or WRITE on a topic" in producing.do
    assert ids[:2] == ("ok", f"the relay may not use transactional ids that begin with {IDS}")
    await run(ids.do.removeprefix("if that is not intended: run "))
    assert writing[:2] == ("problem", f"the relay may not write to the topic {TOPIC}")
    await run(writing.do.removeprefix("run "))
    limits, reading = await told(TopicSettings(), TOPIC)
    assert limits[:2] == ("ok", f"the topic {TOPIC} has 1 partitions, and its limits are not shown to the relay")
    assert reading[:2] == ("ok", f"the relay may not read the topic {TOPIC}")
    for hint in (limits, reading):
        await run(hint.do.removeprefix("if that is not intended: run "))
    assert await told(TopicSettings(), TOPIC) == []

    # What it may not even see it may not write to.
    (unseen,) = await told(creating, f"{NEW}seven")
    await run(unseen.do.removeprefix("run "))
    (missing,) = await told(creating, f"{NEW}seven")
    assert missing.what == f"topic {NEW}seven does not exist and may not be created by the relay"
    await run(missing.do.removeprefix("run ").removesuffix(", or create the topic"))
    assert await told(creating, f"{NEW}seven") == []
    (absent,) = await told(TopicSettings(), f"{NEW}seven")
    assert absent[:2] == ("problem", f"topic {NEW}seven does not exist")


def test_the_document_names_these_operations_and_no_others() -> None:
    chapter = documents.page("deploy/README.md").partition("The relay's user needs:")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", chapter, re.MULTILINE))
    assert named == {operation for operations in USERS.values() for operation in operations}
