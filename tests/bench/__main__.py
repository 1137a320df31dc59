"""`python -m tests.bench <name>`: each benchmark is a command, found in a module of this package when asked for."""

from __future__ import annotations

import click

from relay.cli.lazy import LazyGroup

COMMANDS = {
    "drain": ("drain:drain_command", "Drain a backlog with one replica: speed, cost, memory."),
    "compare": ("compare:compare_command", "This relay, a naive one and Debezium Server, side by side."),
    "writers": ("writers:writers_command", "What the outbox costs the transactions that write to it."),
    "enqueue": ("enqueue:enqueue_command", "The library for writers on each client, against the same by hand."),
    "memory": ("memory:memory_command", "Memory while draining a small and a large backlog."),
    "held-snapshot": ("drain:held_snapshot_command", "The same beside an old REPEATABLE READ transaction."),
    "latency": ("latency:latency_command", "Commit to consumer, at a rate and when idle most of the time."),
    "late-commit": ("late:late_commit_command", "New events behind a long and a large transaction."),
    "idle": ("idle:idle_command", "What a relay with nothing to do costs."),
    "timers": ("timers:timers_command", "Scheduled events: speed, punctuality, what they cost others."),
    "segments": ("segments:segments_command", "Old segments are dropped: how long writers wait."),
    "outage": ("outage:outage_command", "Kafka is killed and comes back."),
    "soak": ("soak:soak_command", "A steady rate for a long time: does anything grow?"),
    "bad-event": ("failures:bad_event_command", "What one event that Kafka refuses costs the others."),
    "refused-events": ("failures:refused_events_command", "How fast events fail that Kafka refuses, and others go on."),
    "missing-topic": ("failures:missing_topic_command", "What a topic that does not exist costs the others."),
    "profile": ("profiles:profile_command", "Where the relay's time goes."),
    "scale": ("scale:scale_command", "One, two and eight replicas, and two far from the broker."),
    "against": ("against:against_command", "This code and that of an earlier commit, side by side."),
    "all": ("everything:all_command", "All of them; --quick for a first look."),
    "readme": (
        "everything:readme_command",
        "Put what all --json FILE kept into the documents.",
    ),
}
"""Where each command is, as module:name, and its help."""


@click.group(
    cls=LazyGroup,
    table={name: (f"tests.bench.{place}", text) for name, (place, text) in COMMANDS.items()},
    heading="Benchmarks",
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
def main() -> None:
    """Measure the relay on real servers that are started for it.

    Every benchmark prints a table; --json FILE writes what it found as JSON (- for stdout), --picture FILE draws it.
    """


if __name__ == "__main__":
    main()
