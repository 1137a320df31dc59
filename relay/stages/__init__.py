"""The stages of the flow, in its order; `relay/run/pipeline.py` shows how they are joined.

    claim         which lanes this replica owns, and for how long
    scan          reads the next pending events of those lanes
    hold          the gate that events pass or wait at; resumes what waited
    publish       queues per partition, and the producers that empty them
    settle        records what became of events
    republish     delivered events once more, because a person asked
    timers        scheduled events into the outbox when they are due
    housekeeping  segments, and what is over; beside the flow

    tenure        what all of them share for as long as the connections live

Each stage is a short loop around decisions of relay/decide, and says in its `ports.py` what it needs of PostgreSQL or
Kafka. Which stage may know which stands in `.importlinter`.
"""
