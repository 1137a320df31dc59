"""What the models have in common: a schedule that makes the choices, and the order in which keys' events committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tests.support.models.simulated_postgres import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relay.event import PendingEvent

T = TypeVar("T")


class EndOfSchedule(Exception):  # noqa: N818 how playing a schedule ends
    """There is no number left to choose by."""


class Scheduled:
    """A model that is played by a schedule: numbers, each of which makes one choice."""

    _schedule: Iterator[int]

    def _number(self, below: int) -> int:
        for number in self._schedule:
            return number % below
        raise EndOfSchedule

    def _pick(self, among: list[T]) -> T:
        return among[self._number(len(among))]


def check_comes_in_order(event: PendingEvent, order: Sequence[int], came: dict[bytes, int], what: str) -> None:
    """Note that an event is `what` now. Raises Violation if one that committed before it was not so before.

    `order` has the ids of the key's events in the order in which they committed; `came` counts, for each key, how many
    of them came, repeats apart.
    """
    assert event.key is not None
    before = came.get(event.key, 0)
    if event.id in order[:before]:
        return
    if order[before] != event.id:
        raise Violation(f"{event.id} is {what} before {order[before]}, which committed first")
    came[event.key] = before + 1
