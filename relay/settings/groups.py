"""The settings of the relay, one group per stage; every field's description is its documentation.

A group `kafka` with a field `request_timeout` is set by the variable `RELAY_KAFKA_REQUEST_TIMEOUT`.
Times are in seconds, sizes in bytes. A stage is handed only its own group.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FilePath, SecretStr

from relay.decide.admission import Admission
from relay.decide.failing import Policy
from relay.names import TOPIC_CHARACTERS
from relay.settings import checks


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


_ANYWHERE = "0.0.0.0"  # noqa: S104 probes and Prometheus come from outside the container

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Dsn = Annotated[SecretStr, AfterValidator(checks.dsn)]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Compression = Literal["none", "zstd", "lz4", "snappy", "gzip"]


def _policies(value: str) -> str:
    """Return the pairs unchanged; raise ValueError if they are not `pattern=policy,...`."""
    for pair in filter(None, (each.strip() for each in value.split(","))):
        pattern, separator, policy = (part.strip() for part in pair.partition("="))
        if not pattern or not separator or policy not in get_args(Policy):
            raise ValueError(f"contains {pair!r}; write pairs like audit.*=skip,orders=dead-letter (or =block)")
    return value


def _split(patterns: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in patterns.split(",") if each.strip())


def _patterns(value: str) -> str:
    """Return the patterns unchanged; raise ValueError for one that can match no topic."""
    if value and not _split(value):
        raise ValueError("has no pattern; write patterns like orders,billing.*")
    for pattern in _split(value):
        if re.search(rf"[^*?\[\]!{TOPIC_CHARACTERS}]", pattern):
            raise ValueError(f"contains {pattern!r}, which no topic can match; write patterns like orders,billing.*")
    return value


class Group(BaseModel):
    """Base of the groups: frozen, complete, and silent about the values it refuses."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_by_name=True, validate_by_alias=True
    )


class PostgresSettings(Group):
    """Where the outbox is. The admin commands need no other group."""

    dsn: Dsn = Field(
        description="URI of PostgreSQL, reached directly or through a pooler in session mode.",
        examples=["postgresql://user:password@host:5432/database"],
    )
    schema_name: Annotated[str, AfterValidator(checks.schema_name)] = Field(
        default="outbox",
        alias="schema",
        description="Schema of the outbox. One database can hold several outboxes.",
    )
    connect_timeout: Seconds = Field(
        default=10.0,
        description="Maximum time of one attempt to connect. The relay tries until an attempt succeeds.",
    )


class KafkaSettings(Group):
    """How to reach Kafka and what to send. `acks=all` and idempotence are always on and not settings."""

    bootstrap_servers: Annotated[str, AfterValidator(checks.bootstrap_servers)] = Field(
        description="Brokers to connect to first, as `host:port`, separated by commas.",
        examples=["broker-1:9092,broker-2:9092"],
    )
    client_id: Annotated[str, AfterValidator(checks.visible_name)] = Field(
        default="outbox-relay",
        min_length=1,
        max_length=200,
        description="Name of this relay in the brokers' logs.",
    )
    security_protocol: Annotated[SecurityProtocol, BeforeValidator(_upper)] = Field(
        default="PLAINTEXT", description="Protocol of the connections to the brokers."
    )
    sasl_mechanism: Annotated[SaslMechanism | None, BeforeValidator(_upper)] = Field(
        default=None, description="Mechanism to log in with; required by the `SASL_` protocols."
    )
    sasl_username: str | None = Field(default=None, description="User name to log in with.")
    sasl_password: SecretStr | None = Field(default=None, description="Password to log in with.")
    ssl_cafile: FilePath | None = Field(
        default=None, description="PEM file with the certificate authorities to trust. Not set: those of the system."
    )
    ssl_certfile: FilePath | None = Field(
        default=None, description="PEM file with the client certificate, for brokers that require one."
    )
    ssl_keyfile: FilePath | None = Field(
        default=None, description="PEM file with the key of the client certificate, if it is not in the same file."
    )
    ssl_key_password: SecretStr | None = Field(default=None, description="Password of the key, if it has one.")
    request_timeout: Seconds = Field(
        default=8.0, description="Maximum time a broker may take to answer a request before the relay asks again."
    )
    compression: Annotated[Compression, BeforeValidator(_lower)] = Field(
        default="none",
        description="Compression of record batches. All but `none` and `gzip` need the extra `compression`.",
    )
    record_batch_bytes: int = Field(
        default=65_536,
        ge=1_024,
        le=1_048_576,
        description="Maximum size of a record batch of several events. A larger event is sent alone.",
    )
    timestamp: Annotated[Literal["created", "published"], BeforeValidator(_lower)] = Field(
        default="created",
        description="Time in Kafka's records: that of writing the event, or that of publishing it.",
    )


class ReplicaSettings(Group):
    """This replica and its right to lanes."""

    name: Annotated[str, AfterValidator(checks.visible_name)] = Field(
        default_factory=_own_name,
        min_length=1,
        max_length=200,
        description="Name of this replica in `relay status` and in logs.",
        json_schema_extra={"shown_default": "host name and process id"},
    )
    lease: Seconds = Field(
        default=15.0,
        description="Time for which a silent replica keeps its lanes. A heartbeat renews it every third of this time.",
    )


class ScanSettings(Group):
    """How pending events are read."""

    batch_events: Count = Field(default=1_000, description="Maximum number of events that one scan reads.")
    idle_interval: Seconds = Field(
        default=0.2, description="Pause between scans while nothing is pending: the latency of an idle relay."
    )
    busy_interval: Seconds = Field(
        default=0.002, description="Minimum pause between scans while events flow; at least as long as the scan."
    )
    sweep_step_ids: Count = Field(
        default=50_000, description="Number of ids that one step of a long sweep looks through."
    )
    wake_up: bool = Field(
        default=True, description="Listen for wake-ups, with which writers can end a pause after a commit."
    )


class BufferSettings(Group):
    """The bounds of the events that are read and not yet settled. The relay's memory grows with them."""

    max_events: Count = Field(default=8_000, description="Maximum number of events between scan and receipt.")
    max_bytes: int = Field(
        default=33_554_432, ge=1_048_576, description="Maximum size of all events between scan and receipt."
    )


class SettleSettings(Group):
    """How receipts are written."""

    batch_events: Count = Field(default=5_000, description="Maximum number of receipts that one statement writes.")


class PublishSettings(Group):
    """How fast the relay may publish; no limit by default."""

    events_per_second: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Maximum number of events per second that this replica publishes; 0 = no limit.",
    )
    bytes_per_second: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Maximum number of bytes per second that this replica publishes; 0 = no limit.",
    )


class FailureSettings(Group):
    """What happens to an event that Kafka does not take, and to the later events of its key."""

    policy: Annotated[Policy, BeforeValidator(_lower)] = Field(
        default="block",
        description="What happens after an event fails. `block` holds back the later events of its key until a replay "
        "or discard, `skip` publishes them, `dead-letter` publishes them and sends the event to a dead-letter topic.",
    )
    policies: Annotated[str, AfterValidator(_policies)] = Field(
        default="",
        description="Policies of single topics, by pattern; the first match counts: `audit.*=skip,orders=dead-letter`.",
    )
    max_attempts: Count = Field(
        default=10,
        description="Maximum number of attempts at an event whose error is unknown. An outage does not count.",
    )
    first_delay: Seconds = Field(
        default=1.0, description="Pause before the second attempt. It doubles with each attempt."
    )
    most_delay: Seconds = Field(default=300.0, description="Maximum pause between attempts.")
    dead_letter_suffix: str = Field(
        default=".dead-letter",
        pattern=rf"^[{TOPIC_CHARACTERS}]+$",
        description="Suffix of dead-letter topics: the topic's name and this suffix.",
    )

    def by_pattern(self) -> dict[str, Policy]:
        """The policies, by topic pattern in their order."""
        pairs = (pair.partition("=") for pair in self.policies.split(",") if pair.strip())
        return {pattern.strip(): cast("Policy", policy.strip()) for pattern, _, policy in pairs}


class TopicSettings(Group):
    """Which topics events may go to, and whether missing ones are created."""

    allow: Annotated[str, AfterValidator(_patterns)] = Field(
        default="*",
        min_length=1,
        description="Topics that events may go to, as patterns: `orders,billing.*`. Events for other topics fail.",
    )
    deny: Annotated[str, AfterValidator(_patterns)] = Field(
        default="__*",
        description="Topics that no event may go to, even if they are allowed. Kafka's own topics begin with `__`.",
    )
    create: bool = Field(default=False, description="Whether the relay creates topics that do not exist.")
    partitions: Count = Field(default=12, description="Number of partitions of topics that the relay creates.")
    replication: Count = Field(default=3, description="Replication factor of topics that the relay creates.")

    def admission(self) -> Admission:
        """Which topics events may go to."""
        return Admission(_split(self.allow), _split(self.deny))


class StopSettings(Group):
    """How the relay stops."""

    grace: Seconds = Field(
        default=25.0,
        description="Maximum time that a stop waits until all taken events are settled. Kubernetes kills after 30 s "
        "unless told otherwise.",
    )


class HttpSettings(Group):
    """Where `/livez`, `/readyz` and `/metrics` are served."""

    host: str = Field(default=_ANYWHERE, min_length=1, description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65_535, description="Port to listen on; 0 = no server.")


class HealthSettings(Group):
    """When a replica is not ready."""

    max_stall: Seconds = Field(
        default=60.0,
        description="Longest time without progress before the replica is not ready: no event in hand was settled, or "
        "the replica did not look for more.",
    )
    max_outage: Seconds = Field(
        default=60.0,
        description="Longest time that PostgreSQL or Kafka may be away before the replica is not ready.",
    )


class LogSettings(Group):
    """What is logged, and in which format."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        default="info", description="Lowest level that is logged. No level logs one line per event."
    )
    format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` otherwise."
    )


class SegmentSettings(Group):
    """The partitions of `event` and `delivery`, and how long delivered events are kept."""

    ids: Count = Field(default=5_000_000, description="Number of ids per segment.")
    ahead: Count = Field(default=2, description="Number of segments made ahead of the one in use.")
    retention: float = Field(
        default=86_400.0,
        ge=0,
        allow_inf_nan=False,
        description="Time for which a segment is kept after its events were delivered.",
    )
    check_interval: Seconds = Field(
        default=60.0, description="Time between two checks whether segments have to be made or dropped."
    )


def relation_problems(
    kafka: KafkaSettings,
    replica: ReplicaSettings,
    scan: ScanSettings,
    buffer: BufferSettings,
) -> list[str]:
    """Return a sentence for each contradiction between settings: the variables it is about, and what to do."""
    problems: list[str] = checks.kafka_security(kafka.model_dump())

    def refuse(broken: Any, sentence: str) -> None:
        if broken:
            problems.append(sentence)

    # A request still on its way when the lease ends would be answered while another replica owns the lane.
    needed = kafka.request_timeout + checks.LEASE_MARGIN
    refuse(
        replica.lease <= needed,
        f"RELAY_REPLICA_LEASE ({replica.lease:g} s) must be more than RELAY_KAFKA_REQUEST_TIMEOUT plus "
        f"{checks.LEASE_MARGIN:g} s ({needed:g} s); raise the lease or lower the timeout",
    )
    refuse(
        buffer.max_events < scan.batch_events,
        f"RELAY_BUFFER_MAX_EVENTS ({buffer.max_events}) must hold at least one scan, RELAY_SCAN_BATCH_EVENTS "
        f"({scan.batch_events}); raise the buffer or lower the batch",
    )
    refuse(
        scan.busy_interval > scan.idle_interval,
        f"RELAY_SCAN_BUSY_INTERVAL ({scan.busy_interval:g} s) must not be more than RELAY_SCAN_IDLE_INTERVAL "
        f"({scan.idle_interval:g} s); swap them",
    )
    return problems
