"""The settings of the stages through which an event goes, a group for each."""

from __future__ import annotations

import os
import socket
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from relay.decide.admission import Admission
from relay.decide.cloud_events import CloudEvents
from relay.decide.failing import Policy, Rule  # noqa: TC001 pydantic reads the annotation
from relay.decide.topic_rates import Rates
from relay.names import TOPIC_CHARACTERS
from relay.settings import checks, patterns
from relay.settings.group import LARGEST, Count, Group, Seconds, lower


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


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
    reconcile: Annotated[Literal["auto", "off", "require"], BeforeValidator(lower)] = Field(
        default="auto",
        description="What happens when a replica ends without handing over its lanes. `auto` looks in Kafka for what "
        "it had published, as well as rights and cluster allow, so that nothing is published twice. `require` waits "
        "where that cannot be done. `off` publishes again what has no receipt.",
    )
    reconcile_max_bytes: int = Field(
        default=1_073_741_824,
        ge=1_048_576,
        le=LARGEST,
        description="Maximum number of bytes of each partition that are looked through then. What lies behind is "
        "published again.",
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


class TimersSettings(Group):
    """How scheduled events enter the outbox."""

    interval: Annotated[Seconds, Field(le=60)] = Field(
        default=0.2, description="Minimum pause between looks for events that were scheduled meanwhile."
    )
    batch_events: Annotated[Count, Field(le=100_000)] = Field(
        default=500, description="Maximum number of scheduled events that one transaction moves into the outbox."
    )


class BufferSettings(Group):
    """The bounds of the events that are read and not yet settled. The relay's memory grows with them."""

    max_events: Count = Field(default=8_000, description="Maximum number of events between scan and receipt.")
    max_bytes: int = Field(
        default=33_554_432,
        ge=1_048_576,
        le=LARGEST,
        description="Maximum size of all events between scan and receipt.",
    )


class SettleSettings(Group):
    """How receipts are written."""

    batch_events: Count = Field(default=5_000, description="Maximum number of receipts that one statement writes.")


class PublishSettings(Group):
    """How fast one replica may publish; no limit by default."""

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
    limits: Annotated[str, AfterValidator(patterns.limits)] = Field(
        default="",
        description="Maximum rates of single topics, by pattern, in events or bytes per second, of this replica: "
        "`orders=500/s,audit.*=2MB/s`. Each topic that matches has the rate for itself; the first match counts.",
    )

    def rates(self, buffer: BufferSettings) -> Rates:
        """The limits of topics as publishing needs them, which may take a part of the buffer."""
        return Rates(patterns.rates(self.limits), buffer.max_events, buffer.max_bytes)


class FailureSettings(Group):
    """What happens to an event that Kafka does not take, and to the later events of its key."""

    policy: Annotated[Policy, BeforeValidator(lower)] = Field(
        default="block",
        description="What happens after an event fails. `block` holds back the later events of its key until a replay "
        "or discard, `skip` publishes them, `dead-letter` publishes them and sends the event to a dead-letter topic.",
    )
    policies: Annotated[str, AfterValidator(patterns.policies)] = Field(
        default="",
        description="Policies of single topics, by pattern; the first match counts: `audit.*=skip,orders=dead-letter`. "
        "Of single errors as well, which count before those of all errors: `orders:EventTooLarge=dead-letter`.",
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

    def rules(self) -> list[Rule]:
        """The policies of topics and errors, in their order."""
        return patterns.rules(self.policies)


class TopicSettings(Group):
    """Which topics events may go to, and whether missing ones are created."""

    allow: Annotated[str, AfterValidator(patterns.topics)] = Field(
        default="*",
        min_length=1,
        description="Topics that events may go to, as patterns: `orders,billing.*`. Events for other topics fail.",
    )
    deny: Annotated[str, AfterValidator(patterns.topics)] = Field(
        default="__*",
        description="Topics that no event may go to, even if they are allowed. Kafka's own topics begin with `__`.",
    )
    create: bool = Field(default=False, description="Whether the relay creates topics that do not exist.")
    partitions: Count = Field(default=12, description="Number of partitions of topics that the relay creates.")
    replication: Annotated[Count, Field(le=32_767)] = Field(
        default=3, description="Replication factor of topics that the relay creates."
    )

    def admission(self) -> Admission:
        """Which topics events may go to."""
        return Admission(patterns.split(self.allow), patterns.split(self.deny))


class CloudEventsSettings(Group):
    """Which topics' records are CloudEvents 1.0 (in the binary mode of its Kafka binding); none by default."""

    sources: Annotated[str, patterns.attributes("orders=/shop/orders,billing.*=https://billing.example.com")] = Field(
        default="",
        description="Topics whose records are CloudEvents, by pattern, each with their attribute `source`; the first "
        "match counts: `orders=/shop/orders,billing.*=https://billing.example.com`.",
    )
    types: Annotated[str, patterns.attributes("orders=com.example.order")] = Field(
        default="",
        description="The attribute `type` of events that have no type, by topic pattern. Not set: the topic's name.",
    )
    content_types: Annotated[str, patterns.attributes("audit.*=text/plain,*=application/json")] = Field(
        default="*=application/json",
        description="The attribute `datacontenttype` of events without a header `content-type`, by topic pattern.",
    )
    extensions: Annotated[str, AfterValidator(patterns.extensions)] = Field(
        default="*",
        description="Headers that are extension attributes as well, as patterns: `tenant,trace*`. Only names of "
        "lower-case letters and digits can be.",
    )

    def rules(self, dead_letter_suffix: str) -> CloudEvents:
        """The settings as publishing needs them."""
        return CloudEvents(
            patterns.by_pattern(self.sources),
            patterns.by_pattern(self.types),
            patterns.by_pattern(self.content_types),
            patterns.split(self.extensions),
            dead_letter_suffix,
        )
