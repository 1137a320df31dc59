"""Looks at Kafka as a relay would use it: brokers, login, rights, and the topics of events. Changes nothing."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Literal, NamedTuple

from relay.kafka.administration import CLOSE_TIMEOUT, Administration, limits_of
from relay.kafka.connections import probe
from relay.kafka.permissions import Permissions
from relay.kafka.producer import KafkaProducer
from relay.outcome import PublishError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from relay.kafka.permissions import TopicSeen
    from relay.settings import KafkaSettings, TopicSettings


_IAM = {
    ("--topic", "Write"): "WriteData",
    ("--topic", "Read"): "ReadData",
    ("--topic", "Create"): "CreateTopic",
    ("--topic", "DescribeConfigs"): "DescribeTopicDynamicConfiguration",
    ("--transactional-id", "Write"): "AlterTransactionalId",
}
"""How Amazon MSK calls the operations."""


_BESIDE_AN_EVENT = 2_000
"""Bytes that a record batch may have beside what a writer's limit counts: the relay's headers, and the lengths of up to
256 headers."""


class Seen(NamedTuple):
    """What was found about one thing."""

    state: Literal["ok", "warning", "problem"]
    what: str
    means: str = ""
    do: str = ""


class Events(NamedTuple):
    """What the outbox says about the events that are to be published."""

    topics: Sequence[str]
    """Those that events and dead letters go to."""
    most_bytes: int | None = None
    """The largest event that writers may write, None if there is no limit."""
    waiting: Mapping[str, float] = {}
    """By topic, the seconds since the oldest event that waits was written."""
    schema: str = "outbox"
    """The outbox's, with which transactional ids begin."""


async def check_up(settings: KafkaSettings, topics: TopicSettings, events: Events) -> list[Seen]:
    """Look at the brokers of the settings and at the topics that events go to."""
    found = [each async for each in _brokers(settings)]
    if all(each.state == "problem" for each in found):
        return found
    # It must not make topics: this is a look.
    unmaking = topics.model_copy(update={"create": False})
    try:
        producer = await KafkaProducer.connect(settings, unmaking)
    except PublishError as error:
        # What is missing for a topic may be why.
        found.append(Seen("problem", *_parts(str(error))))
    else:
        await producer.close(2.0)
        found.append(Seen("ok", "an idempotent producer gets its id"))
    administration = Administration(settings, unmaking)
    permissions = Permissions(administration, topics.partitions, topics.replication)
    try:
        if not await permissions.transactional(f"{events.schema}-doctor"):
            found.append(_no_ids(settings, events.schema))
        for topic in events.topics:
            # The events of one that is not allowed fail, which is said where failures are.
            if topics.admission().refusal(topic) is None:
                found += _topic(await permissions.look(topic), settings, topics, events)
    except PublishError as error:
        found.append(Seen("problem", *_parts(str(error))))
    finally:
        await administration.close(CLOSE_TIMEOUT)
    return found


async def _brokers(settings: KafkaSettings) -> AsyncIterator[Seen]:
    for server in settings.bootstrap_servers.split(","):
        host, _, port = server.rpartition(":")
        cause = await probe(host.strip("[]"), int(port), settings)
        if cause is None:
            yield Seen("ok", f"the broker {server} answers ({settings.security_protocol})")
        else:
            what, means, do = _parts(cause)
            yield Seen("problem", f"the broker {server} cannot be used: {what}", means, do)


def _topic(seen: TopicSeen, settings: KafkaSettings, topics: TopicSettings, events: Events) -> Iterator[Seen]:
    topic = seen.name
    if not seen.writable:
        yield Seen(
            "problem",
            f"the relay may not write to the topic {topic}",
            "its events wait",
            _allow(settings, "Write", topic),
        )
    elif not seen.exists and not topics.create:
        yield Seen(
            "problem",
            f"topic {topic} does not exist",
            "its events wait",
            f"run {_command(settings, 'kafka-topics')} --create --topic {shlex.quote(topic)} "
            f"--partitions {topics.partitions} --replication-factor {topics.replication} (or as many as fit), "
            "or set RELAY_TOPIC_CREATE=true to have the relay create topics",
        )
    elif not seen.exists and not seen.creatable:
        yield Seen(
            "problem",
            f"topic {topic} does not exist and may not be created by the relay",
            "its events wait",
            f"{_allow(settings, 'Create', topic)}, or create the topic",
        )
    if not seen.exists:
        return
    if seen.configuration is not None:
        yield Seen("ok", f"the topic {topic} has {seen.partitions} partitions")
    else:
        yield Seen(
            "ok",
            f"the topic {topic} has {seen.partitions} partitions, and its limits are not shown to the relay",
            "an event that is too large fails once Kafka refuses it, and not before it is sent",
            f"if that is not intended: {_allow(settings, 'DescribeConfigs', topic)}",
        )
    if not seen.readable:
        yield Seen(
            "ok",
            f"the relay may not read the topic {topic}",
            "what a replica that crashed had published there may be published again",
            f"if that is not intended: {_allow(settings, 'Read', topic)}",
        )
    if seen.configuration is None:
        return
    yield from _size(topic, limits_of(seen.configuration).max_bytes, events.most_bytes, settings)
    if settings.timestamp == "created":
        yield from _retention(topic, seen.configuration, events.waiting.get(topic), settings)


def _no_ids(settings: KafkaSettings, schema: str) -> Seen:
    return Seen(
        "ok",
        f"the relay may not use transactional ids that begin with {schema}-",
        "what a replica that crashed had published may be published again",
        "if that is not intended: "
        + _allow(settings, "Write", f"{schema}-", "--transactional-id", " --resource-pattern-type prefixed"),
    )


def _size(topic: str, taken: int | None, written: int | None, settings: KafkaSettings) -> Iterator[Seen]:
    if taken is not None and written is not None and taken < written + _BESIDE_AN_EVENT:
        smaller = taken - _BESIDE_AN_EVENT
        yield Seen(
            "warning",
            f"the topic {topic} takes record batches of {taken:,} bytes, and events may have {written:,}",
            "an event that does not fit fails",
            f"run {_command(settings, 'kafka-configs')} --alter --entity-type topics --entity-name "
            f"{shlex.quote(topic)} --add-config max.message.bytes={written + _BESIDE_AN_EVENT}"
            + (f", or as the owner of the outbox relay migrate --max-event-bytes {smaller}" if smaller > 0 else ""),
        )


def _retention(
    topic: str, configuration: Mapping[str, str | None], waited: float | None, settings: KafkaSettings
) -> Iterator[Seen]:
    """Yield what is wrong with the oldest event that waits for the topic, for `waited` seconds since it was written."""
    kept_ms = int(configuration.get("retention.ms") or -1)
    by_time = "delete" in (configuration.get("cleanup.policy") or "delete")
    before_ms = limits_of(configuration).before_ms
    if waited is None or kept_ms < 0 or not by_time or configuration.get("message.timestamp.type") == "LogAppendTime":
        return
    waited_ms = waited * 1000
    # Older than the topic takes: it gets the time of publishing.
    if waited_ms < kept_ms / 2 or (before_ms is not None and waited_ms > before_ms):
        return
    over = waited_ms >= kept_ms
    yield Seen(
        "problem" if over else "warning",
        f"an event for the topic {topic} was written {_span(waited)} ago, and the topic keeps records for "
        f"{_span(kept_ms / 1000)}",
        "Kafka counts from when the event was written: "
        + ("it may delete the record as soon as it arrives" if over else "consumers have little time left to read it"),
        f"set RELAY_KAFKA_TIMESTAMP=published, or {_command(settings, 'kafka-configs')} --alter --entity-type topics "
        f"--entity-name {shlex.quote(topic)} --add-config retention.ms={max(2 * kept_ms, round(4 * waited_ms))}",
    )


def _span(seconds: float) -> str:
    """Write a length of time in its largest unit that fits."""
    for length, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _allow(settings: KafkaSettings, operation: str, name: str, option: str = "--topic", pattern: str = "") -> str:
    if settings.oauth_provider == "aws-msk-iam":
        action = _IAM.get((option, operation), operation)
        return f"allow kafka-cluster:{action} on {option[2:]} {name}{'*' * bool(pattern)} in the relay's IAM policy"
    principal = shlex.quote(f"User:{settings.sasl_username}") if settings.sasl_username else "User:NAME"
    whose = "" if settings.sasl_username else " (NAME: whom the brokers take this login for)"
    return (
        f"run {_command(settings, 'kafka-acls')} --add --allow-principal {principal} --operation {operation} "
        f"{option} {shlex.quote(name)}{pattern}{whose}"
    )


def _command(settings: KafkaSettings, name: str) -> str:
    return f"{name} --bootstrap-server {settings.bootstrap_servers.split(',')[0]}"


def _parts(text: str) -> tuple[str, str, str]:
    """Return what is wrong, nothing, and what to do, which is behind the last semicolon."""
    what, _, do = text.rpartition("; ")
    return (what, "", do) if what else (do, "", "")
