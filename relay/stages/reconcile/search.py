"""Fences the producers of a replica that ended, reads what they left, and writes the receipts."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from relay.decide import reconciling
from relay.stages.reconcile.notes import UNNAMED
from relay.stages.reconcile.ports import Finished, Found, Place, Tail, Trouble, TroubleKind, UnfenceableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.decide.reconciling import Mode, Reason
    from relay.stages.reconcile.ports import DeadReplica, KafkaReconcilePort, ReconcilePort
    from relay.telemetry import Telemetry

FENCE_SECONDS = 10.0
"""Seconds that fencing one producer may take."""

SETTLED_AT_ONCE = 5_000
"""Records whose receipts one transaction writes, about."""


class Search:
    """One replica's partitions, until each of them is read or given up."""

    def __init__(
        self,
        *,
        port: ReconcilePort,
        kafka: KafkaReconcilePort,
        dead: DeadReplica,
        mode: Mode,
        most_bytes: int,
        request_timeout: float,
        out_of_patience: Callable[[], bool],
        telemetry: Telemetry,
    ) -> None:
        """`out_of_patience` says whether the lanes have waited long enough for what does not work now."""
        self._out_of_patience = out_of_patience
        self._port = port
        self._kafka = kafka
        self._dead = dead
        self._mode = mode
        self._most_bytes = most_bytes
        self._request_timeout = request_timeout
        self._telemetry = telemetry
        self.left = {
            Place(topic, number): offset
            for topic, offsets in dead.tails.items()
            for number, offset in enumerate(offsets)
            if offset >= 0
        }
        """The partitions that are not read yet, and from where on."""
        self.partitions = len(self.left)
        self.found = 0
        """Events whose receipts were written."""
        self.bytes = 0
        self._waited_for_answers = False
        self._no_marker_yet: set[Place] = set()
        self._said: dict[Place, str] = {}
        """Why a partition could not be read at the last try."""

    @property
    def waits_for(self) -> str:
        """Why what is left could not be read at the last try, for people."""
        first = next((self._said[place] for place in sorted(self.left) if place in self._said), "")
        return f"{first} (and {len(self.left) - 1:,} more)" if len(self.left) > 1 else first

    async def once(self) -> None:
        """Fence and read all that is left; what does not work stays. Raises RelayError when nothing works."""
        self._said.clear()
        fenced, unmarked = await self._fence()
        await self._read(
            [
                Tail(place, begin, reconciling.ends(self._dead.producers, fenced, unmarked, place))
                for place, begin in self.left.items()
                if place not in self._no_marker_yet
            ]
        )

    def give_up(self, reason: Reason) -> None:
        """Go on without what is left: it is published again, in order."""
        for place in list(self.left):
            self._give_up(place, reason, self._said.get(place) or "it could not be read in time")
        self.left.clear()

    async def _fence(self) -> tuple[dict[str, tuple[int, int]], dict[Place, set[str]]]:
        """Fence each producer; return the markers of each, and the producers that have none in a partition."""
        fenced: dict[str, tuple[int, int]] = {}
        unmarked: dict[Place, set[str]] = {}
        unfenced: list[Trouble] = []
        self._no_marker_yet.clear()
        for name in self._dead.producers:
            if name.startswith(UNNAMED):
                unfenced.append(Trouble(TroubleKind.UNSUPPORTED, f"{name} was not connected so that it can be fenced"))
                continue
            try:
                fence = await self._kafka.fence(name, list(self.left), FENCE_SECONDS)
            except UnfenceableError as error:
                if reconciling.fate(error.trouble.kind.value, self._mode).again and not self._out_of_patience():
                    raise
                unfenced.append(error.trouble)
                continue
            fenced[name] = fence.producer
            for place, trouble in fence.unfenced.items():
                self._unfenced(place, name, trouble, unmarked)
        unfenced += [
            Trouble(TroubleKind.UNSUPPORTED, f"Kafka has forgotten the transactional id {name}")
            for name in reconciling.forgotten(self._dead.producers, fenced)
        ]
        if unfenced:
            await self._wait_for_answers(unfenced)
        return fenced, unmarked

    def _unfenced(self, place: Place, name: str, trouble: Trouble, unmarked: dict[Place, set[str]]) -> None:
        if trouble.kind is TroubleKind.GONE:
            self.left.pop(place, None)
        elif trouble.kind is TroubleKind.WAITS:
            self._no_marker_yet.add(place)
            self._said[place] = trouble.said
        else:
            # Without the right to write there: it is read as it is.
            unmarked.setdefault(place, set()).add(name)

    async def _wait_for_answers(self, troubles: list[Trouble]) -> None:
        """Without a fence, batches may arrive as long as brokers answer those that were sent before the lease ended."""
        if self._waited_for_answers:
            return
        self._waited_for_answers = True
        self._telemetry.emit("reconcile.gave_up", topic="", partition=-1, reason="unfenced", error=troubles[0].said)
        await asyncio.sleep(self._request_timeout)

    async def _read(self, tails: list[Tail]) -> None:
        waiting: dict[str, list[Found]] = {}
        records = 0
        async with aclosing(self._kafka.read(tails, self._most_bytes)) as reading:  # type: ignore[type-var]
            async for each in reading:
                if isinstance(each, Found):
                    waiting.setdefault(each.place.topic, []).append(each)
                    records += len(each.events)
                if records >= SETTLED_AT_ONCE or (isinstance(each, Finished) and records):
                    await self._settle(waiting)
                    waiting, records = {}, 0
                if isinstance(each, Finished):
                    self._finished(each)
        await self._settle(waiting)

    async def _settle(self, found: dict[str, list[Found]]) -> None:
        for topic, its in found.items():
            new = await self._port.settle_found(self._dead.replica, topic, its)
            self.found += new
            self._telemetry.emit("reconcile.found", events=new)

    def _finished(self, finished: Finished) -> None:
        self.bytes += finished.bytes
        trouble = finished.trouble
        if trouble is None:
            self.left.pop(finished.place, None)
            return
        fate = reconciling.fate(trouble.kind.value, self._mode)
        if fate.again:
            self._said[finished.place] = trouble.said
            return
        self.left.pop(finished.place, None)
        if fate.gave_up is not None:
            self._give_up(finished.place, fate.gave_up, trouble.said)

    def _give_up(self, place: Place, reason: Reason, said: str) -> None:
        self._telemetry.emit(
            "reconcile.gave_up", topic=place.topic, partition=place.partition, reason=reason.value, error=said
        )
