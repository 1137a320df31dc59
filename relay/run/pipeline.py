"""The flow on one page: which stage hands events to which.

    scan, sweep ──► gate ───────────► publish ──► Kafka
                     │                   ▲           │
                     │  resume ──────────┤           ├─ refused ──► failures
                     │  republish ───────┘      acknowledged           │
                     │ held                          │                 │
                     ▼                               │                 │
                  outcomes ◄─────────────────────────┴─────────────────┘
                     │
                     ▼
                  settle ──► PostgreSQL

Timers put scheduled events into PostgreSQL when they are due, where the scan finds them as it finds all others.
Resume and republish enter behind the gate: nothing stands before their events any more. Claim says which lanes all this
is done for, and housekeeping works beside it. What is in Kafka's hands, and what became of it, must not be forgotten
with a lost connection, so publish and what follows it outlive a tenure (`Lasting`); all else is made anew with each
(`Pipeline`).

Nothing here decides or waits. Every box is a room in relay/stages.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from relay.decide.chores import CHECK
from relay.decide.reconciling import Mode
from relay.decide.room import Room
from relay.retry import Backoff
from relay.stages.claim.claim import Claim
from relay.stages.hold.resume import Resume
from relay.stages.housekeeping.housekeeping import Chore, Housekeeping
from relay.stages.housekeeping.survey import SURVEY, Survey
from relay.stages.reconcile.reconcile import Reconcile
from relay.stages.republish.republish import Republish
from relay.stages.scan.reads import LaneReads
from relay.stages.scan.scan import Scan
from relay.stages.scan.sweep import Sweep
from relay.stages.scan.unreadable import Unreadable
from relay.stages.settle.settle import Settle
from relay.stages.tenure import Tenure
from relay.stages.timers.timers import Timers

if TYPE_CHECKING:
    from relay.run.connections import Connections
    from relay.run.lasting import Lasting
    from relay.settings import Settings
    from relay.telemetry import Telemetry


class Pipeline:
    """One tenure's flow, on its connections."""

    def __init__(self, *, lasting: Lasting, connections: Connections, settings: Settings, telemetry: Telemetry) -> None:
        publish, gate, outcomes = lasting.publish, lasting.gate, lasting.outcomes
        self._lasting = lasting
        self.tenure = tenure = Tenure(Room(settings.buffer.max_events, settings.buffer.max_bytes))
        self.reads = reads = LaneReads(tenure, gate.take)
        self.claim = Claim(
            port=connections.control,
            tenure=tenure,
            on_claimed=reads.lane_needs_sweep,
            settings=settings.replica,
            totals=lasting.totals,
            telemetry=telemetry,
            cannot_publish=lasting.cannot_publish,
            on_paused=publish.pauses.obey,
            register=(
                partial(lasting.notes.register, connections.notes) if lasting.notes and connections.notes else None
            ),
        )
        self.reconcile = Reconcile(
            connect=connections.open_reconcile,
            kafka=lasting.kafka,
            tenure=tenure,
            mode=Mode(settings.replica.reconcile),
            most_bytes=settings.replica.reconcile_max_bytes,
            request_timeout=settings.kafka.request_timeout,
            can_publish=lambda: lasting.cannot_publish() is None,
            backoff=Backoff(random.random, first=0.2, most=5.0),
            telemetry=telemetry,
        )
        self.scan = Scan(
            port=connections.scan,
            reads=reads,
            settings=settings.scan,
            telemetry=telemetry,
            unreadable=Unreadable(connections.scan, tenure, lasting.failures.fail_unread),
        )
        self.sweep = Sweep(
            port=connections.sweep,
            reads=reads,
            settings=settings.scan,
            telemetry=telemetry,
            unreadable=Unreadable(connections.sweep, tenure, lasting.failures.fail_unread),
        )
        self.settle = Settle(
            port=connections.settle, outcomes=outcomes, tenure=tenure, settings=settings.settle, telemetry=telemetry
        )
        chores = [Chore(CHECK, partial(lasting.check.look, connections.housekeeping), settings.segment.check_interval)]
        if settings.survey.interval:
            survey = Survey(telemetry)
            chores.append(Chore(SURVEY, partial(survey.look, connections.housekeeping), settings.survey.interval))
        self.housekeeping = Housekeeping(
            port=connections.housekeeping,
            replica=tenure.replica,
            settings=settings.segment,
            telemetry=telemetry,
            more=chores,
        )
        self.resume = Resume(
            port=connections.resume,
            tenure=tenure,
            outcomes=outcomes,
            hand_in=publish.hand_in,
            try_anew=publish.forget_limits,
            settings=settings.scan,
            replays_may_be_over=self.housekeeping.finish_replays_soon,
        )
        self.timers = Timers(
            port=connections.timers,
            tenure=tenure,
            since_scan=reads.since_look,
            on_moved=reads.look_at_once,
            settings=settings.timers,
            telemetry=telemetry,
        )
        self.republish = Republish(
            connect=connections.open_republish,
            tenure=tenure,
            republished=lasting.republished,
            hand_in=publish.hand_in_with_origins,
            withdraw=publish.topics.withdraw,
            buffer=settings.buffer,
            publish=settings.publish,
            backoff=Backoff(random.random, first=1.0, most=30.0),
            telemetry=telemetry,
        )

    def open(self) -> None:
        """Let events through: the gate and publish work for this tenure from now on."""
        self._lasting.gate.serve(self.tenure, self._lasting.publish.hand_in)
        self._lasting.publish.serve(self.tenure)
